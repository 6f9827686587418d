"""Every candidate on one task with 77 labels, as ``tunesmith run`` judges them: prompts, vectors, SetFit, fine-tuning.

    python benchmarks/ladder.py [--test 10] [--train N]

BANKING77, read as in banking77.py, with TEST test texts of each label, so that prompts, which compare 77 labels for
every text, take minutes and not hours. Shows who wins where labels are many and examples too. Takes about an hour on
one thread.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from environment import test_data, write_result

from tunesmith import parse_config, run

SETTINGS = {
    "task": "classification", "candidates": ["baseline", "prompt", "embedding", "setfit", "tune"],
    "model": "smollm2-135m-instruct", "method": "lora", "train": {"epochs": 1},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=int, default=10, help="test texts of each label")
    parser.add_argument("--train", type=int, help="training texts; default: all")
    arguments = parser.parse_args()
    folder = test_data("banking77")
    with tempfile.TemporaryDirectory() as scratch:
        test = _sample(folder / "test.csv", arguments.test, Path(scratch) / "test.csv")
        data = {"train": str(folder / "train.csv"), "test": str(test), "validation_size": 385}
        if arguments.train:
            data["train_limit"] = arguments.train
        report = run(parse_config({**SETTINGS, "data": data}), Path(scratch) / "run")
    write_result("ladder", {
        "data": {part: report["data"][part] for part in ("train", "validation", "test")},
        "candidates": [
            {
                "id": c["id"], "status": c["status"], "reason": c.get("reason"),
                "accuracy": c.get("metrics", {}).get("accuracy"), "train_seconds": c.get("train_seconds"),
                "seconds_per_example": c.get("seconds_per_example"), "peak_memory_bytes": c.get("peak_memory_bytes"),
            }
            for c in report["candidates"]
        ],
        "comparisons": [c for c in report["comparisons"] if report["verdict"]["choice"] in (c["a"], c["b"])],
        "verdict": report["verdict"],
    })  # fmt: skip


def _sample(file: Path, of_each: int, target: Path) -> Path:
    """A file with ``of_each`` rows of every label, drawn with one seed."""
    with file.open(encoding="utf-8", newline="") as rows:
        by_label: dict[str, list[str]] = defaultdict(list)
        for row in csv.DictReader(rows):
            by_label[row["category"]].append(row["text"])
    rng = random.Random(0)
    with target.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "category"])
        for label, texts in sorted(by_label.items()):
            writer.writerows([text, label] for text in rng.sample(texts, min(of_each, len(texts))))
    return target


if __name__ == "__main__":
    main()
