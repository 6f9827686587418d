"""Memorisation: golden values, scikit-learn as the oracle, and intervals that hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score, roc_curve

from tunesmith.measures.memorization import (
    exposure,
    exposure_by_sample,
    is_recited,
    log_skew_normal,
    longest_match,
    membership_auc,
    recognised,
    true_positive_rate,
)


def test_golden_values_of_exposure():
    assert exposure(1, 10**6) == pytest.approx(19.93, abs=5e-3)
    assert exposure(1000, 10**6) == pytest.approx(9.97, abs=5e-3)
    assert exposure(7, 7) == 0
    with pytest.raises(ValueError, match="rank 8"):
        exposure(8, 7)


def test_auc_and_rate_are_scikit_learns():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0.6, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    truth, scores = np.repeat([1, 0], [300, 200]), np.concatenate([members, others])
    assert membership_auc(members, others).value == pytest.approx(roc_auc_score(truth, scores))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    for rate in (0.01, 0.1, 0.5):
        assert true_positive_rate(members, others, rate) == pytest.approx(true[false <= rate].max())
    assert true_positive_rate(members, others, 1.0) == 1


def test_the_interval_of_an_uninformative_score_holds_a_half_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = [
        (found := membership_auc(rng.normal(size=80), rng.normal(size=80))).low <= 0.5 <= found.high
        for _ in range(1000)
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_identical_scores_tell_nothing():
    found = membership_auc(np.ones(50), np.ones(50))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert true_positive_rate(np.ones(50), np.ones(50), 0.01) == 0


@pytest.mark.parametrize(
    ("text", "source", "length"), [("abcd", "xbcx", 2), ("", "a", 0), ("abc", "abc", 3), ("aab", "ab", 2)]
)
def test_longest_match(text, source, length):
    assert longest_match(text, source) == length


def test_recognised_counts_stand_for_their_rates():
    rng = np.random.default_rng(3)
    members, others = rng.normal(1, 1, 150), rng.normal(0, 1, 160)
    true, false = recognised(members, others, 0.01)
    assert false == 1  # 1 % of 160
    assert true == int((members > np.sort(others)[-2]).sum())
    assert true / 150 == true_positive_rate(members, others, 0.01)
    assert recognised(members, others, 0.001) == (int((members > others.max()).sum()), 0)


@pytest.mark.parametrize(
    ("text", "source", "recited"),
    [
        (range(20), range(20), True),
        ([*range(16), *range(90, 94)], range(20), True),  # ROUGE-L 0.8
        ([*range(15), *range(90, 95)], range(20), False),
        ([*range(50), *range(900, 930)], range(64), True),  # 50 in a row, ROUGE-L below
        ([*range(49), *range(900, 931)], range(64), False),
        ([], range(20), False),
    ],
)
def test_what_counts_as_recited(text, source, recited):
    assert is_recited(list(text), list(source)) is recited


def test_log_skew_normal_is_scipys(rng):
    for shape in (-4.0, 0.0, 1.0, 6.0):
        sample = scipy.stats.skewnorm.rvs(shape, loc=30, scale=4, size=4000, random_state=rng)
        mean, deviation, skewness = sample.mean(), sample.std(), scipy.stats.skew(sample)
        delta = np.sign(skewness) * np.sqrt(
            np.pi / 2 * abs(skewness) ** (2 / 3) / (abs(skewness) ** (2 / 3) + ((4 - np.pi) / 2) ** (2 / 3))
        )
        scale = deviation / np.sqrt(1 - 2 * delta**2 / np.pi)
        fitted = scipy.stats.skewnorm(delta / np.sqrt(1 - delta**2), mean - scale * delta * np.sqrt(2 / np.pi), scale)
        for x in np.quantile(sample, [0.002, 0.1, 0.5, 0.99]):
            assert log_skew_normal(x, sample) == pytest.approx(fitted.logcdf(x), abs=2e-3)
    normal = rng.normal(0, 1, 100_000)
    normal -= normal.mean()
    normal = np.concatenate([normal, -normal])  # no skewness
    for x in (-5.0, -12.0, -30.0):
        assert log_skew_normal(x * normal.std(), normal) == pytest.approx(scipy.stats.norm.logcdf(x), rel=1e-3)


def test_exposure_by_sample_is_the_rank_where_it_can_be_counted(rng):
    references = rng.normal(20, 2, 1000)
    loss = np.sort(references)[99]
    bits, p_value = exposure_by_sample(loss, references, 10**9)
    assert bits == pytest.approx(exposure(10**8, 10**9))
    assert p_value == 101 / 1001
    assert exposure_by_sample(0.0, references, 10**9) == (pytest.approx(np.log2(10**9)), 1 / 1001)
    bits, p_value = exposure_by_sample(20 - 2 * 4.5, references, 10**9)
    assert bits == pytest.approx(-scipy.stats.norm.logcdf(-4.5) / np.log(2), abs=3)
    assert exposure_by_sample(99.0, references, 10**9) == (0.0, 1.0)


def test_p_values_of_what_was_not_learned_are_uniform(rng):
    below = [exposure_by_sample(rng.normal(), rng.normal(size=200), 10**6)[1] <= 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(below) < 0.065


def test_the_error_behind_the_interval_is_that_of_resampling(rng):
    members, others = rng.normal(1, 1, 60), rng.normal(0, 1, 90)
    found = membership_auc(members, others)
    drawn = [
        roc_auc_score(np.repeat([1, 0], [60, 90]), np.concatenate([rng.choice(members, 60), rng.choice(others, 90)]))
        for _ in range(2000)
    ]
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.08)


def test_scores_that_are_wholly_apart_are_no_surer_than_their_number(rng):
    found = membership_auc(rng.random(30) + 2, rng.random(50))
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(30 / (30 + 1.96**2), abs=1e-4), 1.0)
    assert membership_auc(rng.random(30), rng.random(50) + 2).high == pytest.approx(1 - found.low)
