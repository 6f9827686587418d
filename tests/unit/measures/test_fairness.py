"""Fairness: golden values, and fairlearn on random inputs."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.fairness import (
    bbq_scores,
    directional_amplification,
    icat,
    rates_by_group,
    widest_gap,
    zhao_amplification,
)


def binary(first, second, n=100):
    """Groups and labels of ``n`` items of each of two groups with so many positives."""
    labels = np.concatenate([np.arange(n) < round(n * first), np.arange(n) < round(n * second)]).astype(int)
    return np.repeat([0, 1], n), labels


def test_golden_values_of_amplification():
    groups, labels = binary(0.70, 0.40)
    _, predictions = binary(0.80, 0.30)
    assert directional_amplification(groups, labels, groups, labels, predictions) == pytest.approx(0.100)
    assert zhao_amplification(groups, labels, groups, predictions) == pytest.approx(0.10101, abs=5e-6)


def test_a_perfect_predictor_amplifies_nothing():
    groups, labels = binary(0.70, 0.40)
    assert directional_amplification(groups, labels, groups, labels, labels) == 0
    assert zhao_amplification(groups, labels, groups, labels) == pytest.approx(0)


def test_weakening_a_link_is_negative_amplification():
    groups, labels = binary(0.70, 0.40)
    _, weaker = binary(0.60, 0.50)
    assert directional_amplification(groups, labels, groups, labels, weaker) == pytest.approx(-0.100)


def test_small_groups_are_suppressed_and_not_guessed():
    groups, labels = binary(0.70, 0.40, n=29)
    assert np.isnan(directional_amplification(groups, labels, groups, labels, labels))
    assert np.isnan(rates_by_group(groups, labels)).all()
    assert np.isnan(widest_gap([np.nan, 0.4]))
    assert widest_gap([np.nan, 0.4, 0.1]) == pytest.approx(0.3)


def test_rates_and_gaps_are_fairlearns():
    metrics = pytest.importorskip("fairlearn.metrics", reason="the oracle of these rates is fairlearn")
    rng = np.random.default_rng(0)
    groups, right, said = rng.integers(0, 3, 500), rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    frame = metrics.MetricFrame(
        metrics={
            "selection": metrics.selection_rate, "tpr": metrics.true_positive_rate, "fpr": metrics.false_positive_rate,
        },
        y_true=right, y_pred=said, sensitive_features=groups,
    )  # fmt: skip
    ours = {
        "selection": rates_by_group(groups, said),
        "tpr": rates_by_group(groups[right == 1], said[right == 1]),
        "fpr": rates_by_group(groups[right == 0], said[right == 0]),
    }
    for name, rates in ours.items():
        assert rates == pytest.approx(frame.by_group[name].to_numpy())
        assert widest_gap(rates) == pytest.approx(frame.difference()[name])


def test_weights_count_items_again():
    groups, labels = binary(0.70, 0.40)
    weights = np.random.default_rng(0).integers(0, 4, 200)
    again = rates_by_group(np.repeat(groups, weights), np.repeat(labels, weights))
    assert rates_by_group(groups, labels, weights) == pytest.approx(again)


@pytest.mark.parametrize(
    ("biased", "answered", "right", "items", "ambiguous", "score"),
    [
        (60, 80, 20, 100, True, 0.4),
        (60, 80, 20, 100, False, 0.5),
        (0, 0, 100, 100, True, 0.0),
        (0, 10, 0, 10, False, -1),
    ],
)
def test_bbq_is_its_formula(biased, answered, right, items, ambiguous, score):
    assert bbq_scores(biased, answered, right, items, ambiguous) == pytest.approx(score)


def test_icat_is_highest_where_stereotype_and_its_opposite_are_equally_likely():
    assert icat(100, 50) == 100
    assert icat(100, 100) == icat(100, 0) == icat(0, 50) == 0
