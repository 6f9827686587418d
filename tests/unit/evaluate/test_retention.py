"""The retention matrix of a sequence of stages, and what replay brings back, with intervals."""

import json

import numpy as np
import pytest

from tunesmith.errors import EvaluationError
from tunesmith.evaluate.retention import TaskAnswers, recovery, retention
from tunesmith.measures.retention import average_accuracy, average_forgetting, backward_transfer, forward_transfer
from tunesmith.records import Prediction

GOLDEN = [[0.80, 0.30, 0.25], [0.70, 0.85, 0.30], [0.60, 0.75, 0.90]]
BASE = [0.40, 0.30, 0.25]


def rng():
    return np.random.default_rng(0)


def answers(task, share, n=100, seed=None):
    """Predictions of which exactly a share is right; a seed says which, otherwise the first ones."""
    order = np.random.default_rng(seed).permutation(n) if seed is not None else np.arange(n)
    return [
        Prediction(f"{task} {i:04}", "tune/x/lora", "yes" if order[i] < round(share * n) else "no", "yes", 0.0)
        for i in range(n)
    ]


def sequence(matrix, base, n=100, seeded=True):
    return [
        TaskAnswers(
            f"task {j}",
            "accuracy",
            answers(j, base[j], n, 90 + j if seeded else None),
            [answers(j, row[j], n, 10 * i + j if seeded else None) for i, row in enumerate(matrix)],
        )
        for j in range(len(base))
    ]


def test_golden_values_with_intervals_around_them():
    found = retention(sequence(GOLDEN, BASE), rng())
    assert [[cell.value for cell in row] for row in found.matrix] == GOLDEN
    assert [cell.value for cell in found.base] == BASE
    assert (found.matrix[0][0].low, found.matrix[0][0].high) == pytest.approx((0.7111, 0.8666), abs=1e-3)  # Wilson
    for name, value in (
        ("average_accuracy", 0.75),
        ("backward_transfer", -0.15),
        ("forward_transfer", 0.025),
        ("average_forgetting", 0.15),
    ):
        interval = getattr(found, name)
        assert interval.value == pytest.approx(value)
        assert interval.low < value < interval.high
        assert interval.n == 300
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["matrix"][2][0]["value"] == 0.6


def test_stages_are_judged_on_the_same_resamples():
    # the same answers after every stage: nothing was forgotten, and there is no doubt about it
    same = retention(sequence([[0.7, 0.5], [0.7, 0.5]], [0.7, 0.5], seeded=False), rng())
    for measure in (same.backward_transfer, same.forward_transfer, same.average_forgetting):
        assert (measure.value, measure.low, measure.high) == (0.0, 0.0, 0.0)
    assert same.average_accuracy.high > same.average_accuracy.low


def test_a_measure_is_the_pure_one_of_the_matrix():
    matrix, base = np.round(rng().random((4, 4)), 2), np.round(rng().random(4), 2)
    found = retention(sequence(matrix, base), rng(), resamples=50)
    assert found.average_accuracy.value == pytest.approx(float(average_accuracy(matrix)))
    assert found.backward_transfer.value == pytest.approx(float(backward_transfer(matrix)))
    assert found.forward_transfer.value == pytest.approx(float(forward_transfer(matrix, base)))
    assert found.average_forgetting.value == pytest.approx(float(average_forgetting(matrix)))


def test_what_was_not_asked_is_not_made_up():
    tasks = [TaskAnswers(t.name, t.metric, None, t.stages) for t in sequence(GOLDEN, BASE)]
    found = retention(tasks, rng(), resamples=50)
    assert found.base == (None, None, None)
    assert found.forward_transfer is None
    assert found.backward_transfer.value == pytest.approx(-0.15)
    one = retention(sequence([[0.8]], [0.4]), rng(), resamples=50)
    assert (one.average_accuracy.value, one.backward_transfer, one.average_forgetting) == (0.8, None, None)


def test_tasks_in_units_of_their_own_have_a_matrix_but_no_mean():
    def numbers(task, error):
        return [Prediction(f"{task} {i:03}", "tune/x/head", str(i + error), str(i), 0.0) for i in range(40)]

    first = TaskAnswers("a", "mae", numbers("a", 3.0), [numbers("a", 1.0), numbers("a", 2.5)])
    second = TaskAnswers("b", "mae", numbers("b", 9.0), [numbers("b", 9.0), numbers("b", 4.0)])
    found = retention([first, second], rng(), 50)
    assert found.matrix[1][0].value == pytest.approx(2.5)
    assert found.backward_transfer is None
    assert "different units (mean absolute error)" in found.reason
    with pytest.raises(EvaluationError, match="Compare the sequences task by task"):
        recovery([first, second], [first, second], rng(), 50)


