"""The folder everything fetched is kept in, and how files get there: whole, and by one process at a time.

    TUNESMITH_HOME/            default ~/.cache/tunesmith
      models/<name>/           model folders, each with a manifest.json
      wheels/<name>-<version>-<hash>/   files taken out of wheels
      wheels.json              hash of every wheel taken without a pin, from its first use
      digests/                 sha256 of files already read, by path, size and time of change
      locks/, building/        one lock and one building folder a target

What a killed process left lies in ``building/`` only, is never read, and goes when its target is built next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import SourceError

log = logging.getLogger(__name__)


def home() -> Path:
    """The cache folder: TUNESMITH_HOME, default ~/.cache/tunesmith. It may not exist yet."""
    return Path(os.environ.get("TUNESMITH_HOME") or "~/.cache/tunesmith").expanduser().absolute()


@contextlib.contextmanager
def locked(key: str, what: str) -> Iterator[None]:
    """Hold the lock of one target. A second process waits here; the lock of a killed one is free at once."""
    try:
        folder = home() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / f"{key}.lock").open("a")
    except OSError as error:
        raise disk_error(error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise disk_error(error) from error
            log.info("%s: another process is fetching it; waiting.", what)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(key: str) -> Iterator[Path]:
    """An empty folder to build a target in, gone afterwards whatever happens.

    To be used under the target's lock. What an interrupted process left under the same key is removed first.
    """
    folder = home() / "building" / key
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise disk_error(error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(built: Path, target: Path) -> None:
    """Move a finished file or folder to its place: on disk first, then visible, in one step.

    A damaged folder that stands there already goes to the building folder, to be removed with it.
    """
    for path in sorted(built.rglob("*"), reverse=True) if built.is_dir() else []:
        _sync(path)
    _sync(built)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        target.rename(built.with_name(f"old-{uuid.uuid4().hex[:8]}"))
    built.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file that a reader sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The value of a JSON file; None when it is absent or not JSON: a cache that cannot be read is empty."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def file_sha256(path: Path) -> str:
    """sha256 of a file, computed once for every path, size and time of change.

    The results are kept under TUNESMITH_HOME where that can be written.
    Reading costs about a second a gigabyte.
    """
    status = path.stat()
    known = home() / "digests" / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]}.json"
    key = [str(path.absolute()), status.st_size, status.st_mtime_ns]
    stored = read_json(known)
    if isinstance(stored, dict) and stored.get("key") == key and isinstance(stored.get("sha256"), str):
        return str(stored["sha256"])
    digest = read_sha256(path)
    with contextlib.suppress(OSError):
        write_json(known, {"key": key, "sha256": digest})
    return digest


# What changes a model's outputs; a README or a picture beside it does not.
_MEANINGFUL = (".safetensors", ".json", ".jinja", ".txt", ".model")


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that stand for a model folder: its weights, settings, tokenizer and template."""
    lines = [
        f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n"
        for path in sorted(folder.rglob("*"))
        if path.suffix in _MEANINGFUL and path.is_file() and path.name != "manifest.json"
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def write_manifest(folder: Path, recipe: dict[str, Any]) -> None:
    """Write manifest.json: what the folder was made from, and name, size and sha256 of every file."""
    files = [
        {
            "name": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": read_sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    write_json(folder / "manifest.json", {"format_version": 1, "recipe": recipe, "files": files})


def read_sha256(path: Path) -> str:
    """sha256 of a file, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a folder was made by this recipe and is as its manifest says; a damaged file is logged."""
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("recipe") != recipe:
        return False
    for file in manifest["files"]:
        path = folder / file["name"]
        if not path.is_file() or path.stat().st_size != file["size"] or file_sha256(path) != file["sha256"]:
            log.warning("%s: not as its manifest says; it will be fetched again.", path)
            return False
    return True


def disk_error(error: OSError) -> SourceError:
    """A cache folder that is full or cannot be written, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SourceError(f"{home()}: the disk is full. Free some space, or set TUNESMITH_HOME to another folder.")
    return SourceError(
        f"{error.filename or home()}: cannot be written ({error.strerror or error}). "
        "Set TUNESMITH_HOME to a folder you can write to."
    )
