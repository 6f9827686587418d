"""Does the evidence keep its word? Synthetic experiments with a known truth, judged by the code that judges runs.

    python benchmarks/coverage.py [--experiments 2000] [--items 300]

Each experiment draws answers of four candidates to the same items, whose difficulty they share, and hands them to
``compare_all`` and ``choose``.

- *coverage*: one candidate is better by a known amount. Counted: how often the 95 % interval of the difference holds
  it, for right-or-wrong answers, for errors of numbers, and for items that come in clusters. Asked: 93 to 97 %.
- *type-I error*: all are equally good. Counted: how often any pair is called different (after Holm), and how often
  the verdict is confident that one is best. Asked: at most 6 %.
- *power*: of those in the first part, how often the difference is called one.
- *identical*: all give the very same answers. Every verdict must be "no evidence of a difference".

Exits with 1 if any is missed. Fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from environment import write_result
from numpy.typing import NDArray

from tunesmith.evaluate.compare import LEVEL, Contender, Verdict, choose, compare, compare_all
from tunesmith.records import Prediction

CANDIDATES = ("prompt/zero-shot", "prompt/few-shot", "embedding/encoder", "tune/model/lora")
BETTER, CLUSTER = 0.06, 4  # true difference; items that share a cluster
COVERED, WRONG = (0.93, 0.97), 0.06
KINDS = ("right_or_wrong", "graded", "clustered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--items", type=int, default=300)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"experiments": chosen.experiments, "items": chosen.items, "difference": BETTER}
    for kind in KINDS:
        held = detected = 0
        for _ in range(chosen.experiments):
            found = compare(*_answers(kind, chosen.items, (BETTER, 0.0), rng).values(), _metric(kind), rng)
            held += found.low <= BETTER <= found.high
            detected += found.p_value < LEVEL
        result[kind] = {"coverage": held / chosen.experiments, "power": detected / chosen.experiments}
    called = confident = 0
    for _ in range(chosen.experiments):
        different, verdict = _judge(_answers("right_or_wrong", chosen.items, (0.0,) * 4, rng), rng)
        called += different
        confident += verdict.confident
    result["equally_good"] = {
        "called_different": called / chosen.experiments, "confident": confident / chosen.experiments,
    }  # fmt: skip
    same = 0
    for _ in range(chosen.experiments):
        one = _answers("right_or_wrong", chosen.items, (0.0,), rng)[CANDIDATES[0]]
        different, verdict = _judge({name: _renamed(one, name) for name in CANDIDATES}, rng)
        same += not different and not verdict.confident and "no evidence of a difference" in verdict.reason
    result["identical"] = {"no_evidence": same / chosen.experiments}
    result["reached"] = (
        all(COVERED[0] <= result[kind]["coverage"] <= COVERED[1] for kind in KINDS)
        and max(result["equally_good"].values()) <= WRONG
        and same == chosen.experiments
    )
    write_result("coverage", result)
    if not result["reached"]:
        sys.exit("the evidence does not keep its word")


def _metric(kind: str) -> str:
    return "mae" if kind == "graded" else "accuracy"


def _answers(kind: str, items: int, better: tuple[float, ...], rng: np.random.Generator) -> dict[str, list[Prediction]]:
    """Answers of as many candidates as ``better`` has numbers, each so much above 0.7 on average."""
    groups = items // CLUSTER if kind == "clustered" else items
    difficulty = np.repeat(rng.normal(0, 0.12, groups), items // groups).clip(-0.2, 0.2)
    clusters = [f"{i // CLUSTER}" for i in range(items)] if kind == "clustered" else None
    return {
        name: _predictions(name, _scores(kind, 0.7 + above + difficulty, rng), clusters, kind == "graded")
        for name, above in zip(CANDIDATES, better, strict=False)
    }


def _scores(kind: str, means: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Scores with the given means, each at most 0.96: 0 or 1, or numbers between, which are errors if 0 is right."""
    if kind == "graded":
        return rng.beta(3 * means, 3 * (1 - means))
    return (rng.random(len(means)) < means).astype(float)


def _predictions(name: str, scores: NDArray[Any], clusters: list[str] | None, graded: bool = False) -> list[Prediction]:
    answers = ("no", "yes")
    return [
        Prediction(
            str(i), name, f"{score}" if graded else answers[int(score)], "0" if graded else "yes",
            float(score), cluster=clusters and clusters[i],
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip


def _renamed(answers: list[Prediction], name: str) -> list[Prediction]:
    return _predictions(name, np.array([p.score for p in answers]), None)


def _judge(answers: dict[str, list[Prediction]], rng: np.random.Generator) -> tuple[bool, Verdict]:
    comparisons = compare_all(answers, "accuracy", rng)
    contenders = [
        Contender(name, float(np.mean([p.score for p in one])), float(cost), baseline=name != CANDIDATES[-1])
        for cost, (name, one) in enumerate(answers.items())
    ]
    verdict = choose(contenders, comparisons, metric="accuracy", margin=None)
    return any(c.adjusted_p_value < LEVEL for c in comparisons), verdict


if __name__ == "__main__":
    main()
