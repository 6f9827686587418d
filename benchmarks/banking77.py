"""The embedding candidate against a plain scikit-learn script on the same vectors: BANKING77, original split.

    python benchmarks/banking77.py

Reads banking77/train.csv and test.csv (text, category; Casanueva et al. 2020, CC BY 4.0) from the folder
TUNESMITH_TEST_DATA, by default shared/data beside the repository. Our side is the whole path of ``tunesmith run``
with the candidates baseline and embedding. The plain side reads the files with csv and fits LogisticRegression on all
training rows, C chosen on a tenth of them. The vectors are those of the same encoder. Also counted: test texts that
stand in the training file as well. Exits with 1 if the two differ by more than a point or known overlaps are missed.
Takes about five minutes on two cores.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

POINT = 0.01
ENCODER = "minilm-l6"


def main() -> None:
    folder = test_data("banking77")
    train, test = _rows(folder / "train.csv"), _rows(folder / "test.csv")
    equal = {text.strip() for text, _ in train} & {text.strip() for text, _ in test}
    ours = _ours(folder)
    plain = _plain(train, test)
    difference = ours["accuracy"] - plain["accuracy"]
    result = {
        "ours": ours, "plain": plain, "difference": round(difference, 4),
        "overlaps": {"equal_after_strip": len(equal), "found_by_tunesmith": ours.pop("overlaps")},
    }  # fmt: skip
    missed = sorted(equal - ours.pop("overlapping_texts"))
    write_result("banking77", {**result, "reached": abs(difference) <= POINT and not missed})
    if abs(difference) > POINT or missed:
        sys.exit(f"difference {difference:+.4f} (at most {POINT}); overlaps that were missed: {missed}")


def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def _ours(folder: Path) -> dict[str, Any]:
    """Accuracy of the candidate as ``tunesmith run`` judges it, and what it says of overlaps."""
    from tunesmith import parse_config, run
    from tunesmith.data.read import read_examples
    from tunesmith.data.split import find_overlaps

    config = parse_config({
        "task": "classification", "candidates": ["baseline", "embedding"], "encoder": ENCODER,
        "data": {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")},
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        report = run(config, Path(scratch) / "run")
    entry = next(c for c in report["candidates"] if c["id"] == f"embedding/{ENCODER}")
    files = [read_examples(folder / f"{part}.csv", "classification", part=part) for part in ("train", "test")]
    pairs = find_overlaps(files[0].examples, files[1].examples)
    leakage = [f for f in report["data"]["findings"] if f["check"] == "split_leakage"]
    return {
        "accuracy": entry["metrics"]["accuracy"]["value"],
        "low": entry["metrics"]["accuracy"]["low"], "high": entry["metrics"]["accuracy"]["high"],
        "n": entry["metrics"]["accuracy"]["n"],
        "predictor": entry["details"]["predictor"], "C": entry["details"].get("C"),
        "train": report["data"]["train"], "validation": report["data"]["validation"],
        "train_rows_dropped_as_leakage": sum(f["count"] for f in leakage), "train_seconds": entry["train_seconds"],
        "overlaps": len(pairs), "overlapping_texts": {(test.text or "").strip() for test, _ in pairs},
    }  # fmt: skip


def _plain(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> dict[str, Any]:
    """LogisticRegression on all training rows; C chosen on a tenth."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    from tunesmith.model.embed import embed, load_encoder
    from tunesmith.sources import resolve_model

    encoder = load_encoder(resolve_model(ENCODER))
    x, x_test = (embed(encoder, [text for text, _ in rows])[0] for rows in (train, test))
    y, y_test = (np.array([label for _, label in rows]) for rows in (train, test))
    x_fit, x_held, y_fit, y_held = train_test_split(x, y, test_size=0.1, random_state=0, stratify=y)
    tried = {
        c: LogisticRegression(C=c, max_iter=1000).fit(x_fit, y_fit).score(x_held, y_held)
        for c in (1.0, 3.0, 10.0, 30.0, 100.0)
    }
    best = max(tried, key=lambda c: tried[c])
    accuracy = LogisticRegression(C=best, max_iter=1000).fit(x, y).score(x_test, y_test)
    return {"accuracy": float(accuracy), "C": best, "train": len(train)}


if __name__ == "__main__":
    main()
