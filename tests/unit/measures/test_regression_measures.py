"""Correlations and errors: what is not defined, ties, and the cost of ten thousand resamples."""

import time

import numpy as np
import pytest

from tunesmith.measures import regression
from tunesmith.measures.uncertainty import bootstrap_interval

STATISTICS = [(regression.pearson, regression.pearson_statistic), (regression.spearman, regression.spearman_statistic)]


@pytest.mark.parametrize("measure", [regression.pearson, regression.spearman])
def test_equal_predictions_count_as_unrelated_and_equal_targets_are_refused(measure):
    assert measure([0.1, 0.1, 0.1], [1, 2, 3]) == 0.0
    with pytest.raises(ValueError, match="all 3 targets are 2"):
        measure([1, 2, 3], [2, 2, 2])
    with pytest.raises(ValueError, match="not finite"):
        measure([1, np.nan, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        measure([1, 2], [1, 2, 3])


@pytest.mark.parametrize("measure", [regression.pearson, regression.spearman])
def test_a_line_has_correlation_one_and_its_mirror_minus_one(measure):
    x = np.random.default_rng(0).normal(size=50)
    assert measure(3 * x + 1e6, x) == pytest.approx(1.0, abs=1e-9)
    assert measure(-x, x) == pytest.approx(-1.0)


def test_spearman_sees_order_only():
    x = np.random.default_rng(0).normal(size=50)
    assert regression.spearman(np.exp(3 * x), x) == pytest.approx(1.0)
    assert regression.pearson(np.exp(3 * x), x) < 0.9


@pytest.mark.parametrize(("measure", "statistic"), STATISTICS)
@pytest.mark.parametrize("steps", [3, 1000])
def test_a_resample_s_correlation_is_that_of_the_drawn_items(measure, statistic, steps):
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(size=(25, 2)) * steps) / steps  # few steps: many ties
    drawn = rng.integers(0, 25, (40, 25))
    counts = np.array([np.bincount(row, minlength=25) for row in drawn], dtype=float)
    expected = [measure(*values[row].T) for row in drawn]
    assert statistic(values, counts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("measure", "statistic"), STATISTICS)
def test_a_resample_without_spread_counts_as_unrelated(measure, statistic):
    values = np.array([[0.1, 0.3], [0.1, 0.7], [0.9, 0.7]])
    counts = np.array([[3.0, 0, 0], [2, 1, 0], [0, 1, 2], [1, 1, 1]])
    assert statistic(values, counts)[:3].tolist() == [0, 0, 0]
    assert statistic(values, counts)[3] == pytest.approx(0.5)


@pytest.mark.parametrize(("measure", "statistic"), STATISTICS)
def test_ten_thousand_resamples_of_a_thousand_items_take_seconds(measure, statistic):
    rng = np.random.default_rng(2)
    started = time.process_time()
    bootstrap_interval(rng.normal(size=(1000, 2)), statistic, rng=rng)
    assert time.process_time() - started < 10  # 1 to 2 s on one core; ten allow for a busy machine


def test_mean_absolute_error():
    assert regression.mean_absolute_error([0, 4], [1, 1]) == 2.0
    assert regression.mean_absolute_error([1, 1], [1, 1]) == 0.0
