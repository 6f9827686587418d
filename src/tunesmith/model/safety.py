"""Whether a model folder may be loaded: no code, no pickle, nothing outside the folder, nothing cut off."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, NotFoundError

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
# Such as `_attn_implementation_internal`, through which a config once made transformers fetch and run code.
_INTERNAL = re.compile(r"_.*_internal")


def check_model_folder(path: Path) -> None:
    """Refuse a model folder that is damaged or could do harm when loaded.

    Looked for: weights only as pickle, or none; a safetensors file that is cut off or whose header does not
    fit it; an index that names anything but a file beside it; ``auto_map`` and Python files (code that would
    run); private ``_…_internal`` settings; links that leave the folder (those of a hub snapshot to its own
    blobs are fine); a config or tokenizer that is missing or not JSON. Reads headers only: milliseconds.

    Raises:
        NotFoundError: If there is no such folder.
        ModelError: With every reason, one a line.
    """
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder. A model is a folder with config.json and safetensors files.")
    reasons: list[str] = []
    _check_files(path, reasons)
    _check_weights(path, reasons)
    config = _read_json(path / "config.json", reasons)
    if config is None and not (path / "config.json").is_file():
        reasons.append("config.json is missing")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
                 "generation_config.json"):  # fmt: skip
        value = config if name == "config.json" else _read_json(path / name, reasons)
        for key in sorted(set(_keys(value))):
            if key == "auto_map":
                reasons.append(f"{name} has 'auto_map': it asks for code from the folder or the hub to be run")
            elif _INTERNAL.fullmatch(key):
                reasons.append(f"{name} sets '{key}', which is private to transformers")
    sees_only = (path / "preprocessor_config.json").is_file()  # an image encoder reads no text
    if not sees_only and not any((path / name).is_file() for name in _TOKENIZERS):
        reasons.append(f"no tokenizer (one of {', '.join(_TOKENIZERS)})")
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise ModelError(f"{path}: this model folder is not loaded. Mend it, or get the model anew.\n{listed}")


def _check_files(folder: Path, reasons: list[str]) -> None:
    root = folder.resolve()
    # The hub's cache: models--owner--name/{blobs,snapshots/<revision>}; a snapshot links to its own blobs.
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    for place, folders, files in os.walk(folder, followlinks=False):
        for name in sorted(folders) + sorted(files):
            file = Path(place) / name
            shown = file.relative_to(folder)
            if file.is_symlink():
                target = file.resolve()
                if not target.is_relative_to(root) and not (blobs is not None and target.parent == blobs):
                    reasons.append(f"{shown} is a link that leaves the folder")
                elif not target.exists():
                    reasons.append(f"{shown} is a link to nothing")
            if file.suffix == ".py":
                reasons.append(f"{shown} is Python code; models are loaded without running any")


def _check_weights(folder: Path, reasons: list[str]) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if not weights and pickles:
        reasons.append(f"weights only as pickle ({', '.join(pickles)}), which runs code when read; use safetensors")
    elif not weights:
        reasons.append("no weights (*.safetensors)")
    for file in weights:
        problem = _safetensors_problem(file)
        if problem:
            reasons.append(f"{file.name}: {problem}")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        value = _read_json(index, reasons)
        names = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(names, dict):
            reasons.append(f"{index.name} has no weight_map")
            continue
        for name in sorted({str(name) for name in names.values()}):
            if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
                reasons.append(f"{index.name} names '{name}', which is not a plain file name")
            elif not (folder / name).is_file():
                reasons.append(f"{index.name} names '{name}', which is not there")


def _safetensors_problem(file: Path) -> str | None:
    """What is wrong with a safetensors file, from its header and size; None when they agree."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if length < 2 or length > min(size - 8, _MAX_HEADER_BYTES):
                return "cut off, or not a safetensors file (its header is longer than the file)"
            header = json.loads(stream.read(length))
        spans = []
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                if end - begin != math.prod(tensor["shape"]) * _BYTES[tensor["dtype"]]:
                    return f"tensor '{name}' has not the size of its shape"
                spans.append((begin, end))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its header is damaged, or uses a data type that is not known"
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            return "its tensors overlap or leave gaps"
        reached = end
    held = size - 8 - length
    if reached != held:
        return f"its tensors take {reached:,} bytes but the file holds {held:,}: cut off, or something added"
    return None


def _read_json(file: Path, reasons: list[str]) -> Any:
    """The value of a JSON file; None when it is absent, or when it is not JSON, which is a reason."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        reasons.append(f"{file.name} is not JSON")
        return None


def _keys(value: Any) -> list[str]:
    """Every key of nested JSON."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found.extend(node)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return found
