"""Whether the interval for twice the data holds the truth as often as it says: real learning curves and synthetic.

    python benchmarks/learning_curve.py [--runs 40] [--parts banking77,polarity,sarcasm,synthetic]

Real: BANKING77 (Casanueva et al. 2020, CC BY 4.0), nltk_sentence_polarity (Pang and Lee 2005, CC BY 4.0), both from the
folder TUNESMITH_TEST_DATA, by default shared/data beside the repository, and the headlines of examples/sarcasm.yaml.
Texts are embedded once. Each run draws a pool, as many further examples again, and a validation part of 400; it fits
the embedding candidate's predictor on nested subsets of the pool, and asks the curve what the doubled pool will score
on the same validation part. Then that is trained. The curve's own back-tests, on the pool alone, are counted beside it.

Synthetic: curves of each law with parameters drawn at random, and scores on nested subsets of a pool whose examples
help more or less by chance. What the curve says of twice the data is held against a training on it.

Target: of the 80 % intervals 70 to 90 % hold the truth, on each of the three and on the synthetic curves. Exits with 1
if not. About 35 minutes on one thread, most of them BANKING77's.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from environment import test_data, write_result

from tunesmith.measures.learning_curve import SCORE_LAWS, Point, back_tests, fit_curve
from tunesmith.records import Example
from tunesmith.search.learning_curve import nested_subsets, subset_sizes

ENCODER = "minilm-l6"
VALIDATION, DRAWS = 400, 4
POOLS = {"banking77": 1232, "polarity": 1280, "sarcasm": 1280}
SARCASM = "pypi:evals==3.0.1.post1/evals/registry/data/sarcasm/samples.jsonl"
LOW, HIGH = 0.7, 0.9
SYNTHETIC = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--parts", default="banking77,polarity,sarcasm,synthetic")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    found: dict[str, Any] = {name: real(name, chosen.runs) for name in POOLS if name in parts}
    if "synthetic" in parts:
        found["synthetic"] = synthetic()
    shares = {name: part["doubled"]["inside"] / part["doubled"]["tests"] for name, part in found.items()}
    reached = all(LOW <= share <= HIGH for share in shares.values())
    write_result("learning_curve", {**found, "coverage": shares, "target": [LOW, HIGH], "reached": reached})
    if not reached:
        sys.exit(f"coverage {shares}: expected {LOW} to {HIGH}")


# ── real ─────────────────────────────────────────────────────────────────────────────────────────────────
def real(name: str, runs: int) -> dict[str, Any]:
    """What the curves of many pools said of the doubled pool, and what that scored."""
    vectors, labels = _vectors(name)
    said, own = [], []
    for run in range(runs):
        points, truth = measure(vectors, labels, POOLS[name], np.random.default_rng([run, 7]))
        rng = np.random.default_rng(run)
        predicted = fit_curve(points, POOLS[name], rng).predict(2 * POOLS[name])
        said.append((predicted, truth, points[-1].scores[0]))
        own += back_tests(points, POOLS[name], rng)
        print(f"{name} {run + 1}/{runs}: {predicted} seen {truth:.3f}", file=sys.stderr, flush=True)
    return {"pool": POOLS[name], "doubled": _summary(said), "own_back_tests": {
        "tests": len(own), "inside": sum(test.inside for test in own),
        "mean_width": float(np.mean([t.predicted.high - t.predicted.low for t in own])),
    }}  # fmt: skip


def _summary(said: list[tuple[Any, float, float]]) -> dict[str, Any]:
    errors = np.array([p.value - truth for p, truth, _ in said])
    return {
        "tests": len(said), "inside": sum(p.low <= truth <= p.high for p, truth, _ in said),
        "mean_width": float(np.mean([p.high - p.low for p, *_ in said])),
        "mean_error": float(errors.mean()), "mean_absolute_error": float(np.abs(errors).mean()),
        "mean_absolute_error_of_no_gain": float(np.mean([abs(last - truth) for _, truth, last in said])),
    }  # fmt: skip


def measure(vectors: np.ndarray, labels: np.ndarray, pool: int, rng: np.random.Generator) -> tuple[list[Point], float]:
    """Scores on subsets of a pool, and the score of twice the pool."""
    order = rng.permutation(len(labels))
    held, examples = order[:VALIDATION], order[VALIDATION : VALIDATION + 2 * pool]
    train = [Example(f"text:{i}", label=str(labels[i])) for i in examples[:pool]]
    sizes = subset_sizes(pool, len(np.unique(labels)))
    draws = [nested_subsets(train, sizes, rng, "classification") for _ in range(DRAWS)]
    points = []
    for k, size in enumerate(sizes):
        chosen = [draw[k] for draw in draws[: 1 if size == pool else DRAWS]]
        places = [np.array([int(e.source.partition(":")[2]) for e in subset]) for subset in chosen]
        scores = [_score(vectors, labels, part, held) for part in places]
        mean = min(max(float(np.mean(scores)), 0.5 / VALIDATION), 1 - 0.5 / VALIDATION)
        points.append(Point(size, tuple(scores), mean * (1 - mean) / VALIDATION))
    return points, _score(vectors, labels, examples, held)


def _score(vectors: np.ndarray, labels: np.ndarray, train: np.ndarray, held: np.ndarray) -> float:
    from tunesmith.measures.predictor import fit_predictor

    targets = labels[held][:, None]
    outputs = int(labels.max()) + 1
    fit = fit_predictor(vectors[train], labels[train][:, None], vectors[held], targets, "cross_entropy", outputs)
    return float((fit.outputs(vectors[held]).argmax(1) == targets[:, 0]).mean())


def _vectors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and labels of a data set's texts, each text once."""
    from tunesmith.model.embed import embed, load_encoder
    from tunesmith.sources import resolve_model

    rows = dict(_rows(name))
    vectors, _ = embed(load_encoder(resolve_model(ENCODER)), list(rows))
    return vectors, np.unique(list(rows.values()), return_inverse=True)[1]


