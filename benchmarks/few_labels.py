"""A sentence encoder tuned on few labels (setfit) beside the same encoder frozen: what the texts are about, and tone.

    python benchmarks/few_labels.py

Reads, from the folder TUNESMITH_TEST_DATA, by default shared/data beside the repository: banking77/train.csv and
test.csv (Casanueva et al. 2020, CC BY 4.0), of which ten labels are drawn, 8 texts of each to train on; and
uci_sentiment_sentences/*_labelled.txt (Kotzias et al. 2015, CC BY 4.0), 16 sentences of each of two labels. Half as
many more validate; BANKING77 is tested on its test texts of those labels, sentiment on 1,000 other sentences. Exits
with 1 unless the tuned encoder is better on sentiment, by the interval; on BANKING77, whose subjects the encoder knows,
nothing is demanded. Needs the extra setfit; takes about eight minutes on one core.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

ENCODER = "minilm-l6"
Rows = list[tuple[str, str]]


def main() -> None:
    parts = {"sentiment": (*_sentiment(), 16), "banking77": (*_banking77(), 8)}
    result: dict[str, Any] = {}
    for name, (train, test, each) in parts.items():
        result[name] = _compare(train, test, each)
        print(name, result[name], file=sys.stderr)
    reached = result["sentiment"]["difference"]["low"] > 0
    write_result("few_labels", {**result, "reached": reached})
    if not reached:
        sys.exit(f"sentiment: the tuned encoder is not shown to be better: {result['sentiment']['difference']}")


def _banking77() -> tuple[Rows, Rows]:
    folder = test_data("banking77")
    rows = []
    for part in ("train", "test"):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows.append([(row["text"], row["category"]) for row in csv.DictReader(file)])
    ten = set(np.random.default_rng(0).permutation(sorted({label for _, label in rows[0]}))[:10].tolist())
    train, test = ([row for row in part if row[1] in ten] for part in rows)
    return train, test


def _sentiment() -> tuple[Rows, Rows]:
    rows: Rows = []
    for file in sorted(test_data("uci_sentiment_sentences").glob("*_labelled.txt")):
        for line in file.read_text(encoding="utf-8").split("\n"):
            text, _, label = line.rpartition("\t")
            if label.strip() in ("0", "1"):
                rows.append((text.strip(), "good" if label.strip() == "1" else "bad"))
    rows = sorted(set(rows))
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    return mixed[:400], mixed[400:1400]


def _compare(train: Rows, test: Rows, each: int) -> dict[str, Any]:
    """Both candidates on ``each`` texts of every label."""
    from tunesmith import parse_config, run

    by_label: dict[str, Rows] = {}
    for i in np.random.default_rng(0).permutation(len(train)):
        by_label.setdefault(train[i][1], []).append(train[i])
    with tempfile.TemporaryDirectory() as scratch:
        parts = {
            "train": [row for rows in by_label.values() for row in rows[:each]],
            "validation": [row for rows in by_label.values() for row in rows[each : each + each // 2]],
            "test": test,
        }
        for name, rows in parts.items():
            with Path(scratch, f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows])
        config = parse_config({
            "task": "classification", "candidates": ["embedding", "setfit"], "encoder": ENCODER,
            "data": {name: f"{scratch}/{name}.csv" for name in parts},
        })  # fmt: skip
        report = run(config, Path(scratch) / "run")
    found: dict[str, Any] = {"labels": len(by_label), "texts_each": each}
    for entry in report["candidates"]:
        if entry["status"] != "ok":
            sys.exit(f"{entry['id']} failed: {entry['reason']}")
        found[entry["id"]] = {
            "accuracy": entry["metrics"]["accuracy"], "seconds": entry["train_seconds"],
            "best_step": entry["details"].get("best_step"), "overfitting": entry["overfitting"].get("verdict"),
        }  # fmt: skip
    pair = report["comparisons"][0]  # frozen less tuned
    found["difference"] = {
        "value": -pair["difference"], "low": -pair["high"], "high": -pair["low"], "p_value": pair["p_value"],
    }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
