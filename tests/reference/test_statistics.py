"""Our statistics against scipy, statsmodels and scikit-learn on random inputs."""

import numpy as np
import pytest

from tunesmith.measures import metrics
from tunesmith.measures.uncertainty import (
    bootstrap_interval,
    holm,
    mcnemar,
    mean_standard_error,
    paired_bootstrap,
    wilson_interval,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 7), (160, 200), (999, 1000), (50, 50)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson(successes, n, confidence):
    ours = wilson_interval(successes, n, confidence)
    theirs = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (0, 5), (5, 5), (30, 14), (14, 30), (400, 350)])
def test_mcnemar(b, c):
    exact, mid = mcnemar(b, c)
    assert exact == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-10)
    tail = stats.binom.cdf(min(b, c), b + c, 0.5) - 0.5 * stats.binom.pmf(min(b, c), b + c, 0.5)
    assert mid == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_against_statsmodels():
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    theirs = contingency.mcnemar([[50, 30], [14, 20]], exact=True)
    assert mcnemar(30, 14)[0] == pytest.approx(theirs.pvalue, rel=1e-12)


def test_holm():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).random(12) ** 2
    assert holm(p_values.tolist()) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_standard_error():
    scores = np.random.default_rng(1).random(50)
    assert mean_standard_error(scores) == pytest.approx(stats.sem(scores))


def test_clustered_standard_error():
    linear = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 12, 90)
    scores = rng.random(90) + 0.3 * rng.random(12)[groups]
    fit = linear.OLS(scores, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    expected = fit.bse[0] * np.sqrt(12 / 11)
    assert mean_standard_error(scores, groups.tolist()) == pytest.approx(expected)


def test_bootstrap_interval_of_a_mean():
    values = np.random.default_rng(3).exponential(size=150)
    ours = bootstrap_interval(values, rng=np.random.default_rng(4), resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_paired_bootstrap_agrees_with_the_t_test_when_there_are_many_items():
    a, b = np.random.default_rng(6).random((2, 400))
    ours = paired_bootstrap(a, b, rng=np.random.default_rng(7))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert ours.stderr == pytest.approx(stats.sem(a - b), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_label_metrics(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = [f"label {i}" for i in range(2 + seed * 3)]
    targets, predictions = rng.choice(labels[:-1], 60).tolist(), rng.choice(labels, 60).tolist()
    assert metrics.accuracy(predictions, targets) == sklearn.accuracy_score(targets, predictions)
    theirs = sklearn.f1_score(targets, predictions, average="macro", zero_division=0)
    assert metrics.macro_f1(predictions, targets) == pytest.approx(theirs)
    matrix = metrics.confusion_matrix(predictions, targets, labels)
    assert matrix.tolist() == sklearn.confusion_matrix(targets, predictions, labels=labels).tolist()


def test_macro_f1_of_resamples_is_macro_f1_of_the_drawn_items():
    rng = np.random.default_rng(8)
    targets, predictions = rng.choice(list("abcd"), (2, 30)).tolist()
    codes = metrics.label_codes(predictions, targets)
    drawn = rng.integers(0, 30, (20, 30))
    counts = np.array([np.bincount(row, minlength=30) for row in drawn], dtype=float)
    one_by_one = [metrics.macro_f1([predictions[i] for i in row], [targets[i] for i in row]) for row in drawn]
    assert metrics.macro_f1_statistic(codes, counts) == pytest.approx(one_by_one)


def test_likelihood():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(9)
    table, targets = rng.dirichlet(np.ones(5), 80), rng.integers(0, 5, 80)
    theirs = sklearn.log_loss(targets, table, labels=range(5))
    assert metrics.negative_log_likelihood(table, targets) == pytest.approx(theirs)


def test_longest_common_subsequence_against_the_textbook_table():
    rng = np.random.default_rng(10)
    for _ in range(200):
        a, b = (rng.choice(list("abcde"), rng.integers(0, 90)).tolist() for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        assert metrics.longest_common_subsequence(a, b) == table[-1, -1]
