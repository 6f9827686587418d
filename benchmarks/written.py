"""What the benchmarks of tasks that write text have in common: the base model asked against the base model tuned."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import Run, read_config, run
from tunesmith.evaluate.compare import compare, metric_interval
from tunesmith.run import read_examples, read_predictions

BASE = "prompt/zero-shot"
SHOWN = 5  # answers side by side, the first by example id, which is a hash
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def base_against_tuned(project: str, overrides: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Run a project of examples/; every candidate's metrics, tuned minus base, paired, and some of the answers."""
    config = read_config(EXAMPLES / project, tuple(overrides))
    with tempfile.TemporaryDirectory() as scratch:
        report = run(config, Path(scratch) / "run")
        directory = Run(Path(scratch) / "run")
        entries = {entry["id"]: entry for entry in report["candidates"] if entry["status"] == "ok"}
        found = {name: read_predictions(directory.candidate(name) / "predictions.parquet") for name in entries}
        asked = {e.id: e.prompt[-1].content for e in read_examples(directory.split("test"))}
    tuned = next(name for name in entries if name.startswith("tune/"))
    differences = {}
    for metric in metrics:
        gain = compare(found[tuned], found[BASE], metric, np.random.default_rng(2))
        differences[metric] = {
            "difference": gain.difference, "low": gain.low, "high": gain.high, "p_value": gain.p_value, "n": gain.n,
        }  # fmt: skip
    beside = sorted(zip(found[tuned], found[BASE], strict=True), key=lambda pair: pair[0].example_id)[:SHOWN]
    return {
        "project": project, "overrides": list(overrides), "model": config.model,
        "train": report["data"]["train"], "test": report["data"]["test"],
        "candidates": {
            name: {
                "metrics": {
                    metric: metric_interval(found[name], metric, np.random.default_rng(1)).to_json()
                    for metric in metrics
                },
                "train_seconds": entry["train_seconds"], "trainable_parameters": entry["trainable_parameters"],
                "seconds_per_example": entry["seconds_per_example"],
                "truncated": sum(p.truncated for p in found[name]),
            }
            for name, entry in entries.items()
        },
        "tuned_minus_base": differences,
        "verdict": report["verdict"],
        "answers": [
            {"asked": asked[a.example_id], "right": a.target, "tuned": a.prediction, "base": b.prediction}
            for a, b in beside
        ],
    }  # fmt: skip
