"""What a second task costs the first, and what replay brings back: CLINC150, then BANKING77, by one LoRA adapter.

    python benchmarks/sequential.py [--shares 0 0.01 0.03 0.05] [--per-label 8] [--tests 150 100] [--epochs 3]

Reads clinc150/data_full.json.gz (Larson et al. 2019, CC BY 3.0) and banking77/train.csv and test.csv (Casanueva et al.
2020, CC BY 4.0) from the folder TUNESMITH_TEST_DATA, by default shared/data beside the repository. SmolLM2-135M learns
some examples of each of the 150 intents, then of each of the 77, with replay of the first as a share of the second's
examples; every label's likelihood is scored for every test example, which is most of the time. All shares start from
one first stage, trained once. Intervals are of the same test examples under both ways of training.

Target: replay brings back 80 % or more of what was forgotten without it, for a point or less of the second task; or
intervals that show that it did not. About 40 minutes on two cores. What is done is kept in runs/: stopped and started
again with the same arguments, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m-instruct"
HELD_OUT = 100  # validation examples of each
TASKS = {
    "clinc150": "Name the intent of the request to an assistant. Answer with its label only.",
    "banking77": "Name the topic of the message to a bank. Answer with its label only.",
}
KEPT, LOST = 0.8, 0.01  # share brought back, points of the second task
Rows = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.01, 0.03, 0.05], help="the first must be 0")
    parser.add_argument("--per-label", type=int, default=8, help="training examples of each label")
    parser.add_argument("--tests", type=int, nargs=2, default=[150, 100], help="test examples of each data set")
    parser.add_argument("--epochs", type=float, default=3)
    arguments = parser.parse_args()
    if arguments.shares[0] != 0:
        parser.error("--shares: the first must be 0, what the others are compared with")
    sizes = f"{arguments.per_label}-{arguments.tests[0]}-{arguments.tests[1]}-{arguments.epochs:g}"
    folder = REPOSITORY / "runs" / f"sequential-{sizes}"
    write_data(folder / "data", arguments.per_label, arguments.tests)
    runs = {share: folder / f"replay-{share:g}" for share in arguments.shares}
    reports = {share: one(share, run, runs[0.0], folder / "data", arguments.epochs) for share, run in runs.items()}
    write_result("sequential", {
        "model": MODEL, "per_label": arguments.per_label, "tests": arguments.tests, "epochs": arguments.epochs,
        "retention": {str(share): report["retention"] for share, report in reports.items()},
        "replayed": {str(share): sum(r["stages"][1]["replayed"].values()) for share, r in reports.items()},
        "train_seconds": {str(share): r["stages"][1]["train_seconds"] for share, r in reports.items()},
        "recovery": {str(share): recovered(runs[0.0], runs[share]) for share in arguments.shares[1:]},
    })  # fmt: skip


def one(share: float, folder: Path, first: Path, data: Path, epochs: float) -> dict[str, Any]:
    """Run or finish both stages with a share of replay; the first stage is that of the run without."""
    from tunesmith.config import Stages, parse_any_config
    from tunesmith.run import Run
    from tunesmith.schedules import run
    from tunesmith.workflow import start

    config = parse_any_config({
        "model": MODEL, "method": "lora", "candidates": ["baseline"], "forgetting": "off", "joint": False,
        "stages": [
            {"name": name, "task": {"kind": "classification", "instruction": words},
             "data": {part: str(data / f"{name}-{part}.jsonl") for part in ("train", "validation", "test")},
             "replay": share if name == "banking77" else 0.0}
            for name, words in TASKS.items()
        ],
        "train": {"epochs": epochs},
    })  # fmt: skip
    assert isinstance(config, Stages)
    if folder != first and not (folder / "candidates").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        start(config, Run(folder), "")
        own = shutil.ignore_patterns("after__2-*", "report.*", ".lock", "test_looks.jsonl")
        shutil.copytree(first / "stages", folder / "stages", ignore=own)
        shutil.copytree(first / "candidates", folder / "candidates", ignore=shutil.ignore_patterns("stage__2-*"))
    return run(config, folder, lambda stage, done, total, _: say(f"replay {share:g}: {stage}", done, total))


def recovered(first: Path, second: Path) -> dict[str, Any]:
    """How much of what was forgotten without replay is kept with it, and what that cost the second task."""
    from tunesmith.evaluate.retention import recovery
    from tunesmith.schedules.stages import stage_answers

    found = recovery(stage_answers(first), stage_answers(second), np.random.default_rng(0))
    reached = found.share is not None and found.share.value >= KEPT and found.last_task.value >= -LOST
    return {**found.to_json(), "reached": reached}


def write_data(folder: Path, per_label: int, tests: list[int]) -> None:
    """Draw the examples of both data sets, the same every time."""
    with gzip.open(test_data("clinc150") / "data_full.json.gz", "rt", encoding="utf-8") as file:
        clinc = json.load(file)
    banking = {
        part: [(row["text"].strip(), row["category"]) for row in read_csv(test_data("banking77") / f"{part}.csv")]
        for part in ("train", "test")
    }
    asked = {text.lower() for text, _ in banking["test"]}
    drawn: dict[str, tuple[Rows, Rows, Rows]] = {
        "clinc150": (clinc["train"], clinc["val"], clinc["test"]),
        "banking77": ([row for row in banking["train"] if row[0].lower() not in asked], [], banking["test"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for (name, (train, validation, test)), n in zip(drawn.items(), tests, strict=True):
        train, test = shuffled(train), shuffled(test)
        chosen: Rows = []
        rest: Rows = []
        seen = Counter[str]()
        for text, label in train:
            (chosen if seen[label] < per_label else rest).append((text, label))
            seen[label] += 1
        parts = {"train": chosen, "validation": (shuffled(validation) or rest)[:HELD_OUT], "test": test[:n]}
        for part, rows in parts.items():
            lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
            (folder / f"{name}-{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shuffled(rows: Rows) -> Rows:
    return random.Random(0).sample(rows, len(rows))


said = [""]


def say(stage: str, done: float, total: float) -> None:
    """A line for each new thing that is done."""
    if stage != said[0]:
        said[0] = stage
        print(stage, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
