"""How sure a number is: intervals, paired comparisons, and what a test set of a given size can show.

Everything here is pure: arrays in, numbers out, and the random generator is an argument. A resample is a
vector of counts: how often each item was drawn. A statistic is a function ``(values, counts) -> results``
with ``values`` of shape (n, ...) and ``counts`` of shape (resamples, n), so that it is computed for a whole
block of resamples by a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.records import Interval

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[Any], Floats], Floats]

BLOCK_ELEMENTS = 500_000  # counts held at once: about 4 MB, which stays in cache


class PairedDifference(NamedTuple):
    """Difference of two systems on the same items, with its 95 % interval and two-sided p-value.

    ``stderr`` is the bootstrap's standard error; ``n`` the number of items; ``groups`` the number of
    independent units among them (clusters, or the items themselves).
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    stderr: float
    groups: int


# ── one system ───────────────────────────────────────────────────────────────────────────────────────────
def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion that stays within [0, 1] and is honest near 0 and 1.

    Args:
        successes: How many of the items succeeded, in [0, n].
        n: Number of independent items, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        The proportion with its interval.

    Raises:
        ValueError: If n is not positive or successes lies outside [0, n].

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.

    Example:
        >>> interval = wilson_interval(160, 200)
        >>> round(interval.low, 4), round(interval.high, 4)
        (0.7391, 0.8495)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: expected 0 <= successes <= n and n >= 1.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends the formula gives the bound exactly, up to rounding
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high, n)


def mean_standard_error(scores: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Standard error of a mean, by the central limit theorem; clustered when items share something.

    Plain: sqrt(Σ(s_i − s̄)² / (n(n−1))). Clustered: sqrt(G/(G−1) · Σ_g(Σ_{i∈g}(s_i − s̄))²) / n with G
    clusters. With one item per cluster the two are equal, and writing every item down twice changes nothing.

    Args:
        scores: Shape (n,).
        clusters: Names of what items share, length n; None: items are independent.

    Returns:
        The standard error in the scores' unit; infinite for fewer than two independent units.

    Raises:
        ValueError: If the arrays are empty or differ in length.

    Source:
        Miller 2024, "Adding error bars to evals", section 2, arXiv:2411.00640.
    """
    values = _checked(scores)
    groups, n_groups = _groups(clusters, len(values))
    if n_groups < 2:
        return math.inf
    sums = np.bincount(groups, values - values.mean(), n_groups)
    return float(np.sqrt(n_groups / (n_groups - 1) * np.sum(sums**2)) / len(values))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> Interval:
    """95 % percentile interval of any statistic; clusters are resampled whole.

    Args:
        values: What is known of each item, shape (n, ...).
        statistic: ``(values, counts) -> results``; None: the mean.
        clusters: Names of what items share, length n; None: items are independent.
        rng: Source of the resamples.
        resamples: Number of resamples.

    Returns:
        The statistic of the items with its interval.

    Raises:
        ValueError: If the arrays are empty or differ in length.

    Source:
        Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    items = _checked(values)
    chosen = statistic or weighted_mean
    results = np.concatenate(
        [chosen(items, counts) for counts in resample_counts(clusters, len(items), rng, resamples)]
    )
    low, high = np.quantile(results, [0.025, 0.975])
    value = chosen(items, np.ones((1, len(items))))[0]
    return Interval(float(value), float(low), float(high), len(items))


def weighted_mean(values: NDArray[Any], counts: Floats) -> Floats:
    """Mean of each resample: values (n,), counts (resamples, n) -> (resamples,)."""
    means: Floats = (counts @ values) / counts.sum(axis=1)
    return means


# ── two systems ──────────────────────────────────────────────────────────────────────────────────────────
def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    statistic: Statistic | None = None,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> PairedDifference:
    """Difference a − b on the same items: both systems are judged on the same resamples.

    The p-value inverts the interval: twice the smaller share of resampled differences on either side of zero,
    with one added to count and resamples so that it is never 0. It is 1 for identical systems.

    Args:
        a: What is known of each item for system a, shape (n, ...).
        b: The same for system b and the same items in the same order.
        clusters: Names of what items share, length n; they are resampled whole. None: items are independent.
        statistic: ``(values, counts) -> results``; None: the mean.
        rng: Source of the resamples.
        resamples: Number of resamples.

    Returns:
        The difference with its 95 % percentile interval and p-value.

    Raises:
        ValueError: If the arrays are empty or differ in length.

    Source:
        Efron & Tibshirani 1993, chapters 13 and 16; Koehn 2004, "Statistical significance tests for machine
        translation evaluation", for the paired use.
    """
    first, second = _checked(a), _checked(b)
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"a has {first.shape[0]} items and b {second.shape[0]}: expected the same items in both.")
    chosen = statistic or weighted_mean
    parts = [
        chosen(first, counts) - chosen(second, counts)
        for counts in resample_counts(clusters, len(first), rng, resamples)
    ]
    results = np.concatenate(parts)
    low, high = np.quantile(results, [0.025, 0.975])
    ones = np.ones((1, len(first)))
    below, above = int(np.sum(results <= 0)), int(np.sum(results >= 0))
    return PairedDifference(
        difference=float((chosen(first, ones) - chosen(second, ones))[0]),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (min(below, above) + 1) / (resamples + 1)),
        n=len(first),
        stderr=float(results.std(ddof=1)),
        groups=_groups(clusters, len(first))[1],
    )


