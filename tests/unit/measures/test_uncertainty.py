"""Intervals and paired comparisons: golden values, promised coverage, and what is never evidence."""

import math
import time

import numpy as np
import pytest

from tunesmith.measures.uncertainty import (
    bootstrap_interval,
    detectable_by_stderr,
    difference_of_means,
    holm,
    mcnemar,
    mean_standard_error,
    minimum_detectable_effect,
    paired_bootstrap,
    paired_shares,
    required_items,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(160, 200, 0.7391, 0.8495), (0, 30, 0.0, 0.1135), (30, 30, 0.8865, 1.0)],
)
def test_wilson_meets_the_golden_values(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.value == successes / n
    assert interval.n == n


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        wilson_interval(successes, n)


def test_mcnemar_meets_the_golden_values():
    exact, mid = mcnemar(30, 14)
    assert (round(exact, 5), round(mid, 5)) == (0.02263, 0.01609)
    assert mcnemar(14, 30) == (exact, mid)


def test_mcnemar_without_a_difference_is_no_evidence():
    assert mcnemar(0, 0) == (1.0, 1.0)
    assert mcnemar(7, 7) == (1.0, 1.0)


def test_mcnemar_survives_thousands_of_discordant_items():
    exact, mid = mcnemar(6000, 5000)
    assert 0 < mid < exact < 1e-15


@pytest.mark.parametrize(
    ("effect", "discordance", "items"),
    [(0.05, 0.15, 469), (0.03, 0.15, 1306), (0.02, 0.10, 1960), (0.01, 0.10, 7847)],
)
def test_required_items_meets_the_golden_values_and_is_inverted(effect, discordance, items):
    assert required_items(effect, discordance) == items
    assert minimum_detectable_effect(items, discordance) <= effect
    assert minimum_detectable_effect(items - 1, discordance) > effect


def test_a_tiny_test_set_detects_only_what_fills_it():
    assert minimum_detectable_effect(3) == pytest.approx(1.0)
    assert minimum_detectable_effect(20) > 0.3  # more than the assumed discordance: all of it must go one way
    effects = [minimum_detectable_effect(n) for n in (5, 10, 50, 100, 500, 5000)]
    assert effects == sorted(effects, reverse=True)


def test_detectable_by_stderr_is_two_point_eight_standard_errors():
    assert detectable_by_stderr(0.01) == pytest.approx(0.028016, abs=1e-6)


def test_holm_keeps_order_and_never_lowers_a_p_value():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_standard_error_ignores_copies_only_when_told_of_clusters():
    scores = np.random.default_rng(0).normal(size=40)
    plain = mean_standard_error(scores)
    four_times = np.repeat(scores, 4)
    names = np.repeat(np.arange(40), 4).tolist()
    assert plain == pytest.approx(scores.std(ddof=1) / math.sqrt(40))
    assert mean_standard_error(scores, list(range(40))) == pytest.approx(plain)
    assert mean_standard_error(four_times, names) == pytest.approx(plain)
    assert mean_standard_error(four_times) < 0.51 * plain
    assert mean_standard_error([0.3, 0.4], ["one", "one"]) == math.inf


def test_bootstrap_resamples_clusters_whole():
    scores = np.random.default_rng(1).integers(0, 2, 60).astype(float)
    four_times, names = np.repeat(scores, 4), np.repeat(np.arange(60), 4).tolist()
    single = bootstrap_interval(scores, rng=np.random.default_rng(2))
    clustered = bootstrap_interval(four_times, clusters=names, rng=np.random.default_rng(2))
    naive = bootstrap_interval(four_times, rng=np.random.default_rng(2))
    assert (clustered.low, clustered.high) == (single.low, single.high)  # the same groups are drawn
    assert naive.high - naive.low < 0.6 * (single.high - single.low)
    assert clustered.n == 240


def test_bootstrap_of_any_statistic():
    values = np.random.default_rng(3).normal(5.0, 2.0, 300)

    def variance(items, counts):
        means = counts @ items / counts.sum(axis=1)
        return counts @ items**2 / counts.sum(axis=1) - means**2

    interval = bootstrap_interval(values, variance, rng=np.random.default_rng(4))
    assert interval.value == pytest.approx(values.var())
    assert interval.low < values.var() < interval.high


def test_identical_systems_are_never_different():
    scores = np.random.default_rng(5).random(80)
    paired = paired_bootstrap(scores, scores, rng=np.random.default_rng(6))
    assert (paired.difference, paired.low, paired.high, paired.p_value, paired.stderr) == (0, 0, 0, 1, 0)


def test_swapping_the_systems_swaps_the_signs():
    a, b = np.random.default_rng(7).random((2, 50))
    ahead = paired_bootstrap(a, b, rng=np.random.default_rng(8))
    behind = paired_bootstrap(b, a, rng=np.random.default_rng(8))
    assert (ahead.difference, ahead.low, ahead.high) == pytest.approx(
        (-behind.difference, -behind.high, -behind.low), abs=1e-12
    )
    assert ahead.p_value == behind.p_value


def test_pairing_is_what_makes_a_small_difference_visible():
    rng = np.random.default_rng(9)
    hard = rng.random(400)
    better = hard + 0.02 + 0.01 * rng.normal(size=400)
    paired = paired_bootstrap(better, hard, rng=rng)
    apart = difference_of_means(better, hard, rng=rng)
    assert paired.low > 0.01
    assert apart.low < 0 < apart.high


def test_length_and_emptiness_are_checked():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="3 items and b 2"):
        paired_bootstrap([1, 2, 3], [1, 2], rng=rng)
    with pytest.raises(ValueError, match="no items"):
        bootstrap_interval([], rng=rng)
    with pytest.raises(ValueError, match="2 clusters for 3 items"):
        bootstrap_interval([1, 2, 3], clusters=["x", "y"], rng=rng)


