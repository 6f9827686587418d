"""What a sequence of training stages kept and lost, with intervals, and how much of the loss replay brings back.

Intervals are over the test examples: each task's are resampled by themselves, and a resample judges the base model,
all stages, and both sequences of a comparison on the same examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import EvaluationError
from tunesmith.evaluate.compare import example_clusters, metric_interval
from tunesmith.evaluate.metrics import METRICS, metric_values
from tunesmith.measures.retention import average_accuracy, average_forgetting, backward_transfer, forward_transfer
from tunesmith.measures.uncertainty import resample_counts
from tunesmith.records import Interval, Prediction

Floats = NDArray[np.float64]

RESAMPLES = 10_000
TAIL = 0.025  # share of resamples on either side of a 95 % interval


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """Answers to one task's test examples: by the model before the first stage, and after each stage.

    None where the task was not asked. All answer the same examples.
    """

    name: str
    metric: str
    base: Sequence[Prediction] | None
    stages: Sequence[Sequence[Prediction] | None]


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention matrix and what follows from it, each number with its 95 % interval.

    ``matrix[i][j]`` is the score on task j after stage i and ``base[j]`` that before the first, in the tasks'
    metrics; None: not measured. The four measures are in the metric's unit, signs turned so that higher is better
    (a forgetting above 0 is a loss in any case); None where a score that they need was not measured, or where
    ``reason`` says why not. Their intervals count the test examples of all tasks.
    """

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    base: tuple[Interval | None, ...]
    matrix: tuple[tuple[Interval | None, ...], ...]
    average_accuracy: Interval | None
    backward_transfer: Interval | None
    forward_transfer: Interval | None
    average_forgetting: Interval | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a second sequence of stages, such as one with replay, keeps of what the first one forgot.

    ``forgotten`` and ``forgotten_still`` are the average forgetting of the first and the second sequence;
    ``kept`` their difference; ``share`` that difference as a share of what the first forgot, None where the first
    did not clearly forget, which ``reason`` says. ``last_task`` is how much better the second sequence is at the
    last stage's task: what is kept may be paid for there.
    """

    forgotten: Interval
    forgotten_still: Interval
    kept: Interval
    share: Interval | None
    last_task: Interval
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def retention(tasks: Sequence[TaskAnswers], rng: np.random.Generator, resamples: int = RESAMPLES) -> Retention:
    """The retention matrix of a sequence of stages, with transfer and forgetting.

    Args:
        tasks: As many as stages, in the stages' order: stage i trains task i.
        rng: Source of the resamples.
        resamples: Number of resamples.

    Raises:
        EvaluationError: If tasks and stages differ in number, or the answers to a task are to different examples.

    Source:
        The measures: ``tunesmith.measures.retention``.
    """
    scores, base = (part[0] for part in _resampled([tasks], rng, resamples))
    n = sum(len(_any(task)) for task in tasks)
    reason = _incomparable(tasks)
    measures = {
        "average_accuracy": average_accuracy(scores),
        "backward_transfer": backward_transfer(scores),
        "forward_transfer": forward_transfer(scores, base),
        "average_forgetting": average_forgetting(scores),
    }
    return Retention(
        tuple(task.name for task in tasks),
        tuple(task.metric for task in tasks),
        tuple(_cell(task.base, task.metric, rng) for task in tasks),
        tuple(tuple(_cell(task.stages[i], task.metric, rng) for task in tasks) for i in range(len(tasks))),
        **{name: None if reason else _interval(values, n) for name, values in measures.items()},
        reason=reason,
    )


def recovery(
    first: Sequence[TaskAnswers], second: Sequence[TaskAnswers], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Recovery:
    """How much of what one sequence of stages forgot is kept by another one on the same tasks.

    The share is 1 − forgotten_still / forgotten. Its interval is the ratio's over resamples in which the first
    sequence forgot anything; a resample in which it did not counts as unbounded on both sides.

    Args:
        first: A sequence, such as one without replay.
        second: The same tasks in the same order, such as with replay.
        rng: Source of the resamples.
        resamples: Number of resamples.

    Raises:
        EvaluationError: As ``retention``; or if the sequences differ in their tasks or examples, have one stage
            only, cannot be averaged over tasks, or lack a score that forgetting needs.

    Source:
        The percentile bootstrap of a ratio: Efron and Tibshirani 1993, "An introduction to the bootstrap",
        chapter 13.
    """
    sides = [[(task.name, task.metric) for task in tasks] for tasks in (first, second)]
    if sides[0] != sides[1]:
        raise EvaluationError(
            f"the sequences have the tasks {_names(first)} and {_names(second)}: expected the same, with the same "
            "metrics and in the same order. Compare sequences that differ in how they train only."
        )
    if reason := _incomparable(first):
        raise EvaluationError(f"{reason} Compare the sequences task by task.")
    scores, _ = _resampled([first, second], rng, resamples)
    forgotten, still = (average_forgetting(table) for table in scores)
    if np.isnan(forgotten[0] + still[0]):
        raise EvaluationError(
            "forgetting is not defined: expected two stages or more, and each task's score from its own stage on. "
            "Evaluate every task after every stage."
        )
    n = sum(len(_any(task)) for task in first)
    kept = forgotten - still
    before, after, gained = (_defined(values, n) for values in (forgotten, still, kept))
    last_n = len(_any(first[-1]))
    last = _defined(scores[1][:, -1, -1] - scores[0][:, -1, -1], last_n)
    unbounded = forgotten <= 0
    if unbounded[0] or unbounded[1:].mean() > TAIL:
        reason = "The first sequence did not clearly forget, so there is no share of it to keep."
        return Recovery(before, after, gained, None, last, reason)
    share = np.divide(kept, forgotten, out=np.zeros_like(kept), where=~unbounded)
    low, high = (
        np.quantile(np.where(unbounded, end, share)[1:], level, method="inverted_cdf")
        for end, level in ((-np.inf, TAIL), (np.inf, 1 - TAIL))
    )
    return Recovery(before, after, gained, Interval(float(share[0]), float(low), float(high), n), last)


def _resampled(
    sequences: Sequence[Sequence[TaskAnswers]], rng: np.random.Generator, resamples: int
) -> tuple[list[Floats], list[Floats]]:
    """Scores (1 + resamples, T, T) and base scores (1 + resamples, T) of each sequence, higher is better.

    The first entry is that of the examples as they are. Cells that were not measured are nan.
    """
    stages = len(sequences[0])
    _check(sequences)
    cells = [np.full((1 + resamples, stages + 1, stages), np.nan) for _ in sequences]
    for j, versions in enumerate(zip(*sequences, strict=True)):
        columns = [[_in_order(answers) for answers in (task.base, *task.stages)] for task in versions]
        shown = next(answers for column in columns for answers in column if answers)
        metric = METRICS[versions[0].metric]
        sign = 1.0 if metric.higher_is_better else -1.0
        values = [
            [metric_values(answers, versions[0].metric)[0] if answers else None for answers in column]
            for column in columns
        ]
        done = 0
        clusters = example_clusters(shown)
        drawn = resample_counts(clusters, len(shown), rng, resamples)
        for counts in itertools.chain([np.ones((1, len(shown)))], drawn):
            rows = slice(done, done + len(counts))
            done += len(counts)
            for table, column in zip(cells, values, strict=True):
                for i, known in enumerate(column):
                    if known is not None:
                        table[rows, i, j] = sign * metric.of(known, counts)
    return [table[:, 1:] for table in cells], [table[:, 0] for table in cells]


def _check(sequences: Sequence[Sequence[TaskAnswers]]) -> None:
    stages = len(sequences[0])
    for tasks in sequences:
        for task in tasks:
            if len(task.stages) != stages:
                raise EvaluationError(
                    f"task {task.name}: answers after {len(task.stages)} stages, but there are {stages} tasks. "
                    "Expected one stage a task. Evaluate each task after every stage."
                )
    if stages == 0:
        raise EvaluationError("no tasks: expected at least one. Evaluate the stages first.")
    for versions in zip(*sequences, strict=True):
        asked = [answers for task in versions for answers in (task.base, *task.stages) if answers]
        if not asked:
            raise EvaluationError(f"task {versions[0].name}: was never asked. Evaluate it after every stage.")
        ids = [sorted((p.example_id, p.target) for p in answers) for answers in asked]
        if any(found != ids[0] for found in ids):
            raise EvaluationError(
                f"task {versions[0].name}: was asked with different test examples or targets after different stages. "
                "A matrix needs the same ones. Evaluate all stages on one split."
            )


def _incomparable(tasks: Sequence[TaskAnswers]) -> str:
    """Why scores of the tasks cannot be averaged, or nothing."""
    kinds = {(METRICS[t.metric].span, METRICS[t.metric].higher_is_better) for t in tasks}
    # without a span the unit is the targets', which differs from task to task
    if len(kinds) == 1 and (len(tasks) == 1 or METRICS[tasks[0].metric].span is not None):
        return ""
    used = ", ".join(dict.fromkeys(METRICS[t.metric].words for t in tasks))
    return f"The tasks are measured in different units ({used}), so no mean over them has a meaning."


def _names(tasks: Sequence[TaskAnswers]) -> str:
    return ", ".join(f"{task.name} ({task.metric})" for task in tasks)


def _any(task: TaskAnswers) -> Sequence[Prediction]:
    return next(answers for answers in (task.base, *task.stages) if answers)


def _in_order(answers: Sequence[Prediction] | None) -> list[Prediction]:
    return sorted(answers or (), key=lambda p: p.example_id)


def _cell(answers: Sequence[Prediction] | None, metric: str, rng: np.random.Generator) -> Interval | None:
    return metric_interval(answers, metric, rng) if answers else None


def _interval(values: Floats, n: int) -> Interval | None:
    """The first value with the percentiles of the others; None where it is not defined."""
    return None if np.isnan(values[0]) else _defined(values, n)


def _defined(values: Floats, n: int) -> Interval:
    low, high = np.quantile(values[1:], [TAIL, 1 - TAIL])
    return Interval(float(values[0]), float(low), float(high), n)