def difference_of_means(a: ArrayLike, b: ArrayLike, *, rng: np.random.Generator, resamples: int = 10_000) -> Interval:
    """Mean of a minus mean of b for two different sets of items, with its 95 % bootstrap interval.

    Args:
        a: Shape (n,).
        b: Shape (m,); other items than a's.
        rng: Source of the resamples.
        resamples: Number of resamples.

    Returns:
        The difference with its interval; its n is the smaller number of items.

    Raises:
        ValueError: If an array is empty.
    """
    first, second = _checked(a), _checked(b)
    means = [
        np.concatenate([weighted_mean(x, counts) for counts in resample_counts(None, len(x), rng, resamples)])
        for x in (first, second)
    ]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Interval(float(first.mean() - second.mean()), float(low), float(high), min(len(first), len(second)))


def mcnemar(b: int, c: int) -> tuple[float, float]:
    """McNemar's test of two systems on the same right-or-wrong items.

    Args:
        b: Items that only the first system got right.
        c: Items that only the second system got right.

    Returns:
        Exact two-sided p-value, and the mid-p value, which is less conservative and holds its level in
        practice.

    Raises:
        ValueError: If a count is negative.

    Source:
        McNemar 1947; Fagerland, Lydersen & Laake 2013, "The McNemar test for binary matched-pairs data",
        BMC Medical Research Methodology 13:91.

    Example:
        >>> exact, mid = mcnemar(30, 14)
        >>> round(exact, 5), round(mid, 5)
        (0.02263, 0.01609)
    """
    if b < 0 or c < 0:
        raise ValueError(f"b={b}, c={c}: expected counts of at least 0.")
    n, smaller = b + c, min(b, c)
    ways, total = 1, 1  # integers, so that thousands of discordant items neither overflow nor underflow
    for k in range(1, smaller + 1):
        ways = ways * (n - k + 1) // k
        total += ways
    exact = min(1.0, 2 * total / 2**n)
    return exact, min(1.0, (2 * total - ways) / 2**n)


