"""Successive halving with trials whose worth is known: who goes on, what it costs, what choosing flatters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tunesmith.search.halving import (
    Outcome,
    Results,
    examples_trained,
    lengths,
    most_trials,
    objective_by,
    selection_optimism,
    successive_halving,
    survivors,
)

LOSS, ACCURACY = objective_by("loss"), objective_by("accuracy")


def outcome(value: float | None, items: object = ()) -> Outcome:
    return Outcome(value, items, 10, 1.0)  # type: ignore[arg-type]


def run(worth: list[float | None], rungs: int = 3, **changes: object) -> tuple[Results, dict[int, str]]:
    def measure(trial: int, rung: int) -> Outcome | None:
        return outcome(worth[trial])

    return successive_halving(
        **{"measure": measure, "wanted": lambda _: len(worth), "rungs": rungs, "objective": LOSS, "seed": 0} | changes
    )


def test_a_third_goes_on_and_the_projects_own_setting_to_the_end() -> None:
    worth: list[float | None] = [9.0, *(1.0 + 0.1 * i for i in range(17))]
    results, stopped = run(worth)
    at = {rung: sorted(trial for trial, level in results if level == rung) for rung in range(3)}
    assert at == {0: list(range(18)), 1: [0, 1, 2, 3, 4, 5, 6], 2: [0, 1, 2]}
    assert Counter(stopped.values()) == {"not among the best": 15} and 0 not in stopped


def test_a_higher_metric_is_better() -> None:
    results, _ = run([0.1, 0.9, 0.5, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1], objective=ACCURACY, always=())
    assert [trial for trial, rung in results if rung == 2] == [1]


def test_one_that_fails_is_dropped_and_the_others_go_on() -> None:
    results, stopped = run([None, 2.0, 1.0, None, 3.0, 4.0])
    assert stopped[0] == stopped[3] == "failed"
    assert [trial for trial, rung in results if rung == 2] == [2]
    assert run([None, None])[1] == {0: "failed", 1: "failed"}


def test_a_budget_that_ends_leaves_what_was_measured() -> None:
    asked: list[tuple[int, int]] = []

    def measure(trial: int, rung: int) -> Outcome | None:
        asked.append((trial, rung))
        return None if rung == 1 and trial == 2 else outcome(float(trial))

    results, stopped = run([0.0] * 9, measure=measure)
    assert asked[-1] == (2, 1)  # nothing is asked for after that
    assert stopped[2] == "budget" and {(0, 1), (1, 1)} < set(results) and (0, 2) not in results


def test_the_number_of_trials_may_follow_from_what_the_first_took() -> None:
    results, _ = run([1.0] * 50, wanted=lambda seen: 3 if len(seen) >= 2 else 50, rungs=1)
    assert len(results) == 3


def test_one_that_is_worse_beyond_chance_leaves_its_place_empty(rng: np.random.Generator) -> None:
    base = rng.random(200)
    noise = [base + 0.2 * rng.standard_normal(200) for _ in range(3)]
    losses = [noise[0], noise[1] + 0.2, noise[2] + 0.002]
    level = {i: outcome(float(x.mean()), np.stack([x, np.ones(200)], axis=1)) for i, x in enumerate(losses)}
    kept, why = survivors(level, LOSS, 3, seed=0)
    assert (sorted(kept), why) == ([0, 2], {1: "worse"})
    assert survivors(level, LOSS, 1, seed=0, always=(1,))[0] == sorted(survivors(level, LOSS, 1, 0)[0] + [1])


def test_what_stops_is_told_of_with_its_rung() -> None:
    told: list[tuple[int, int]] = []
    run([float(i) for i in range(9)], stop=lambda trial, rung: told.append((trial, rung)))
    assert sorted(told) == [(1, 1), (2, 1), *((i, 0) for i in range(3, 9))]


# ── lengths and costs ────────────────────────────────────────────────────────────────────────────────────
def test_rungs_have_a_ninth_a_third_and_all_unless_that_is_too_little() -> None:
    assert lengths(9000, 16) == [1000, 3000, 9000]
    assert lengths(1000, 16) == [pytest.approx(1000 / 3), 1000]  # a ninth would be seven steps
    assert lengths(100, 16) == [100]


def test_cost_is_what_stems_and_branches_take() -> None:
    rungs = [100.0, 300.0, 900.0]
    assert examples_trained(9, rungs) == 9 * 100 + (3 + 1) * (300 - 80) + (1 + 1) * (900 - 240)
    assert examples_trained(1, rungs) == 100 + 220 + 660  # the project's own setting alone
    assert most_trials(examples_trained(9, rungs), rungs) == 9
    assert most_trials(examples_trained(9, rungs) - 1, rungs) == 8
    assert most_trials(50, rungs) == 0


# ── what choosing flatters ───────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("settings", [3, 12])
def test_optimism_of_equal_settings_is_no_less_than_a_simulation_says(settings: int) -> None:
    """Settings that are equally good: the best on n examples looks better than the truth, which is known here."""
    n, found, true = 150, [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        right = (rng.random((settings, n)) < 0.7).astype(float)
        true.append(right.mean(1).max() - 0.7)
        found.append(selection_optimism(right, ACCURACY, seed))
    assert 1.0 < np.mean(found) / np.mean(true) < 2.2  # on the safe side, as its source says


def test_optimism_of_one_that_is_far_ahead_is_nothing() -> None:
    losses = [np.stack([np.full(50, value), np.ones(50)], axis=1) for value in (1.0, 2.0, 3.0)]
    assert selection_optimism(losses, LOSS, 0) == pytest.approx(0, abs=1e-9)
    assert selection_optimism(losses[:1], LOSS, 0) is None