def _rows(name: str) -> Iterator[tuple[str, str]]:
    if name == "banking77":
        for part in ("train", "test"):
            with (test_data(name) / f"{part}.csv").open(encoding="utf-8", newline="") as file:
                yield from ((row["text"], row["category"]) for row in csv.DictReader(file))
    elif name == "polarity":
        with zipfile.ZipFile(test_data("nltk_sentence_polarity") / "sentence_polarity.zip") as archive:
            for kind in ("pos", "neg"):
                text = archive.read(f"sentence_polarity/rt-polarity.{kind}").decode("latin-1")
                yield from ((line.strip(), kind) for line in text.splitlines() if line.strip())
    else:
        from tunesmith.config import Data
        from tunesmith.data.prepare import read_source

        found = read_source(SARCASM, Data(train=SARCASM), "classification").examples
        yield from ((e.text or "", e.label or "") for e in found[:10_000])


# ── synthetic ────────────────────────────────────────────────────────────────────────────────────────────
def synthetic() -> dict[str, Any]:
    """Curves of every law with known parameters; binomial noise of the draws."""
    said, own = [], []
    pool, sizes = 1600, subset_sizes(1600, 2)
    x = np.array([*sizes, 2 * pool]) / pool
    for run in range(SYNTHETIC):
        rng = np.random.default_rng([run, 8])
        law = SCORE_LAWS[run % len(SCORE_LAWS)]
        parameters = np.array([[rng.uniform(0.2, 1.2), rng.uniform(0.1, 2.0)]])[:, : law.grid.shape[1]]
        shape = law.shape(x, parameters)[0]
        start, gained = rng.uniform(0.4, 0.7), rng.uniform(0.02, 0.25)
        truth = start + gained * (shape[0] - shape) / (shape[0] - shape[-1])
        variance = rng.uniform(0.1, 1.5) * truth * (1 - truth) / VALIDATION
        examples = rng.standard_normal(2 * pool)  # how much each helps by chance

        def score(k: int, chosen: np.ndarray) -> float:
            return float(truth[k] + np.sqrt(variance[k] / len(chosen)) * chosen.sum())  # noqa: B023

        draws = [rng.permutation(examples[:pool]) for _ in range(DRAWS)]
        points = []
        for k, size in enumerate(sizes):
            scores = [score(k, draw[:size]) for draw in draws[: 1 if size == pool else DRAWS]]
            points.append(Point(size, tuple(scores), truth[k] * (1 - truth[k]) / VALIDATION))
        predicted = fit_curve(points, pool, rng).predict(2 * pool)
        said.append((predicted, score(len(sizes), examples), points[-1].scores[0]))
        own += back_tests(points, pool, rng)
    return {"doubled": _summary(said), "own_back_tests": {
        "tests": len(own), "inside": sum(test.inside for test in own),
    }}  # fmt: skip


if __name__ == "__main__":
    main()
