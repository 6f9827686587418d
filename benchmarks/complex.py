"""How complex is a word in its sentence? Heads on two backbones against the word's frequency: CompLex, single words.

    python benchmarks/complex.py [--parts minilm-l6,smollm2-135m-instruct] [--out FOLDER] [--limit N]

Reads complex_regression/lcp_single_train.tsv and lcp_single_test.tsv (sentence, token, complexity from 0 to 1; Shardlow
et al. 2020, CC BY 4.0) from the folder TUNESMITH_TEST_DATA, by default shared/data beside the repository. The model
reads "token: sentence". The baseline is a line through the logarithm of the word's frequency and its length, counted
in the passages of BoolQ that the probe suites bring; where the package wordfreq is installed, its frequencies are taken
instead. Each part is a run of ``head`` and, for the small encoder, ``gradual`` beside the embedding candidate;
differences of Pearson's correlation are paired by test example. Ten minutes a part on two cores. Exits with 1 if no
candidate beats the baseline. Runs are kept in ``--out``, so that what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

METHODS = {"minilm-l6": ["head", "gradual"], "smollm2-135m-instruct": ["head"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs") / "complex")
    parser.add_argument("--limit", type=int, help="training examples, for a trial")
    chosen = parser.parse_args()
    folder = test_data("complex_regression")
    rows = {part: _rows(folder / f"lcp_single_{part}.tsv") for part in ("train", "test")}
    frequency, source = _frequency()
    predicted = _by_frequency(rows["train"], rows["test"], frequency)
    missed = []
    for part in chosen.parts.split(","):
        result = _run(part, rows, chosen.out, chosen.limit, predicted)
        write_result(f"complex-{part}", {**result, "frequencies": source})
        missed += [] if result["reached"] else [part]
    if missed:
        sys.exit(f"no candidate beats the word's frequency: {', '.join(missed)}")


def _rows(path: Path) -> list[tuple[str, str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        found = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["token"], row["sentence"], float(row["complexity"])) for row in found]


# ── the baseline ─────────────────────────────────────────────────────────────────────────────────────────
def _frequency() -> tuple[Callable[[str], float], str]:
    """Logarithm of a word's frequency, and where it comes from."""
    try:
        from wordfreq import zipf_frequency
    except ImportError:
        from tunesmith.evaluate.suites import read_suite

        passages = (item.options[0] for item in read_suite("general-text").items)
        counts = Counter(word for text in passages for word in re.findall(r"[a-z]+", text.lower()))
        return (lambda word: math.log(1 + counts[word.lower()])), f"counts over {counts.total():,} words of passages"
    return (lambda word: float(zipf_frequency(word, "en"))), "wordfreq"


def _by_frequency(train: Any, test: Any, frequency: Callable[[str], float]) -> np.ndarray:
    def table(rows: Any) -> np.ndarray:
        return np.array([[1.0, frequency(token), len(token)] for token, _, _ in rows])

    weights, *_ = np.linalg.lstsq(table(train), np.array([target for _, _, target in train]), rcond=None)
    found: np.ndarray = table(test) @ weights
    return found


# ── the candidates ───────────────────────────────────────────────────────────────────────────────────────
def _run(model: str, rows: Any, out: Path, limit: int | None, predicted: np.ndarray) -> dict[str, Any]:
    from tunesmith import parse_config, run
    from tunesmith.measures.regression import pearson_statistic
    from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
    from tunesmith.run import Run, read_examples, read_predictions

    files = {}
    for part, found in rows.items():
        files[part] = out / f"{part}.csv"
        out.mkdir(parents=True, exist_ok=True)
        with files[part].open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "complexity"])
            writer.writerows((f"{token}: {sentence}", target) for token, sentence, target in found)
    config = parse_config({
        "task": "regression", "model": model, "method": METHODS[model], "candidates": ["embedding", "tune"],
        "data": {"train": str(files["train"]), "test": str(files["test"]), "label": "complexity", "train_limit": limit},
    })  # fmt: skip
    place = Run(out / f"{model}{f'-{limit}' if limit else ''}")
    report = run(config, place.folder, lambda stage, done, total, _: None if total else print(stage, file=sys.stderr))
    by_text = {
        f"{token}: {sentence}": value for (token, sentence, _), value in zip(rows["test"], predicted, strict=True)
    }
    test = read_examples(place.split("test"))
    targets = np.array([float(e.label or "nan") for e in test])
    baseline = np.stack([np.array([by_text[e.text or ""] for e in test]), targets], axis=1)
    rng = np.random.default_rng
    result: dict[str, Any] = {
        "model": model, "n": len(test),
        "frequency": bootstrap_interval(baseline, pearson_statistic, rng=rng(0)).to_json(),
    }  # fmt: skip
    gains = []
    for entry in report["candidates"]:
        if entry["status"] != "ok":
            sys.exit(f"{place.folder}: {entry['id']} failed: {entry['reason']}")
        answers = read_predictions(place.candidate(entry["id"]) / "predictions.parquet")
        values = np.stack([np.array([float(p.prediction) for p in answers]), targets], axis=1)
        found = paired_bootstrap(values, baseline, statistic=pearson_statistic, rng=rng(0))
        gains.append(found.difference)
        result[entry["id"]] = {
            "pearson": entry["metrics"]["pearson"], "mae": entry["metrics"]["mae"], "seconds": entry["train_seconds"],
            "over_frequency": {k: round(float(v), 5) for k, v in found._asdict().items()},
        }  # fmt: skip
    return {**result, "reached": max(gains) > 0}


if __name__ == "__main__":
    main()