def test_five_hundred_items_take_a_fraction_of_a_second():
    a, b = np.random.default_rng(0).random((2, 500))
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        paired_bootstrap(a, b, rng=np.random.default_rng(1))
        best = min(best, time.process_time() - start)
    assert best < 0.6  # about 0.1 s on one quiet core


def simulated(experiments, items, effect, rng):
    """Scores of two systems on the same items, right or wrong, whose true accuracies differ by ``effect``."""
    for _ in range(experiments):
        which = rng.random(items)
        only_a, only_b, both = which < 0.10 + effect, which > 0.90, (which > 0.4) & (which <= 0.90)
        yield (only_a | both).astype(float), (only_b | both).astype(float)


def test_intervals_cover_the_truth_as_often_as_promised():
    rng = np.random.default_rng(10)
    covered = 0
    for a, b in simulated(2000, 200, 0.08, rng):
        paired = paired_bootstrap(a, b, rng=rng, resamples=1000)
        covered += paired.low <= 0.08 <= paired.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(11)
    by_bootstrap = by_mcnemar = 0
    for a, b in simulated(2000, 200, 0.0, rng):
        by_bootstrap += paired_bootstrap(a, b, rng=rng, resamples=1000).p_value < 0.05
        by_mcnemar += mcnemar(int(np.sum(a > b)), int(np.sum(b > a)))[1] < 0.05
    assert 0.03 <= by_bootstrap / 2000 <= 0.06
    assert 0.03 <= by_mcnemar / 2000 <= 0.06


def test_wilson_covers_the_truth_as_often_as_promised():
    rng = np.random.default_rng(12)
    intervals = [wilson_interval(int(k), 120) for k in rng.binomial(120, 0.9, 2000)]
    assert 0.93 <= np.mean([i.low <= 0.9 <= i.high for i in intervals]) <= 0.97


def test_the_detectable_effect_is_detected_four_times_in_five():
    rng = np.random.default_rng(13)
    effect = 0.08
    items = required_items(effect, 0.10 + 0.10 + effect)
    detected = sum(
        mcnemar(int(np.sum(a > b)), int(np.sum(b > a)))[1] < 0.05 for a, b in simulated(2000, items, effect, rng)
    )
    assert 0.77 <= detected / 2000 <= 0.85


def test_paired_shares_are_newcombes_and_have_a_width_where_nothing_differs():
    found = paired_shares(36, 12, 2, 50)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)
    turned = paired_shares(36, 2, 12, 50)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    for both in (0, 50):
        same = paired_shares(both, 0, 0, 50)
        assert same.value == 0
        assert -0.08 < same.low < 0 < same.high < 0.08


@pytest.mark.parametrize("shares", [(0.0, 0.1, 0.0), (0.02, 0.3, 0.01), (0.2, 0.1, 0.1)])
def test_paired_shares_hold_the_truth_as_often_as_they_say(shares, rng):
    counts = rng.multinomial(50, [*shares, 1 - sum(shares)], size=2000)
    truth = shares[1] - shares[2]
    held = [(found := paired_shares(b, x, y, 50)).low <= truth <= found.high for b, x, y, _ in counts.tolist()]
    assert np.mean(held) >= 0.93
