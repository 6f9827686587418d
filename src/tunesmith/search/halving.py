"""Successive halving: many settings trained briefly, the better third of them three times as long, and so on.

Pure: what a trial is and how it is measured, the caller says. Every rung of a trial is a whole training of its length,
decay included (see ``search.trials``), so that trials of a rung are compared as they would be used.

Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; Li et al. 2020 (ASHA), arXiv:1810.05934.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.metrics import METRICS
from tunesmith.measures.uncertainty import paired_bootstrap, resample_counts
from tunesmith.train.optim import DECAY_SHARE

ETA = 3  # every rung trains a third of the trials, three times as long (Li et al. 2018, arXiv:1603.06560)
MOST_RUNGS = 3  # so that the first has a ninth of the whole: a tenth or more
FIRST_STEPS = 20  # optimizer steps that the first rung has at least: below, what is compared is warm-up
RESAMPLES = 2000
LOSS = "loss"


class Objective(NamedTuple):
    """What trials are compared by: a statistic of what is known of each validation example."""

    name: str
    higher_is_better: bool
    of: Callable[[NDArray[Any], NDArray[np.float64]], NDArray[np.float64]]  # values (n, …), counts (k, n) -> (k,)

    def gain(self, value: float) -> float:
        """The value as one of which more is better."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial was worth at a rung: its objective, and what that was computed of, for each validation example.

    ``tokens`` and ``seconds`` are what this rung took on top of those before. A trial that failed has a ``reason`` and
    no value.
    """

    value: float | None
    items: Sequence[Any]
    tokens: int
    seconds: float
    reason: str = ""


Key = TypeVar("Key", int, tuple[int, int])
Results = dict[tuple[int, int], Outcome]  # by number of the trial and of the rung


def objective_by(name: str) -> Objective:
    """The validation loss, per unit of it, or a metric."""
    if name != LOSS:
        return Objective(name, METRICS[name].higher_is_better, METRICS[name].of)
    return Objective(name, False, lambda values, counts: (counts @ values[:, 0]) / (counts @ values[:, 1]))


def lengths(whole: float, global_batch_size: int) -> list[float]:
    """Examples seen at each rung, the shortest first: a ninth, a third and all, or fewer rungs where that is little."""
    found = [whole / ETA**k for k in range(MOST_RUNGS)]
    return [n for n in reversed(found) if n >= FIRST_STEPS * global_batch_size or n == whole]


def examples_trained(trials: int, rungs: Sequence[float]) -> float:
    """Examples that a search over so many trials trains at most; the first trial goes to the end beside the others.

    A trial goes on from where its decay began, so that the decay of each rung but the last is trained on top.
    """
    total = trials * rungs[0]
    for k, (before, now) in enumerate(itertools.pairwise(rungs), start=1):
        total += min(trials, _places(trials, k) + 1) * (now - (1 - DECAY_SHARE) * before)
    return total


def most_trials(examples: float, rungs: Sequence[float]) -> int:
    """How many trials such a search can have within so many examples; 0 where not even one fits."""
    trials = int(examples // rungs[0])
    while trials and examples_trained(trials, rungs) > examples * (1 + 1e-9):
        trials -= 1
    return trials


def _places(trials: int, rung: int) -> int:
    """Trials that reach a rung."""
    return max(1, trials // ETA**rung)


def successive_halving(
    measure: Callable[[int, int], Outcome | None],
    wanted: Callable[[Results], int],
    rungs: int,
    objective: Objective,
    seed: int,
    always: Collection[int] = (0,),
    stop: Callable[[int, int], None] = lambda trial, rung: None,
) -> tuple[Results, dict[int, str]]:
    """Run trials up the rungs.

    Args:
        measure: (number of the trial, of the rung) → what it was worth, going on from the rung before; None: the budget
            is used up, and nothing further is asked for.
        wanted: From what is known so far to how many trials are begun in all.
        rungs: How many there are.
        objective: What decides.
        seed: Of the resamples.
        always: Trials that are kept whatever they are worth, as what the others are measured against.
        stop: Told of each trial that does not go on from a rung.

    Returns:
        What was measured, and why each trial that did not reach the last rung stopped: ``failed``, ``worse`` (than the
        best of its rung, by a 95 % interval on the same examples), ``not among the best``, ``budget``.
    """
    results: Results = {}
    number = 0
    while number < wanted(results):
        outcome = measure(number, 0)
        if outcome is None:
            break
        results[number, 0] = outcome
        number += 1
    stopped: dict[int, str] = {}
    for rung in range(1, rungs):
        level = {trial: found for (trial, at), found in results.items() if at == rung - 1}
        alive, why = survivors(level, objective, _places(number, rung), seed, always)
        stopped |= why
        for trial in why:
            stop(trial, rung - 1)
        for trial in alive:
            outcome = measure(trial, rung) if "budget" not in stopped.values() else None
            if outcome is None:
                stopped[trial] = "budget"
            else:
                results[trial, rung] = outcome
    last = {trial: found for (trial, at), found in results.items() if at == rungs - 1}
    stopped |= {trial: "failed" for trial, found in last.items() if found.value is None}
    return results, stopped


def survivors(
    level: Mapping[int, Outcome], objective: Objective, most: int, seed: int, always: Collection[int] = ()
) -> tuple[list[int], dict[int, str]]:
    """Who goes on from a rung, the best first, and why the others do not.

    At most ``most`` go on (those ``always`` kept do not count among them unless they are good enough), and none that is
    worse than the best beyond chance.
    """
    ranked = ranking(level, objective)
    why = {trial: "failed" for trial, found in level.items() if found.value is None}
    for place, trial in enumerate(ranked):
        if clearly_worse(level[trial], level[ranked[0]], objective, seed):
            why[trial] = "worse"
        elif place >= most:
            why[trial] = "not among the best"
    for trial in always:
        if why.get(trial) != "failed":
            why.pop(trial, None)
    return [trial for trial in ranked if trial not in why], why


def ranking(level: Mapping[Key, Outcome], objective: Objective) -> list[Key]:
    """Trials that have a value, the best first; of equal ones the first."""
    values = {trial: objective.gain(found.value) for trial, found in level.items() if found.value is not None}
    return sorted(values, key=lambda trial: (-values[trial], trial))


def clearly_worse(one: Outcome, best: Outcome, objective: Objective, seed: int) -> bool:
    """Whether one is worse than another on the same examples by more than chance; never without examples."""
    if not len(one.items) or one is best:
        return False
    rng = np.random.default_rng([seed, 11])
    found = paired_bootstrap(one.items, best.items, statistic=objective.of, rng=rng, resamples=RESAMPLES)
    return (found.high if objective.higher_is_better else -found.low) < 0


def selection_optimism(items: Sequence[Any], objective: Objective, seed: int) -> float | None:
    """By how much at most the best of several looks better than it is, because it was chosen by these very examples.

    In each resample the best by the examples that were drawn is judged by those that were not. That is on the safe
    side: for settings that are all equally good it says up to twice the truth.

    Args:
        items: What is known of each example, for each of the settings that were chosen among; at least two.
        objective: What they were chosen by.
        seed: Of the resamples.

    Returns:
        In the objective's unit, 0 or more; None where fewer than two were compared, or on too few examples.

    Source:
        Tsamardinos et al. 2018, bootstrap bias corrected cross-validation, doi:10.1007/s10994-018-5714-4.
    """
    values = [np.asarray(found) for found in items]
    if len(values) < 2 or len(values[0]) < 10:
        return None
    sign, rng = (1.0 if objective.higher_is_better else -1.0), np.random.default_rng([seed, 12])
    differences: list[NDArray[np.float64]] = []
    for counts in resample_counts(None, len(values[0]), rng, RESAMPLES):
        drawn = sign * np.array([objective.of(found, counts) for found in values])  # (settings, resamples)
        others = sign * np.array([objective.of(found, (counts == 0).astype(np.float64)) for found in values])
        best, each = drawn.argmax(0), np.arange(drawn.shape[1])
        differences.append(drawn[best, each] - others[best, each])
    found = float(np.nanmean(np.concatenate(differences)))
    return max(0.0, found) if math.isfinite(found) else None
