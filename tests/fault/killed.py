"""Runs a project in children that kill themselves, resumes each, and prints what came out as one JSON object.

    python killed.py CONFIG FOLDER POINTS

POINTS is a JSON list: ``["training", 3]`` kills at the listener's third call of a stage whose name holds "training",
``["fsync", 5]`` at the fifth time a file is flushed to disk, ``null`` never. Children are forked from one process, so
that what takes long to import is imported once.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  # by pyarrow, where it is installed
import torch
import transformers.generation.utils
import transformers.models.llama.modeling_llama  # noqa: F401

import tunesmith
from tunesmith import workflow
from tunesmith.candidates.candidate import Listener
from tunesmith.model.quantise import import_peft
from tunesmith.run import read_predictions

import_peft()
torch.set_num_threads(1)
workflow.measure_sgemm = lambda: 5e10


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(point: list[Any] | None) -> Listener:
    """A listener that kills the process at the point; for fsync, the call itself does."""
    seen = [0]
    stage_wanted, n = point or ("", 0)

    def count() -> None:
        seen[0] += 1
        if seen[0] == n:
            die()

    if stage_wanted == "fsync":
        real = os.fsync

        def fsync(handle: int) -> None:
            count()
            real(handle)

        os.fsync = fsync

    def listener(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
        if stage_wanted != "fsync" and stage_wanted and stage_wanted in stage:
            count()

    return listener


def in_child(config: Path, folder: Path, point: list[Any] | None) -> int:
    """Run in a forked child; returns how it ended, as os.waitstatus_to_exitcode does."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            tunesmith.run(tunesmith.read_config(config), folder, killer(point))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def outcome(folder: Path) -> dict[str, Any]:
    """Hashes of everything that must not depend on where a run was killed."""
    found: dict[str, Any] = {"half written": [str(p) for p in folder.rglob(".*") if p.name != ".lock"]}
    for candidate in sorted((folder / "candidates").iterdir()):
        weights = candidate / "adapter" / "adapter_model.safetensors"
        if weights.is_file():
            found[f"{candidate.name} weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        answers = [
            (p.example_id, p.prediction, p.target, p.score, p.nll, p.probabilities)
            for p in read_predictions(candidate / "predictions.parquet")
        ]
        found[f"{candidate.name} predictions"] = hashlib.sha256(repr(answers).encode()).hexdigest()
        evaluation = json.loads((candidate / "evaluation.json").read_text())
        found[f"{candidate.name} numbers"] = [evaluation["metrics"], evaluation["tokens_trained"]]
        found[f"{candidate.name} overfitting"] = evaluation["overfitting"]
    return found


def main() -> None:
    config, folder, points = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    results = []
    for i, point in enumerate(points):
        run = folder / str(i)
        first = in_child(config, run, point)
        second = in_child(config, run, None)
        results.append({"point": point, "first": first, "second": second, **outcome(run)})
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
