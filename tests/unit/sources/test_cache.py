"""The cache folder: digests, fingerprints, manifests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tunesmith.sources import cache


def test_home_is_the_environments_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", "~/elsewhere")
    assert cache.home() == Path.home() / "elsewhere"
    monkeypatch.delenv("TUNESMITH_HOME")
    assert cache.home() == Path.home() / ".cache" / "tunesmith"


def test_a_digest_is_computed_again_only_when_the_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert cache.file_sha256(file) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "read_sha256", lambda _: pytest.fail("was read again"))
        assert cache.file_sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"other")
    assert cache.file_sha256(file) == hashlib.sha256(b"other").hexdigest()


def test_a_digest_does_not_need_a_writable_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    monkeypatch.setenv("TUNESMITH_HOME", str(file / "home"))
    assert cache.file_sha256(file) == hashlib.sha256(b"one").hexdigest()


def test_a_fingerprint_stands_for_what_a_model_computes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(b"weights")
        (tmp_path / folder / "config.json").write_bytes(b"{}")
    first = cache.fingerprint(tmp_path / "a")
    assert len(first) == 16
    assert first == cache.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "README.md").write_bytes(b"words")
    assert first == cache.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_bytes(b"{ }")
    assert first != cache.fingerprint(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"Weights")
    assert first != cache.fingerprint(tmp_path / "a")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "recipe", "manifest"])
def test_a_damaged_folder_is_not_whole(tmp_path: Path, damage: str) -> None:
    recipe = {"sources": ["toy"]}
    (tmp_path / "sub").mkdir()
    weights = tmp_path / "sub" / "model.safetensors"
    weights.write_bytes(b"weights")
    assert not cache.is_whole(tmp_path, recipe)
    cache.write_manifest(tmp_path, recipe)
    assert cache.is_whole(tmp_path, recipe)
    match damage:
        case "flip":
            weights.write_bytes(b"wEights")
        case "truncate":
            weights.write_bytes(b"weight")
        case "delete":
            weights.unlink()
        case "recipe":
            recipe = {"sources": ["other"]}
        case "manifest":
            (tmp_path / "manifest.json").write_text("{")
    assert not cache.is_whole(tmp_path, recipe)


def test_building_starts_empty_and_leaves_nothing(tmp_path: Path) -> None:
    left = cache.home() / "building" / "toy" / "half"
    left.parent.mkdir(parents=True)
    left.touch()
    with pytest.raises(RuntimeError), cache.building("toy") as work:
        assert list(work.iterdir()) == []
        (work / "half").touch()
        raise RuntimeError
    assert not left.parent.exists()


def test_publishing_replaces_a_damaged_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with cache.building("toy") as work:
        (work / "made" / "sub").mkdir(parents=True)
        (work / "made" / "sub" / "new").touch()
        cache.publish(work / "made", target)
    assert [p.name for p in target.rglob("*")] == ["sub", "new"]
