"""Fairness: golden values, and fairlearn on random inputs."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.fairness import (
    bbq_scores,
    directional_amplification,
    group_rates,
    icat,
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
    assert all(np.isnan(rates).all() for rates in group_rates(groups, labels, labels))
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
    ours = group_rates(groups, right, said)
    for name, table in (("selection", ours.said), ("tpr", ours.true_positive), ("fpr", ours.false_positive)):
        rates = table[:, 1]
        assert rates == pytest.approx(frame.by_group[name].to_numpy())
        assert widest_gap(rates) == pytest.approx(frame.difference()[name])


def test_the_rates_of_each_of_several_labels_are_those_of_it_against_the_rest():
    rng = np.random.default_rng(1)
    groups, right, said = rng.integers(0, 2, 600), rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    found = group_rates(groups, right, said)
    for label in range(3):
        alone = group_rates(groups, right == label, said == label)
        for rates, of_label in zip(found[:4], alone[:4], strict=True):
            assert rates[:, label] == pytest.approx(of_label[:, 1])
    assert found.accuracy == pytest.approx([np.mean((right == said)[groups == g]) for g in (0, 1)])


def test_weights_count_items_again():
    groups, labels = binary(0.70, 0.40)
    said = np.random.default_rng(1).integers(0, 2, 200)
    weights = np.random.default_rng(0).integers(0, 4, (3, 200))
    weighted = group_rates(groups, labels, said, weights, smallest=1)
    directional = directional_amplification(groups, labels, groups, labels, said, weights=weights)
    zhao = zhao_amplification(groups, labels, groups, said, weights)
    for row, counts in enumerate(weights):
        again = [np.repeat(values, counts) for values in (groups, labels, said)]
        for found, expected in zip(weighted, group_rates(*again, smallest=1), strict=True):
            assert found[row] == pytest.approx(expected)
        assert directional[row] == pytest.approx(directional_amplification(groups, labels, *again))
        assert zhao[row] == pytest.approx(zhao_amplification(groups, labels, again[0], again[2]))


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
