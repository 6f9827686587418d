"""Amplified bias: whether answers differ more between groups than the right labels of the same examples do.

Everything is computed from the stored predictions and the training split, so that it can be computed again. Nothing
is guessed: a group is what the user's column says, and a cell under 30 examples has no rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.audit import audit_groups
from tunesmith.evaluate.compare import TUNED, compare, example_clusters, metric_interval, plain_id
from tunesmith.evaluate.shares import shares_of_candidates
from tunesmith.evaluate.swaps import Answers, measure_swaps, read_swaps
from tunesmith.measures.fairness import (
    SMALLEST,
    directional_amplification,
    group_rates,
    widest_gap,
    zhao_amplification,
)
from tunesmith.measures.uncertainty import resample_counts
from tunesmith.records import Example, Interval, Prediction
from tunesmith.run import Run, read_examples

BASE = "prompt/zero-shot"  # what a tuned model was before: its base, asked as it is
NAMES = {"base": BASE, "plain": "the candidate without remedy"}
RESAMPLES = 10_000
Json = dict[str, Any]
Others = Mapping[str, Sequence[Prediction] | None]  # by ``base`` and ``plain``
Floats = NDArray[np.float64]


def bias_of_run(
    run: Run, config: Json, predictions: Mapping[str, Sequence[Prediction]]
) -> tuple[dict[str, Json], Json]:
    """Bias of a run's candidates, by their ids, and of its training data, from the run's files.

    Args:
        run: Its splits, and its candidates' answers to swapped texts.
        config: Its settings.
        predictions: Of each candidate on the test examples.
    """
    fairness, seed = config.get("fairness") or {}, config.get("seed", 0)
    columns, words = config.get("data", {}).get("sensitive") or (), fairness.get("shares") or ()
    train = read_examples(run.split("train")) if columns or words else ()
    swaps = {name: read_swaps(run, name) for name in predictions}
    found = bias_of_candidates(predictions, train, columns, config["task"]["kind"], seed, swaps)
    if words:
        test, lexica = read_examples(run.split("test")), fairness.get("swaps") or ["pronouns"]
        for name, part in shares_of_candidates(predictions, train, test, words, lexica, seed).items():
            found[name]["shares"] = part
    return found, audit_groups(train, columns)


def bias_of_candidates(
    predictions: Mapping[str, Sequence[Prediction]],
    train: Sequence[Example],
    columns: Sequence[str],
    kind: str,
    seed: int,
    swaps: Mapping[str, Answers] | None = None,
) -> dict[str, Json]:
    """What report.json says of each candidate's bias; where nothing can be measured, why.

    Args:
        predictions: Of each candidate on the test examples, by its id.
        train: Training examples; may be empty where ``columns`` are.
        columns: The sensitive columns.
        kind: The task's kind.
        seed: Fixes the resamples, which are the same for all candidates.
        swaps: Of each candidate the answers to swapped texts, where they were asked.
    """
    found = _by_group(predictions, train, columns, kind, seed)
    for name, answers in predictions.items():
        if swapped := (swaps or {}).get(name):
            of_base = (swaps or {}).get(BASE) if name.startswith(TUNED) else None
            found[name]["swaps"] = measure_swaps(
                answers, swapped, (predictions[BASE], of_base) if of_base else None, seed
            )
    return found


def _by_group(
    predictions: Mapping[str, Sequence[Prediction]],
    train: Sequence[Example],
    columns: Sequence[str],
    kind: str,
    seed: int,
) -> dict[str, Json]:
    if kind != "classification":
        return {name: _not_run("measured for classification only") for name in predictions}
    if not columns:
        return {name: _not_run("no data.sensitive") for name in predictions}
    found = {}
    for name, answers in predictions.items():
        others: dict[str, Sequence[Prediction] | None] = {"base": None}
        if name.startswith(TUNED):
            others["base"] = predictions.get(BASE)
        if plain_id(name) != name:
            others["plain"] = predictions.get(plain_id(name))
        found[name] = measure_bias(answers, others, train, columns, seed)
        if plain := others.get("plain"):
            cost = compare(answers, plain, "accuracy", np.random.default_rng([seed, 15]))
            accuracy = Interval(cost.difference, cost.low, cost.high, cost.n).to_json()
            found[name]["remedy"] = {"candidate": plain_id(name), "accuracy": accuracy}
    return found


def measure_bias(
    predictions: Sequence[Prediction],
    others: Others,
    train: Sequence[Example],
    columns: Sequence[str],
    seed: int,
) -> Json:
    """The bias of one candidate's answers by each sensitive column, with 95 % intervals.

    The *gap* of a label is the largest difference between two groups in how often it is answered, the *label gap* in
    how often it is right, and the *amplification* the first minus the second, on the same examples: bootstrap
    resamples draw an example (or its cluster) with its answer and its right label.

    Args:
        predictions: On the test examples.
        others: The same examples' answers by whom it is compared with: ``base``, the untuned model, and ``plain``, the
            candidate without its remedy. None: it did not run, or is not asked for.
        train: Training examples, which say what goes together with what.
        columns: The sensitive columns.
        seed: Fixes the resamples.

    Returns:
        ``columns``; ``amplification``, that of the label and column that is most surely amplified, whose interval
        holds for all of them at once (Bonferroni); and a ``sentence``. ``status`` is ``not_run`` if any column could
        not be measured.
    """
    found = {column: _column(predictions, others, train, column, len(columns), seed) for column in columns}
    measured = {column: part for column, part in found.items() if part["status"] == "ok"}
    result: Json = {"status": "ok"}
    if len(measured) < len(found):
        result = _not_run("; ".join(part["reason"] for part in found.values() if part["status"] != "ok"))
    result["columns"] = found
    if measured:
        worst = max(measured, key=lambda column: float(measured[column]["amplification"]["low"]))
        result["amplification"] = {"column": worst, **measured[worst]["amplification"]}
        result["sentence"] = _sentence(result["amplification"], measured[worst])
    return result


def _not_run(reason: str) -> Json:
    return {"status": "not_run", "reason": reason}


# ── one column ───────────────────────────────────────────────────────────────────────────────────────────
class _Items(NamedTuple):
    """Test and training items of the groups that are large enough, as integers."""

    groups: NDArray[np.int64]
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]
    others: dict[str, NDArray[np.int64]]
    train_groups: NDArray[np.int64]
    train_labels: NDArray[np.int64]


def _column(
    predictions: Sequence[Prediction],
    others: Others,
    train: Sequence[Example],
    column: str,
    columns: int,
    seed: int,
) -> Json:
    of = [dict(p.sensitive).get(column) for p in predictions]
    sizes = Counter(group for group in of if group is not None)
    names = sorted(group for group, n in sizes.items() if n >= SMALLEST)
    small = [n for n in sizes.values() if n < SMALLEST]
    left_out = {
        "without_group": of.count(None), "small_groups": {"groups": len(small), "examples": sum(small)},
    }  # fmt: skip
    if len(names) < 2:
        reason = f"not enough data: fewer than two groups of '{column}' have {SMALLEST} test examples"
        return {**_not_run(reason), **left_out}
    kept = [i for i, group in enumerate(of) if group in names]
    chosen = [predictions[i] for i in kept]
    same = [p.example_id for p in predictions]
    theirs = {
        who: [answers[i].prediction for i in kept]
        for who, answers in others.items()
        if answers is not None and [p.example_id for p in answers] == same
    }
    learned = [(group, e.label or "") for e in train if (group := dict(e.sensitive).get(column)) in names]
    labels = sorted({p.target for p in chosen} | {p.prediction for p in chosen} | {label for _, label in learned}
                    | {answer for answers in theirs.values() for answer in answers})  # fmt: skip
    at, place = {name: i for i, name in enumerate(names)}, {label: i for i, label in enumerate(labels)}
    items = _Items(
        np.array([at[str(of[i])] for i in kept]),
        np.array([place[p.target] for p in chosen]),
        np.array([place[p.prediction] for p in chosen]),
        {who: np.array([place[answer] for answer in answers]) for who, answers in theirs.items()},
        np.array([at[str(group)] for group, _ in learned], dtype=np.int64),
        np.array([place[label] for _, label in learned], dtype=np.int64),
    )
    rng = np.random.default_rng([seed, 11])
    point = _statistics(items, np.ones((1, len(kept))))
    blocks = [
        _statistics(items, counts) for counts in resample_counts(example_clusters(chosen), len(kept), rng, RESAMPLES)
    ]
    drawn = {name: np.concatenate([block[name] for block in blocks]) for name in point}

    def interval(name: str, label: int | None = None, tests: int = 1) -> Json | None:
        """None where too few items, or none in a resample, say anything."""
        where = () if label is None else (label,)
        value, values = float(point[name][(0, *where)]), drawn[name][(slice(None), *where)]
        values = values[np.isfinite(values)]
        if not np.isfinite(value) or not values.size:
            return None
        low, high = np.quantile(values, [0.025 / tests, 1 - 0.025 / tests])
        return Interval(value, float(low), float(high), len(kept)).to_json()

    # of two labels, one's rates are the other's turned round: a single question
    tests = columns * (1 if len(labels) == 2 else len(labels))
    wide = {label: interval("amplification", i, tests) for label, i in place.items()}
    # rounded, so that of two that are equal the first is named on any machine
    worst = max(wide, key=lambda label: round(float((wide[label] or {"low": -2})["low"]), 9))
    accuracy = [
        {
            "group": name,
            **metric_interval(
                [p for p, g in zip(chosen, items.groups, strict=True) if g == i],
                "accuracy",
                np.random.default_rng([seed, 12]),
            ).to_json(),
        }
        for i, name in enumerate(names)
    ]
    rates = group_rates(items.groups, items.labels, items.answers)
    return {
        "status": "ok", "n": len(kept), **left_out,
        "amplification": {"label": worst, **(wide[worst] or {}), "tests": tests},
        "directional_amplification": interval("directional"), "zhao_amplification": interval("zhao"),
        "accuracy": accuracy, "worst_group": min(accuracy, key=lambda entry: float(entry["value"])),
        "labels": {
            label: {
                "rates": {
                    name: {
                        key: float(table[g, i]) if np.isfinite(table[g, i]) else None
                        for key, table in zip(rates._fields[:4], rates[:4], strict=True)
                    }
                    for g, name in enumerate(names)
                },
                **{key: interval(key, i) for key in ("gap", "label_gap", "amplification", "true_positive_gap",
                                                     "false_positive_gap")},
            }
            for label, i in place.items()
        },
        **{
            f"against_{who}": {
                "status": "ok", "candidate": (others[who] or predictions)[0].candidate,
                "gap": {label: interval(f"gap_to_{who}", i) for label, i in place.items()},
                "directional_amplification": interval(f"directional_to_{who}"),
            }
            if who in theirs
            else _not_run(f"no answers of {NAMES[who]} to the same examples")
            for who in others
        },
    }  # fmt: skip


def _statistics(items: _Items, counts: Floats) -> dict[str, Floats]:
    """Every statistic of each resample: (resamples, labels), or (resamples,) for those over all labels."""
    rates = group_rates(items.groups, items.labels, items.answers, counts)

    def gap(table: Floats) -> Floats:
        return widest_gap(table.swapaxes(-1, -2))

    found = {
        "gap": gap(rates.said), "label_gap": gap(rates.right),
        "true_positive_gap": gap(rates.true_positive), "false_positive_gap": gap(rates.false_positive),
        "directional": np.full(len(counts), np.nan), "zhao": np.full(len(counts), np.nan),
    }  # fmt: skip
    found["amplification"] = found["gap"] - found["label_gap"]
    for who, answers in items.others.items():
        found[f"gap_to_{who}"] = found["gap"] - gap(group_rates(items.groups, items.labels, answers, counts).said)
        found[f"directional_to_{who}"] = np.full(len(counts), np.nan)
    if items.train_groups.size:
        train, test = (items.train_groups, items.train_labels), (items.groups, items.labels)
        found["directional"] = directional_amplification(*train, *test, items.answers, weights=counts)
        found["zhao"] = zhao_amplification(*train, items.groups, items.answers, counts)
        for who, answers in items.others.items():
            then = directional_amplification(*train, *test, answers, weights=counts)
            found[f"directional_to_{who}"] = found["directional"] - then
    return found


def _sentence(worst: Json, part: Json) -> str:
    """The amplification in words, for a manager."""
    row = part["labels"][worst["label"]]
    opening = f"no evidence of amplified bias by '{worst['column']}'"
    if worst["low"] > 0:
        opening = f"amplified bias by '{worst['column']}'"
    elif worst["high"] < 0:
        opening = f"a smaller gap by '{worst['column']}' than in the right labels"
    value, low, high = (f"{100 * worst[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return (
        f"{opening}: how often the answer is '{worst['label']}' differs by "
        f"{100 * row['gap']['value']:.1f} points between groups, how often it is right by "
        f"{100 * row['label_gap']['value']:.1f}; amplification {value} points (95 % interval {low} to {high}, "
        f"{worst['n']:,} test examples)."
    )
