"""What every benchmark's result says of where it was measured, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tunesmith", "torch", "transformers", "peft", "scikit-learn", "numpy", "trl")


def test_data(name: str) -> Path:
    """The folder ``name`` of TUNESMITH_TEST_DATA, by default shared/data beside the repository; exits if absent."""
    repository = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("TUNESMITH_TEST_DATA") or repository.parent / "shared" / "data") / name
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder. Set TUNESMITH_TEST_DATA to the folder that holds {name}/.")
    return folder


def environment() -> dict[str, Any]:
    """Machine and versions; ``load`` is the mean number of running processes over the last minute."""
    from tunesmith.hardware import detect

    machine = detect()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": machine.cpu_name, "cores": machine.usable_cores, "memory_bytes": machine.memory_bytes,
        "accelerators": [a.name for a in machine.accelerators], "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }  # fmt: skip


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write ``results/<name>.json`` with the environment, and print the same on one line."""
    whole = {"benchmark": name, **result, "environment": environment()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(whole, ensure_ascii=False))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