def paired_shares(both: int, only_a: int, only_b: int, n: int) -> Interval:
    """Difference of two shares of the same items, a − b, with an interval that is honest near 0 and 1.

    Unlike a bootstrap's, it has a width where no item differs.

    Args:
        both: Items that count for both.
        only_a: Items that count for a alone.
        only_b: Items that count for b alone.
        n: All items, at least 1.

    Source:
        Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
        paired data", Statistics in Medicine 17, 2635–2650, method 10.

    Example:
        >>> interval = paired_shares(36, 12, 2, 50)
        >>> round(interval.low, 4), round(interval.high, 4)
        (0.0569, 0.3404)
    """
    neither = n - both - only_a - only_b
    a, b = wilson_interval(both + only_a, n), wilson_interval(both + only_b, n)
    product = float(both * neither - only_a * only_b)
    if product > 0:
        product = max(0.0, product - n / 2)
    spread = math.sqrt((both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither))
    correlation = product / spread if spread else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))

    difference = (only_a - only_b) / n
    low = difference - reach(a.value - a.low, b.high - b.value)
    return Interval(difference, low, difference + reach(a.high - a.value, b.value - b.low), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: comparing each with 0.05 keeps the chance of any false alarm at 5 %.

    Args:
        p_values: One per comparison, in any order.

    Returns:
        Adjusted p-values in the same order, each at least the one given and at most 1.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


# ── what a test set can show ─────────────────────────────────────────────────────────────────────────────
def required_items(effect: float, discordance: float = 0.15, power: float = 0.8, alpha: float = 0.05) -> int:
    """Test items needed to detect a difference in accuracy between two systems on the same items.

    n = (z_{1−α/2}·√d + z_power·√(d − δ²))² / δ² with difference δ and discordance d. A difference cannot be
    larger than the share of items on which the systems disagree, so d is raised to δ where it is smaller.

    Args:
        effect: Difference in accuracy, in (0, 1].
        discordance: Share of items that exactly one of the two systems gets right, in [0, 1].
        power: Chance of detecting the difference, in (0, 1).
        alpha: Two-sided level of the test, in (0, 1).

    Returns:
        Number of test items.

    Raises:
        ValueError: If an argument leaves its range.

    Source:
        Connor 1987, "Sample size for testing differences in proportions for the paired-sample design",
        Biometrics 43.

    Example:
        >>> required_items(0.05, 0.15), required_items(0.01, 0.10)
        (469, 7847)
    """
    if not 0 < effect <= 1 or not 0 <= discordance <= 1:
        raise ValueError(f"effect={effect}, discordance={discordance}: expected (0, 1] and [0, 1].")
    return max(1, math.ceil(_required(effect, discordance, power, alpha) - 1e-9))


def minimum_detectable_effect(n: int, discordance: float = 0.15, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest difference in accuracy that n test items detect with the given power: required_items inverted.

    Args:
        n: Number of test items, at least 1.
        discordance: Share of items that exactly one of the two systems gets right, in [0, 1].
        power: Chance of detecting the difference, in (0, 1).
        alpha: Two-sided level of the test, in (0, 1).

    Returns:
        A difference in (0, 1]; 1 where not even that would be detected.

    Raises:
        ValueError: If n is not positive or the discordance leaves [0, 1].

    Example:
        >>> round(minimum_detectable_effect(469), 3)
        0.05
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"n={n}, discordance={discordance}: expected n >= 1 and a share in [0, 1].")
    low, high = 0.0, 1.0
    for _ in range(60):  # the number needed falls as the effect grows, so halving finds it
        middle = (low + high) / 2
        if middle > 0 and _required(middle, discordance, power, alpha) <= n:
            high = middle
        else:
            low = middle
    return high


def detectable_by_stderr(stderr: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference detected with the given power when its estimate has this standard error.

    (z_{1−α/2} + z_power) · stderr, in the metric's unit: 2.80 standard errors at the defaults.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * stderr


def _required(effect: float, discordance: float, power: float, alpha: float) -> float:
    normal = NormalDist()
    d = max(discordance, effect)
    root = normal.inv_cdf(1 - alpha / 2) * math.sqrt(d) + normal.inv_cdf(power) * math.sqrt(d - effect**2)
    return root**2 / effect**2


# ── resampling ───────────────────────────────────────────────────────────────────────────────────────────
def _checked(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError("no items: expected at least one.")
    return array.astype(np.float64) if array.dtype == bool else array


def _groups(clusters: Sequence[Hashable] | None, n: int) -> tuple[NDArray[np.int64], int]:
    """Number of the group each item belongs to, shape (n,), and how many groups there are."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items: expected one name per item.")
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in clusters])
    return groups, len(numbers)


def resample_counts(
    clusters: Sequence[Hashable] | None, n: int, rng: np.random.Generator, resamples: int
) -> Iterator[Floats]:
    """Resamples of n items as blocks of counts, shape (at most a block, n): how often each item was drawn.

    Args:
        clusters: Names of what items share, length n; they are drawn whole. None: items are independent.
        n: Number of items.
        rng: Source of the resamples.
        resamples: Number of resamples over all blocks.

    Raises:
        ValueError: If the number of clusters is not n.
    """
    groups, n_groups = _groups(clusters, n)
    block = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, n_groups, size=(rows, n_groups)) + np.arange(rows)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=rows * n_groups).reshape(rows, n_groups)
        yield counts.astype(np.float64) if clusters is None else counts[:, groups].astype(np.float64)
