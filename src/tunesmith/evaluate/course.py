"""The course of training: where loss, metric and calibration were best, what going on cost, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.metrics import METRICS
from tunesmith.measures.uncertainty import difference_of_means, paired_bootstrap

SMALL = 0.01  # a change of the loss by less than this share is called none, however sure it is
FEWEST_STEPS = 3  # training steps on either side, with which it can be said whether training loss fell
SLOWER = 3  # by how much a learning rate that is too high is lowered

Json = dict[str, Any]


def course(
    validations: Sequence[Mapping[str, Any]],
    units: Sequence[int],
    training: Sequence[tuple[int, float]],
    selected: int,
    planned: int,
    per_epoch: float,
    learning_rate: float,
    rng: np.random.Generator,
    metric: str | None = None,
) -> Json:
    """Say what happened from one validation to the next, and what to change.

    A change of the validation loss counts where its 95 % interval, paired over the validation items, excludes zero, and
    it is 1 % of the loss or more.
    The lowest of many noisy losses is a little too low by luck, so that a small rise may be none.

    Args:
        validations: The lines of validations.jsonl: ``step``, ``loss``, ``losses`` (summed, of each item), values by
            name and ``metric_items``.
        units: What each validation item's loss is divided by.
        training: Step and training loss of each step.
        selected: The step whose weights were kept.
        planned: Steps that training would have had without early stopping.
        per_epoch: Steps of an epoch.
        learning_rate: The one used, for the advice.
        rng: Source of the resamples.
        metric: The task's metric, if it was followed.

    Returns:
        ``best_steps`` of loss and every value; ``regret`` of the last step against the selected one, above 0 where the
        last is worse, in loss and in the metric; ``case``, ``sentence`` and ``change`` ("" for nothing to change).
        ``{"status": "not_run"}`` with the reason where the lines of the two steps are not all there.
    """
    lines = {line["step"]: line for line in validations}
    last = max((step for step, _ in training), default=0)
    if not {0, selected, last} <= lines.keys() or last == 0:
        return {"status": "not_run", "reason": "validation was not kept item by item from the first step to the last"}
    names = [name for name in validations[0] if name not in ("step", "loss", "losses", "metric_items")]
    best = {"loss": min(lines, key=lambda step: (lines[step]["loss"], step))}
    for name in names:
        sign = -1 if METRICS[name].higher_is_better else 1
        known = [step for step in lines if lines[step].get(name) is not None]
        if known:
            best[name] = min(known, key=lambda step: (sign * lines[step][name], step))

    def change(later: int, earlier: int) -> Json:
        a, b = (np.stack([lines[step]["losses"], units], axis=1) for step in (later, earlier))
        return _difference(paired_bootstrap(a, b, statistic=_per_unit, rng=rng))

    regret = {"loss": change(last, selected)}
    if metric is not None and lines[last].get("metric_items") and lines[selected].get("metric_items"):
        known_metric = METRICS[metric]
        order = (selected, last) if known_metric.higher_is_better else (last, selected)
        a, b = (np.array(lines[step]["metric_items"]) for step in order)
        regret[metric] = _difference(paired_bootstrap(a, b, statistic=known_metric.statistic, rng=rng))
    said = _what_happened(lines, best["loss"], last, planned, per_epoch, learning_rate, training, change, rng)
    return {"status": "ok", "n": len(units), "best_steps": best, "selected_step": selected, "regret": regret, **said}


def _per_unit(values: NDArray[Any], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Loss per unit of many resamples: summed losses and units (n, 2), counts (resamples, n)."""
    sums = counts @ values
    found: NDArray[np.float64] = sums[:, 0] / sums[:, 1]
    return found


def _difference(found: Any) -> Json:
    return {"value": found.difference, "low": found.low, "high": found.high, "n": found.n}


def _what_happened(
    lines: Mapping[int, Mapping[str, Any]],
    lowest: int,
    last: int,
    planned: int,
    per_epoch: float,
    learning_rate: float,
    training: Sequence[tuple[int, float]],
    change: Any,
    rng: np.random.Generator,
) -> Json:
    steps = sorted(lines)
    early = f" Training stopped early, at step {last} of {planned}." if last < planned else ""
    slower = f"Lower train.learning_rate, now {learning_rate:.1e}, to about {learning_rate / SLOWER:.0e}."
    if lowest == last:
        fell = change(last, steps[-2])
        if len(steps) == 2:
            text = (
                f"Validation loss fell from {lines[0]['loss']:.3f} to {lines[last]['loss']:.3f}; after the start it "
                f"was measured once only, at the last step, {last}, so whether it turned before cannot be said.{early}"
            )
            return _said("measured_once", text, "Set train.evals_per_epoch to 4 or more.")
        text = f"Validation loss never rose for good: it was lowest at the last step, {last}.{early}"
        if fell["high"] < 0 and -fell["value"] >= SMALL * lines[last]["loss"] and not early:
            epochs = _epochs(2 * last / per_epoch)
            return _said("still_falling", f"{text} It was still falling.", f"Try train.epochs={epochs}.")
        return _said("never_rose", text, "")
    rise = change(last, lowest)
    amount = f"{abs(rise['value']):.3f} (95 % interval {rise['low']:.3f} to {rise['high']:.3f})"
    if rise["low"] <= 0 or rise["value"] < SMALL * lines[lowest]["loss"]:
        text = (
            f"Validation loss was lowest at step {lowest}; by the last step, {last}, it had risen by no more "
            f"than noise or 1 %: {amount}.{early}"
        )
        return _said("noise", text, slower if lowest == 0 else "")
    trend = _training_trend(training, lowest, last, per_epoch, rng)
    if lowest == 0:
        text = f"Validation loss was lowest before training and rose by {amount}{trend[1]}.{early}"
        return _said("rose_at_once", text, slower)
    text = f"From step {lowest} to step {last} validation loss rose by {amount}{trend[1]}"
    if trend[0] != "fell":
        return _said("rose", f"{text}.{early}", slower)
    epochs = _epochs(lowest / per_epoch)
    text += f": {epochs} epoch{' was' if epochs == '1' else 's were'} enough.{early}"
    if lowest == steps[1]:
        text += " That was the first validation, so it may have turned before."
    return _said("rose", text, f"Set train.epochs={epochs}.")


def _said(case: str, sentence: str, change: str) -> Json:
    return {"case": case, "sentence": sentence, "change": change}


def _epochs(value: float) -> str:
    """A number of epochs as a setting takes it; never 0."""
    return f"{max(0.01, round(value, 2)):g}"


def _training_trend(
    training: Sequence[tuple[int, float]], lowest: int, last: int, per_epoch: float, rng: np.random.Generator
) -> tuple[str, str]:
    """Whether training loss fell after a step: the steps up to it, at most an epoch, against the last as many."""
    width = min(last - lowest, round(per_epoch)) if lowest == 0 else min(last - lowest, lowest, round(per_epoch))
    losses = dict(training)
    start = range(1, width + 1) if lowest == 0 else range(lowest - width + 1, lowest + 1)
    before = [losses[step] for step in start if step in losses]
    after = [losses[step] for step in range(max(last - width, start.stop - 1) + 1, last + 1) if step in losses]
    if min(len(before), len(after)) < FEWEST_STEPS:
        return "unknown", ", over too few steps to say what training loss did"
    found = difference_of_means(after, before, rng=rng)
    if found.high < 0:
        return "fell", " while training loss fell"
    return (
        ("rose", " and so did training loss") if found.low > 0 else ("level", " while training loss stayed as it was")
    )
