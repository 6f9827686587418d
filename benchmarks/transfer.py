"""Transfer learning on BANKING77: a published linear probe again, then the methods beside each other.

    python benchmarks/transfer.py [--parts probe,8,32,full] [--out FOLDER] [--draws 3]

Reads banking77/train.csv and test.csv (text, category; Casanueva et al. 2020, CC BY 4.0) from the folder
TUNESMITH_TEST_DATA, by default shared/data beside the repository. Everything is judged on the original test file.

- ``probe``: logistic regression (scikit-learn, at most 100 iterations) on MiniLM's vectors of 8 examples a label, the
  mean of 10 draws: the protocol of MTEB, whose published accuracy is 0.80042. A minute.
- ``8``, ``32``: ``tunesmith run`` with the methods head, gradual and full on MiniLM and the embedding candidate,
  on three draws of so many examples a label, a tenth of them held out for validation. 20 and 60 minutes on two cores.
- ``full``: the same on the whole training file, once. Two hours.

Runs are kept in ``--out``, so that what was interrupted goes on, and a part that is complete costs nothing again.
Differences are paired by test example, each example's score being the mean over the draws. Exits with 1 if the probe
is more than 0.01 off, or if where measured gradual does not beat head or is worse than full by more than the margin.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

PUBLISHED, TOLERANCE, DRAWS = 0.80042, 0.01, 10
ENCODER = "minilm-l6"
METHODS = ("head", "gradual", "full")
MARGIN = 0.01  # a difference below one point does not matter here
Rows = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="probe,8,32,full")
    parser.add_argument("--out", type=Path, default=Path("runs") / "transfer")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    chosen = parser.parse_args()
    folder = test_data("banking77")
    methods = chosen.methods.split(",")
    for part in chosen.parts.split(","):
        if part == "probe":
            result = _probe(_rows(folder / "train.csv"), _rows(folder / "test.csv"))
        else:
            result = _methods(folder, part, chosen.out, chosen.draws, methods)
        write_result(f"transfer-{part}", result)
        if not result["reached"]:
            sys.exit(f"{part}: the target was missed: {result}")


def _rows(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def _draw(rows: Rows, each: int, seed: int) -> Rows:
    """``each`` rows of every label, or all it has."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng([seed, each]).permutation(len(rows)):
        by_label[rows[index][1]].append(int(index))
    return [rows[i] for i in sorted(i for places in by_label.values() for i in places[:each])]


# ── the published probe ──────────────────────────────────────────────────────────────────────────────────
def _probe(train: Rows, test: Rows) -> dict[str, Any]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from tunesmith.model.embed import embed, load_encoder
    from tunesmith.sources import resolve_model

    encoder = load_encoder(resolve_model(ENCODER))
    vectors = dict(zip((text for text, _ in train), embed(encoder, [text for text, _ in train])[0], strict=True))
    held = embed(encoder, [text for text, _ in test])[0]
    scores = []
    for seed in range(DRAWS):
        drawn = _draw(train, 8, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are the protocol's
            fitted = LogisticRegression(max_iter=100).fit([vectors[t] for t, _ in drawn], [label for _, label in drawn])
        scores.append(float(fitted.score(held, [label for _, label in test])))
    mean = float(np.mean(scores))
    return {
        "accuracy": round(mean, 5), "spread": round(float(np.std(scores)), 5), "published": PUBLISHED, "draws": DRAWS,
        "reached": abs(mean - PUBLISHED) <= TOLERANCE,
    }  # fmt: skip


# ── the methods beside each other ────────────────────────────────────────────────────────────────────────
def _methods(folder: Path, part: str, out: Path, draws: int, methods: Sequence[str]) -> dict[str, Any]:
    from tunesmith import parse_config, run
    from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
    from tunesmith.run import Run, read_predictions

    scores: dict[str, list[np.ndarray]] = defaultdict(list)
    details: dict[str, list[Any]] = defaultdict(list)
    for seed in range(1 if part == "full" else draws):
        train = folder / "train.csv" if part == "full" else _write_draw(folder, out, int(part), seed)
        config = parse_config({
            "task": "classification", "model": ENCODER, "encoder": ENCODER, "method": list(methods), "seed": seed,
            "candidates": ["embedding", "tune"], "data": {"train": str(train), "test": str(folder / "test.csv")},
        })  # fmt: skip
        place = Run(out / f"{part}-{seed}")
        report = run(config, place.folder, _told)
        for entry in report["candidates"]:
            if entry["status"] != "ok":
                sys.exit(f"{place.folder}: {entry['id']} failed: {entry['reason']}")
            name = entry["id"].rsplit("/", 1)[1] if entry["id"].startswith("tune/") else "embedding"
            answers = read_predictions(place.candidate(entry["id"]) / "predictions.parquet")
            scores[name].append(np.array([float(p.prediction == p.target) for p in answers]))
            details[name].append({
                "accuracy": round(entry["metrics"]["accuracy"]["value"], 4), "seconds": entry["train_seconds"],
                "steps": entry.get("overfitting", {}).get("last_step"),
            })  # fmt: skip
    means = {name: np.mean(rows, axis=0) for name, rows in scores.items()}
    result: dict[str, Any] = {"part": part, "draws": details}
    for name, values in means.items():
        result[name] = bootstrap_interval(values, rng=np.random.default_rng(0)).to_json()
    for other in ("head", "full", "embedding"):
        if {"gradual", other} <= means.keys():
            found = paired_bootstrap(means["gradual"], means[other], rng=np.random.default_rng(0))
            result[f"gradual - {other}"] = {k: round(float(v), 5) for k, v in found._asdict().items()}
    result["reached"] = all((
        result.get("gradual - head", {"difference": 1.0})["difference"] > 0,
        result.get("gradual - full", {"difference": 1.0})["difference"] > -MARGIN,
    ))  # fmt: skip
    return result


def _write_draw(folder: Path, out: Path, each: int, seed: int) -> Path:
    file = out / f"train-{each}-{seed}.csv"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "category"])
            writer.writerows(_draw(_rows(folder / "train.csv"), each, seed))
    return file


def _told(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    if total == 0:
        print(stage, file=sys.stderr)


if __name__ == "__main__":
    main()
