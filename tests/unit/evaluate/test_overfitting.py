"""Overfitting's verdict: two signs, and a sentence that says them."""

import numpy as np
import pytest

from tunesmith.errors import EvaluationError
from tunesmith.evaluate.overfitting import control, overfitting, with_permuted_answers
from tunesmith.records import Example, Message


def losses(mean, n, seed):
    return mean + 0.2 * np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize(
    ("train", "last", "verdict"),
    [(1.0, 1.01, "none"), (0.5, 1.01, "mild"), (1.0, 1.4, "mild"), (0.5, 1.4, "overfit")],
)
def test_the_verdict_counts_the_two_signs(train, last, verdict, rng):
    curve = [(10, 1.3), (20, 1.0), (30, last)]
    found = overfitting(losses(train, 100, 1), losses(1.0, 80, 2), curve, 20, 30, rng)
    assert found["verdict"] == verdict
    assert found["gap"] == pytest.approx(found["validation_loss"] - found["train_loss"])
    assert found["low"] <= found["gap"] <= found["high"]
    assert found["last_minus_best"] == pytest.approx(last - 1.0)
    assert (found["n_train"], found["n_validation"]) == (100, 80)
    assert "step 20" in found["sentence"]


def test_training_that_ended_at_its_best_is_said_to(rng):
    found = overfitting(losses(0.5, 50, 1), losses(1.0, 50, 2), [(10, 1.2), (20, 1.0)], 20, 20, rng)
    assert found["last_minus_best"] == 0
    assert found["sentence"].endswith("the last step, 20, was the best.")


def test_the_sentence_says_what_the_losses_are_in(rng):
    curve = [(10, 1.2), (20, 1.0)]
    found = overfitting(losses(0.5, 50, 1), losses(1.0, 50, 2), curve, 20, 20, rng, "in nats per pair")
    assert "validation loss in nats per pair is 0." in found["sentence"]


def test_a_curve_without_the_last_step_leaves_the_rise_unknown(rng):
    found = overfitting([0.5, 0.6], [1.0, 1.1], [(10, 1.0)], 10, 15, rng)
    assert found["last_minus_best"] is None


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")]])
def test_losses_that_are_missing_or_not_finite_are_refused(bad, rng):
    with pytest.raises(EvaluationError, match="validation losses are not finite"):
        overfitting([1.0, 1.1], bad, [], 1, 1, rng)


def test_permuted_answers_are_the_same_ones_elsewhere(rng):
    labelled = [Example(f"f:{i}", text=f"text {i}", label=str(i)) for i in range(50)]
    permuted = with_permuted_answers(labelled, rng)
    assert [e.text for e in permuted] == [e.text for e in labelled]
    assert sorted(e.label for e in permuted) == sorted(e.label for e in labelled)
    assert sum(a.label == b.label for a, b in zip(permuted, labelled, strict=True)) < 10
    written = [Example(f"f:{i}", (Message("user", f"q {i}"), Message("assistant", f"a {i}"))) for i in range(50)]
    permuted = with_permuted_answers(written, rng)
    assert [e.messages[0] for e in permuted] == [e.messages[0] for e in written]
    assert {e.messages[1] for e in permuted} == {e.messages[1] for e in written}
    assert [e.messages[1] for e in permuted] != [e.messages[1] for e in written]


def test_the_control_says_how_far_the_loss_fell():
    found = control(200, 0.7, 0.65)
    assert "brought their loss from 0.70 to 0.65" in found["sentence"]
    assert (found["n"], found["start_loss"], found["end_loss"]) == (200, 0.7, 0.65)