def test_the_share_that_replay_brings_back():
    n = 400
    without = sequence([[0.90, 0.10], [0.50, 0.80]], [0.1, 0.1], n)
    replay = sequence([[0.90, 0.10], [0.84, 0.79]], [0.1, 0.1], n)
    found = recovery(without, replay, rng())
    assert found.forgotten.value == pytest.approx(0.40)
    assert found.forgotten_still.value == pytest.approx(0.06)
    assert found.kept.value == pytest.approx(0.34)
    assert found.share.value == pytest.approx(0.85)
    assert 0.7 < found.share.low < 0.85 < found.share.high < 1.0
    assert found.last_task.value == pytest.approx(-0.01)
    assert found.last_task.low < -0.01 < found.last_task.high
    assert found.last_task.n == n
    json.dumps(found.to_json(), allow_nan=False)


def test_replay_that_keeps_everything_keeps_all_of_it_for_certain():
    without = sequence([[0.9, 0.1], [0.5, 0.8]], [0.1, 0.1], seeded=False)
    replay = sequence([[0.9, 0.1], [0.9, 0.8]], [0.1, 0.1], seeded=False)
    found = recovery(without, replay, rng())
    assert (found.share.value, found.share.low, found.share.high) == (1.0, 1.0, 1.0)
    assert (found.last_task.value, found.last_task.low, found.last_task.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("after", [0.90, 0.89])
def test_where_little_was_forgotten_there_is_no_share(after):
    without = sequence([[0.90, 0.1], [after, 0.8]], [0.1, 0.1])
    found = recovery(without, sequence([[0.90, 0.1], [0.95, 0.8]], [0.1, 0.1]), rng(), 500)
    assert found.share is None
    assert "did not clearly forget" in found.reason
    json.dumps(found.to_json(), allow_nan=False)


def test_what_cannot_be_compared_is_refused():
    good = sequence(GOLDEN, BASE, 20)
    other = [*good[:2], TaskAnswers("task 9", "accuracy", *answers_of(good[2]))]
    with pytest.raises(EvaluationError, match=r"task 9 \(accuracy\): expected the same"):
        recovery(good, other, rng(), 10)
    with pytest.raises(EvaluationError, match="answers after 3 stages, but there are 2 tasks"):
        retention(good[:2], rng(), 10)
    with pytest.raises(EvaluationError, match="no tasks"):
        retention([], rng(), 10)
    shorter = [
        TaskAnswers("task 0", "accuracy", good[0].base, [good[0].stages[0][:-1], *good[0].stages[1:]]),
        *good[1:],
    ]
    with pytest.raises(EvaluationError, match="task 0: was asked with different test examples"):
        retention(shorter, rng(), 10)
    never = [TaskAnswers("task 0", "accuracy", None, [None] * 3), *good[1:]]
    with pytest.raises(EvaluationError, match="task 0: was never asked"):
        retention(never, rng(), 10)
    unasked = [TaskAnswers("task 0", "accuracy", None, [None, *good[0].stages[1:]]), *good[1:]]
    with pytest.raises(EvaluationError, match="forgetting is not defined"):
        recovery(unasked, unasked, rng(), 10)


def answers_of(task):
    return task.base, task.stages


def test_intervals_of_forgetting_and_of_its_recovery_hold_the_truth():
    """Synthetic streams with known rates: 95 % intervals hold the truth in 90 to 99 % of 200 experiments."""
    held = np.zeros(2)
    for seed in range(200):
        draw = np.random.default_rng(seed)
        easy = draw.random(300)  # examples that are easy after one stage are easy after another

        def said(share, draw=draw, easy=easy):
            right = 0.5 * easy + 0.5 * draw.random(300)
            # the sum of two uniforms on [0, 0.5] is below q with this probability: the threshold for a share
            limit = np.sqrt(share / 2) if share <= 0.5 else 1 - np.sqrt((1 - share) / 2)
            return [Prediction(f"{i:03}", "x", "yes" if ok else "no", "yes", 0.0) for i, ok in enumerate(right < limit)]

        last = said(0.8)
        before = said(0.9)
        without = [
            TaskAnswers("a", "accuracy", None, [before, said(0.5)]),
            TaskAnswers("b", "accuracy", None, [last, last]),
        ]
        replay = [
            TaskAnswers("a", "accuracy", None, [before, said(0.8)]),
            TaskAnswers("b", "accuracy", None, [last, last]),
        ]
        found = recovery(without, replay, draw, resamples=1000)
        held += [found.forgotten.low <= 0.4 <= found.forgotten.high, found.share.low <= 0.75 <= found.share.high]
    assert (held >= 180).all(), held
    assert (held <= 198).all(), held
