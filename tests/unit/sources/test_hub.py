"""The hub's cache, laid out by hand; the network is never there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import hub, resolve_file, resolve_model

REVISION = "0" * 40


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, and the client offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def snapshot(cache: Path, repository: str, files: dict[str, bytes]) -> Path:
    folder = cache / repository / "snapshots" / REVISION
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    refs = cache / repository / "refs"
    refs.mkdir()
    (refs / "main").write_text(REVISION)
    return folder


def test_a_cached_model_needs_no_network(hub_cache: Path) -> None:
    folder = snapshot(hub_cache, "models--o--n", {"config.json": b"{}", "model.safetensors": b"w"})
    assert resolve_model("hf:o/n").path == hub.find_model("o/n") == folder


def test_a_cached_file_needs_no_network(hub_cache: Path) -> None:
    folder = snapshot(hub_cache, "datasets--o--n", {"data/train.csv": b"a"})
    assert resolve_file("hf:o/n/data/train.csv") == folder / "data/train.csv"


def test_a_half_downloaded_model_is_not_there(hub_cache: Path) -> None:
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index, "1.safetensors": b"w"}
    folder = snapshot(hub_cache, "models--o--n", files)
    assert hub.find_model("o/n") is None
    (folder / "2.safetensors").write_bytes(b"w")
    assert hub.find_model("o/n") == folder


@pytest.mark.parametrize("source", ["hf:o/n", "hf:o/n/a.csv"])
def test_absent_and_offline_is_said_with_what_to_do(source: str) -> None:
    with pytest.raises(NotFoundError, match=r"not in the hub's cache, and HF_HUB_OFFLINE is set.*copy HF_HOME"):
        resolve_model(source) if source == "hf:o/n" else resolve_file(source)


@pytest.mark.parametrize("source", ["hf:n", "hf:o/n", "hf:o/n/../../etc/passwd"])
def test_a_file_must_be_named(source: str) -> None:
    with pytest.raises(ConfigError, match="hf:owner/name"):
        resolve_file(source)


def response_error(kind: Any) -> Exception:
    client = sys.modules[errors.HTTPError.__module__.partition(".")[0]]  # httpx or httpx2, by the hub's version
    request = client.Request("GET", "https://hub.test")
    return kind("said by the hub", response=client.Response(403, request=request))


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (
            lambda: response_error(errors.GatedRepoError),
            SourceError,
            "Accept the terms on the hub and set HF_TOKEN",
        ),
        (lambda: response_error(errors.RepositoryNotFoundError), NotFoundError, "not on the hub, or private"),
        (lambda: response_error(errors.HfHubHTTPError), SourceError, "the download failed .*said by the hub"),
        (lambda: errors.LocalEntryNotFoundError("x"), NotFoundError, "the hub cannot be reached"),
        (lambda: ConnectionResetError("reset"), SourceError, "the download failed .*reset"),
    ],
)
def test_what_the_client_raises_becomes_a_sentence(
    error: Any, expected: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "find_model", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(expected, match=text):
        hub.fetch_model("o/n")


def test_weights_that_are_only_pickle_are_not_a_model(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_model", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(hub_cache))
    with pytest.raises(SourceError, match="no safetensors weights"):
        hub.fetch_model("o/n")
