"""Checkpoints that are whole or absent, and proved so before they are used.

Written into a temporary folder; every file flushed to disk; a manifest with sizes and sha256 last; then one rename.
Reading verifies the manifest; a folder that does not hold to it is set aside as ``corrupt-…`` and the one before is
used, which the caller is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.errors import RunError
from tunesmith.run import disk_error

MANIFEST = "manifest.json"
FILES = {"trainable.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}
KEEP = 2  # besides the best one


def save_checkpoint(
    folder: Path,
    step: int,
    trainable: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> Path:
    """Write ``folder/step-NNNNNN``; returns it. ``state`` must be JSON; it is what the loop needs to go on."""
    temporary = folder / f".tmp-{uuid.uuid4().hex[:8]}"
    final = folder / f"step-{step:06d}"
    try:
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(
            {k: p.detach().contiguous() for k, p in _untied(trainable).items()},
            temporary / "trainable.safetensors",
        )
        save_file(_optimizer_tensors(optimizer, trainable), temporary / "optimizer.safetensors")
        save_file({"torch": torch.get_rng_state()}, temporary / "random.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        files = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        for name in files:
            _sync(temporary / name)
        (temporary / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
        _sync(temporary / MANIFEST)
        _sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error if isinstance(error, OSError) else OSError(28 if "space" in str(error) else 5, str(error))
        raise disk_error(cause, final) from error
    return final


def prune_checkpoints(folder: Path, best_step: int | None) -> None:
    """Delete all but the best and the last ``KEEP``; renamed first, so that none is ever half deleted in place."""
    for path in _folders(folder)[:-KEEP]:
        if best_step is None or path.name != f"step-{best_step:06d}":
            trash = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}")
            try:
                path.rename(trash)
            except OSError as error:
                raise disk_error(error, path) from error
            shutil.rmtree(trash, ignore_errors=True)


def find_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that holds to its manifest, and a sentence for each that did not."""
    problems: list[str] = []
    for path in reversed(_folders(folder)):
        problem = verify_checkpoint(path)
        if problem is None:
            return path, problems
        aside = path.with_name(f"corrupt-{path.name}-{uuid.uuid4().hex[:4]}")
        path.rename(aside)
        problems.append(f"checkpoint {path.name} is damaged ({problem}); set aside as {aside.name}.")
    return None, problems


def verify_checkpoint(path: Path) -> str | None:
    """None if every file is there and as its sha256 says, else what is wrong."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    if not isinstance(files, dict) or set(files) != FILES:
        return f"{MANIFEST} does not list {', '.join(sorted(FILES))}"
    for name, expected in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != expected:
            return f"{name} does not match its sha256"
    return None


def load_checkpoint(
    path: Path, trainable: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put weights, optimizer and random state back; returns the loop's state."""
    load_weights(path, trainable)
    moments = load_file(path / "optimizer.safetensors")
    names = {id(parameter): name for name, parameter in trainable.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if f"{name}/exp_avg" in moments:
                optimizer.state[parameter] = {
                    key: moments[f"{name}/{key}"].to("cpu" if key == "step" else parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
    torch.set_rng_state(load_file(path / "random.safetensors")["torch"])
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def load_weights(path: Path, trainable: Mapping[str, torch.nn.Parameter]) -> None:
    """Put the trained weights of a checkpoint into the model."""
    weights = load_file(path / "trainable.safetensors")
    expected = _untied(trainable)
    if set(weights) != set(expected):
        raise RunError(f"{path}: written for another model or method. Use a new run directory.")
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != weights[name].shape:
                raise RunError(f"{path}: {name} has another shape. The run was started with other settings.")
            parameter.copy_(weights[name])


def _untied(trainable: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    """Each parameter once, under its first name."""
    seen: dict[int, str] = {}
    return {n: p for n, p in trainable.items() if seen.setdefault(id(p), n) == n}


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter in _untied(trainable).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
