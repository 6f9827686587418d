"""Counterfactual swaps: whether answers change when a text names another group, beyond what any change of words does.

Every test text that has a lexicon's terms is asked again with the group swapped, and, where a term has another of its
own group, with that one instead: the *placebo*, which tells how much answers change by words alone. What flips more
often under the swap than under the placebo, on the same texts, is the excess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.lexicon import changed_example, read_lexica
from tunesmith.evaluate.compare import example_clusters
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap, paired_shares, wilson_interval
from tunesmith.records import Example, Interval, Prediction
from tunesmith.run import Run, read_predictions, write_predictions

FOLDER = "swaps"  # in a candidate's folder: a file of predictions for each lexicon and kind of change
Json = dict[str, Any]
Variants = dict[str, list[tuple[Example, Example]]]  # by lexicon and kind, as in "names.placebo": original, changed
Answers = Mapping[str, Sequence[Prediction]]  # by the same names; ``example_id`` is the original's


def swap_variants(examples: Sequence[Example], names: Sequence[str]) -> Variants:
    """Every changed copy of the examples, by lexicon and kind of change.

    Args:
        examples: The test examples.
        names: Lexica that the user chose, or files.
    """
    found: Variants = {}
    for lexicon in read_lexica(names):
        for kind, change in (("swap", lexicon.swapped), ("placebo", lexicon.placebo)):
            pairs = ((example, changed_example(example, change)) for example in examples)
            found[f"{lexicon.name}.{kind}"] = [(one, other) for one, other in pairs if other is not None]
    return found


def write_swaps(run: Run, candidate: str, variants: Variants, predictions: Sequence[Prediction]) -> None:
    """Keep a candidate's answers to all variants, given in their order, each under its original's id."""
    left = iter(predictions)
    for name, pairs in variants.items():
        answers = [replace(next(left), example_id=original.id) for original, _ in pairs]
        write_predictions(run.candidate(candidate) / FOLDER / f"{name}.parquet", answers)


def read_swaps(run: Run, candidate: str) -> dict[str, list[Prediction]]:
    """A candidate's answers to variants, by lexicon and kind of change; empty where none were asked."""
    files = sorted((run.candidate(candidate) / FOLDER).glob("*.parquet"))
    return {file.stem: read_predictions(file) for file in files}


def measure_swaps(
    predictions: Sequence[Prediction],
    answers: Answers,
    base: tuple[Sequence[Prediction], Answers] | None,
    seed: int,
) -> Json:
    """How often answers flip under each lexicon's swap, with 95 % intervals.

    Args:
        predictions: On the test examples as they are.
        answers: To the variants.
        base: The same two of the untuned model; None: not a tuned candidate, or the base did not run.
        seed: Fixes the resamples.

    Returns:
        For each of the ``lexica``: ``n`` texts; the share of ``flips`` and the mean ``shift`` of the labels'
        probabilities (half the sum of their absolute changes; |p − p'| for two labels), under the swap and under the
        ``placebo``; the ``excess`` of flips over the placebo's, on the texts that have both; and ``against_base``.
    """
    names = dict.fromkeys(name.rpartition(".")[0] for name in answers)
    found = {name: _lexicon(name, predictions, answers, base, seed) for name in names}
    reasons = [part["reason"] for part in found.values() if part["status"] != "ok"]
    sentences = [part["sentence"] for part in found.values() if part["status"] == "ok"]
    return {
        "status": "not_run" if reasons else "ok", **({"reason": "; ".join(reasons)} if reasons else {}),
        "lexica": found, **({"sentence": " ".join(sentences)} if sentences else {}),
    }  # fmt: skip


def _lexicon(
    name: str,
    predictions: Sequence[Prediction],
    answers: Answers,
    base: tuple[Sequence[Prediction], Answers] | None,
    seed: int,
) -> Json:
    swap, placebo = (answers.get(f"{name}.{kind}", []) for kind in ("swap", "placebo"))
    if len(swap) < SMALLEST:
        reason = f"not enough data: {len(swap)} test texts have a term of '{name}', {SMALLEST} are needed"
        return {"status": "not_run", "n": len(swap), "reason": reason}
    before = {p.example_id: p for p in predictions}
    rng = np.random.default_rng([seed, 13])
    result: Json = {"status": "ok", "n": len(swap), **_change(before, swap, rng)}
    both = _both(swap, placebo)
    if len(both) < SMALLEST:
        reason = f"{len(both)} of these texts have a term with another of its own group, {SMALLEST} are needed"
        result["placebo"] = result["excess"] = {"status": "not_run", "reason": reason}
    else:
        mine, other = [p for p, _ in both], [p for _, p in both]
        result["placebo"] = {"n": len(placebo), **_change(before, placebo, rng)}
        result["excess"] = _difference(_flips(before, mine), _flips(before, other), mine, rng)
    result["against_base"] = {"status": "not_run", "reason": "no answers of the untuned model to the same texts"}
    if base is not None:
        of_base = {p.example_id: p for p in base[0]}
        theirs = _both(swap, base[1].get(f"{name}.swap", []))
        if len(theirs) == len(swap):
            flips = _flips(of_base, [p for _, p in theirs])
            result["against_base"] = _difference(_flips(before, swap), flips, swap, rng)
    return {**result, "sentence": _sentence(name, result)}


def _both(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    of_second = {p.example_id: p for p in second}
    return [(p, of_second[p.example_id]) for p in first if p.example_id in of_second]


def _flips(before: Mapping[str, Prediction], after: Sequence[Prediction]) -> NDArray[np.float64]:
    return np.array([float(p.prediction != before[p.example_id].prediction) for p in after])


def _change(before: Mapping[str, Prediction], after: Sequence[Prediction], rng: np.random.Generator) -> Json:
    flips, clusters = _flips(before, after), example_clusters(after)
    share = wilson_interval(int(flips.sum()), len(flips))
    if clusters is not None:
        share = bootstrap_interval(flips, clusters=clusters, rng=rng)
    pairs = [(before[p.example_id].probabilities, p.probabilities) for p in after]
    shift: Interval | None = None
    if all(a is not None and b is not None for a, b in pairs):
        moved = np.array([np.abs(np.array(a) - np.array(b)).sum() / 2 for a, b in pairs])
        shift = bootstrap_interval(moved, clusters=clusters, rng=rng)
    return {"flips": share.to_json(), "shift": None if shift is None else shift.to_json()}


def _difference(
    a: NDArray[np.float64], b: NDArray[np.float64], items: Sequence[Prediction], rng: np.random.Generator
) -> Json:
    """Share of a less share of b of the same items; with an interval of some width also where no item differs."""
    clusters = example_clusters(items)
    if clusters is None:
        both, only_a, only_b = (int(x.sum()) for x in (a * b, a * (1 - b), b * (1 - a)))
        return paired_shares(both, only_a, only_b, len(a)).to_json()
    found = paired_bootstrap(a, b, clusters, rng=rng)
    return Interval(found.difference, found.low, found.high, found.n).to_json()


def _sentence(name: str, part: Json) -> str:
    flips, excess = part["flips"], part["excess"]
    said = (
        f"With '{name}' swapped, {100 * flips['value']:.1f} % of answers change (95 % interval "
        f"{100 * flips['low']:.1f} to {100 * flips['high']:.1f}, {part['n']:,} texts)"
    )
    if "value" not in excess:
        return f"{said}; how many would by a change of words alone was not measured: {excess['reason']}."
    value, low, high = (f"{100 * excess[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{said}; that is {value} points ({low} to {high}) against another word of the same group."
