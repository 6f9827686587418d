"""Retention, mixing and gradients: golden values, and what is not defined."""

import numpy as np
import pytest

from tunesmith.measures.gradients import cosine_matrix
from tunesmith.measures.mixing import mixing_weights, normalized_weights
from tunesmith.measures.retention import average_accuracy, average_forgetting, backward_transfer, forward_transfer

GOLDEN = [[0.80, 0.30, 0.25], [0.70, 0.85, 0.30], [0.60, 0.75, 0.90]]
BASE = [0.40, 0.30, 0.25]


def test_golden_values():
    assert average_accuracy(GOLDEN) == pytest.approx(0.75)
    assert backward_transfer(GOLDEN) == pytest.approx(-0.15)
    assert forward_transfer(GOLDEN, BASE) == pytest.approx(0.025)
    assert average_forgetting(GOLDEN) == pytest.approx(0.15)


def test_resamples_are_measured_one_by_one():
    rng = np.random.default_rng(0)
    tables, base = rng.random((7, 3, 3)), rng.random((7, 3))
    for measure in (average_accuracy, backward_transfer, average_forgetting):
        assert measure(tables).tolist() == [float(measure(table)) for table in tables]
    assert forward_transfer(tables, base).tolist() == [
        float(forward_transfer(t, b)) for t, b in zip(tables, base, strict=True)
    ]


def test_a_missing_score_leaves_undefined_only_what_needs_it():
    without_next = np.array(GOLDEN)
    without_next[0, 1] = np.nan
    assert np.isnan(forward_transfer(without_next, BASE))
    assert average_forgetting(without_next) == pytest.approx(0.15)
    without_own = np.array(GOLDEN)
    without_own[0, 0] = np.nan
    assert np.isnan(backward_transfer(without_own))
    assert np.isnan(average_forgetting(without_own))
    assert average_accuracy(without_own) == pytest.approx(0.75)


def test_forgetting_counts_from_the_best_even_before_a_task_s_own_stage():
    assert average_forgetting([[0.5, 0.9, 0], [0.5, 0.6, 0], [0.5, 0.6, 0]]) == pytest.approx(0.15)


def test_one_stage_has_no_transfer():
    assert average_accuracy([[0.7]]) == pytest.approx(0.7)
    assert np.isnan(backward_transfer([[0.7]]))
    assert np.isnan(forward_transfer([[0.7]], [0.1]))
    assert np.isnan(average_forgetting([[0.7]]))
    with pytest.raises(ValueError, match="as many tasks as stages"):
        average_accuracy([[0.7, 0.8]])
    with pytest.raises(ValueError, match="one a task"):
        forward_transfer(GOLDEN, BASE[:2])


def test_mixing_follows_size_up_to_the_cap_and_flattens_with_temperature():
    assert mixing_weights([100, 300]) == [0.25, 0.75]
    assert mixing_weights([100, 30_000], cap=300) == [0.25, 0.75]
    assert mixing_weights([100, 900], temperature=2) == pytest.approx([0.25, 0.75])
    assert mixing_weights([1, 10**6], temperature=1e9) == pytest.approx([0.5, 0.5])
    assert normalized_weights([1, 0, 3]) == [0.25, 0.0, 0.75]


@pytest.mark.parametrize("bad", [{"sizes": [0, 5]}, {"temperature": 0.5}, {"cap": 0}, {"temperature": float("nan")}])
def test_mixing_refuses_what_has_no_meaning(bad):
    with pytest.raises(ValueError, match="at least 1"):
        mixing_weights(**{"sizes": [1, 2], "temperature": 1.0, "cap": None} | bad)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.5], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="not all of them 0"):
        normalized_weights(weights)


def test_cosines_of_gradients():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 40)).astype(np.float32)
    table = cosine_matrix(np.vstack([vectors, -2 * vectors[:1], np.zeros((1, 40))]))
    lengths = np.linalg.norm(vectors.astype(float), axis=1)
    assert table[:3, :3] == pytest.approx(vectors.astype(float) @ vectors.T / np.outer(lengths, lengths))
    assert table[0, 3] == pytest.approx(-1.0)
    assert np.array_equal(table, table.T)
    assert not table[4].any()
    with pytest.raises(ValueError, match="not finite"):
        cosine_matrix([[1.0, np.inf]])
    with pytest.raises(ValueError, match="one a row"):
        cosine_matrix([1.0, 2.0])


def test_cosines_are_the_same_in_blocks(monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(4, 50))
    whole = cosine_matrix(vectors)
    monkeypatch.setattr("tunesmith.measures.gradients.BLOCK", 7)
    assert cosine_matrix(vectors) == pytest.approx(whole)
