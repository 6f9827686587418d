"""The Hugging Face hub and its cache, with the user's own HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.

What is in the cache is used as it is; the network is asked only for what is not there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

from tunesmith.errors import ConfigError, NotFoundError, SourceError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Weights only as safetensors; never code, pickles, or the same weights in another framework's format.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_UNWANTED = ["onnx/*", "openvino/*", "original/*", "coreml/*", "*/checkpoint-*"]


def find_model(repository: str) -> Path | None:
    """A model's snapshot in the hub's cache, if it is there whole. Touches no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    _check_name(repository)
    try:
        folder = Path(snapshot_download(
            repository, local_files_only=True, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        ))  # fmt: skip
    except LocalEntryNotFoundError:
        return None
    return folder if _has_weights(folder) else None


def fetch_model(repository: str) -> Path:
    """A model's folder in the hub's cache, downloaded if it is not there.

    Args:
        repository: ``owner/name``.

    Raises:
        ConfigError: If the name is not of that form.
        NotFoundError: If the hub has no such repository, or this machine is offline and the cache lacks it.
        SourceError: If the download failed, or the repository has no safetensors.
    """
    found = find_model(repository)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except Exception as error:
        _explain(error, f"hf:{repository}")
    if not _has_weights(folder):
        raise SourceError(f"hf:{repository}: has no safetensors weights. Only those are loaded; convert it first.")
    return folder


def fetch_file(source: str) -> Path:
    """A file of a data set repository, ``owner/name/path/in/repo``; from the cache, else downloaded."""
    owner, _, rest = source.partition("/")
    name, _, path = rest.partition("/")
    _check_name(f"{owner}/{name}")
    if not path or ".." in path.split("/"):
        raise ConfigError(
            f"hf:{source}: names no file. Expected hf:owner/name/path/in/the/repository, such as "
            "hf:owner/name/data/train.parquet."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = f"{owner}/{name}"
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset"))
    except Exception as error:
        _explain(error, f"hf:{source}")


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise ConfigError(f"hf:{repository}: expected hf:owner/name, as in the repository's address on the hub.")


def _has_weights(folder: Path) -> bool:
    """Whether config and every safetensors file is there: an interrupted download may lack some."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return all((folder / str(name)).is_file() for name in names)


def _explain(error: Exception, source: str) -> NoReturn:
    """Turn what the hub's client raised into one of our sentences."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    copy = "Fetch it on a machine with a network and copy HF_HOME, or give a local path."
    if isinstance(error, GatedRepoError):
        text = f"{source}: its owner asks for consent. Accept the terms on the hub and set HF_TOKEN."
        raise SourceError(text) from error
    if constants.HF_HUB_OFFLINE:
        raise NotFoundError(f"{source}: not in the hub's cache, and HF_HUB_OFFLINE is set. {copy}") from error
    if isinstance(error, LocalEntryNotFoundError):
        raise NotFoundError(f"{source}: not in the hub's cache, and the hub cannot be reached. {copy}") from error
    if isinstance(error, RepositoryNotFoundError | EntryNotFoundError):
        text = f"{source}: not on the hub, or private. Check the name, or set HF_TOKEN."
        raise NotFoundError(text) from error
    # HTTPError comes from httpx or httpx2, as the hub's version has it.
    if isinstance(error, errors.HTTPError | OSError):  # type: ignore[attr-defined]
        said = " ".join(str(error).split())[:300]
        raise SourceError(f"{source}: the download failed ({said}). {copy}") from error
    raise error
