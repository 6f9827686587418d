"""The course of training in words: each shape of the curve is named for what it is, with the change that fits."""

import numpy as np
import pytest

from tunesmith.evaluate.course import course

UNITS = [2, 1, 3, 2] * 16


def line(step, mean, seed=0, **values):
    """A validation of 64 items whose loss per unit is the mean, with noise of its own for each seed."""
    losses = np.array(UNITS) * (mean + 0.01 * np.random.default_rng(seed).normal(size=len(UNITS)))
    return {"step": step, "loss": float(losses.sum() / sum(UNITS)), "losses": losses.tolist(), **values}


def falling(last):
    return [(step, 2.0 / step**0.3 + 0.01 * (step % 3)) for step in range(1, last + 1)]


def level(last):
    return [(step, 1.0 + 0.1 * (step % 3)) for step in range(1, last + 1)]


def told(lines, training, rng, selected=None, planned=None, per_epoch=10.0, **more):
    lowest = min(lines, key=lambda found: found["loss"])["step"] if selected is None else selected
    return course(lines, UNITS, training, lowest, planned or training[-1][0], per_epoch, 3e-4, rng, **more)


RISING = [line(0, 2.0, 1), line(10, 1.0, 2), line(20, 0.8, 3), line(30, 0.9, 4), line(40, 1.1, 5)]
CASES = {
    "rose": (RISING, falling(40), "rose", "From step 20 to step 40", "Set train.epochs=2."),
    "rose, training too": (RISING, level(40), "rose", "stayed as it was", "Lower train.learning_rate"),
    "still falling": (
        [line(0, 2.0, 1), line(10, 1.0, 2), line(20, 0.8, 3)], falling(20), "still_falling", "still falling",
        "Try train.epochs=4.",
    ),
    "never rose": (
        [line(0, 2.0, 1), line(10, 1.0, 2), line(20, 0.9999, 2)], falling(20), "never_rose", "last step, 20", "",
    ),
    "at once": ([line(0, 1.0, 1), line(10, 1.3, 2), line(20, 1.4, 3)], falling(20), "rose_at_once", "before training",
                "Lower train.learning_rate, now 3.0e-04, to about 1e-04."),
    "noise": ([line(0, 2.0, 1), line(10, 1.0, 2), line(20, 1.006, 7)], falling(20), "noise", "no more than noise", ""),
    "once": ([line(0, 2.0, 1), line(20, 1.0, 2)], falling(20), "measured_once", "cannot be said", "evals_per_epoch"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_curve_is_named_for_what_it_is(name, rng):
    lines, training, case, words, change = CASES[name]
    found = told(lines, training, rng)
    assert (found["status"], found["case"]) == ("ok", case)
    assert words in found["sentence"]
    assert change in found["change"] if change else found["change"] == ""
    assert "early" not in found["sentence"]


def test_the_sentence_of_a_rise_says_all_of_it(rng):
    found = told(RISING, falling(40), rng)
    assert found["sentence"].startswith("From step 20 to step 40 validation loss rose by 0.298 (95 %")
    assert found["sentence"].endswith("while training loss fell: 2 epochs were enough.")
    first = told([RISING[0], *RISING[2:]], falling(40), rng, per_epoch=20.0)
    assert "1 epoch was enough. That was the first validation" in first["sentence"]
    few = told([line(0, 2.0, 1), line(1, 1.0, 2), line(2, 1.5, 3)], falling(2), rng)
    assert "too few steps" in few["sentence"]


@pytest.mark.parametrize("lines", [RISING, CASES["never rose"][0], CASES["still falling"][0]])
def test_training_that_stopped_early_is_said_to_and_never_told_to_go_on(lines, rng):
    found = told(lines, falling(lines[-1]["step"]), rng, planned=100)
    assert f"stopped early, at step {lines[-1]['step']} of 100" in found["sentence"]
    assert "Try" not in found["change"]


def test_the_regret_is_the_plain_difference_and_each_best_step_its_own(rng):
    right = {0: 0.0, 10: 0.5, 20: 0.75, 30: 1.0, 40: 0.75}
    lines = [
        found | {"accuracy": share, "metric_items": [float(i < 64 * share) for i in range(64)],
                 "expected_calibration_error": 0.3 - found["step"] / 200}
        for found, share in zip(RISING, right.values(), strict=True)
    ]  # fmt: skip
    found = told(lines, falling(40), rng, selected=30, metric="accuracy")
    assert found["best_steps"] == {"loss": 20, "accuracy": 30, "expected_calibration_error": 40}
    assert found["regret"]["accuracy"]["value"] == pytest.approx(0.25)
    by_step = {entry["step"]: entry["loss"] for entry in lines}
    loss = found["regret"]["loss"]
    assert loss["value"] == pytest.approx(by_step[40] - by_step[30])
    assert loss["low"] <= loss["value"] <= loss["high"]
    same = told(lines, falling(40), rng, selected=40, metric="accuracy")
    assert same["regret"]["loss"]["value"] == same["regret"]["accuracy"]["high"] == 0


def test_what_was_not_kept_item_by_item_is_not_run(rng):
    for lines in (RISING[1:], RISING[:-1], []):
        found = course(lines, UNITS, falling(40), 20, 40, 10.0, 3e-4, rng)
        assert found["status"] == "not_run"
