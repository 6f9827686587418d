"""What a model tells of its training data: membership, exposure of a planted secret, verbatim continuation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.measures.metrics import longest_common_subsequence
from tunesmith.measures.uncertainty import wilson_interval
from tunesmith.records import Interval

VERBATIM = 50  # tokens in a row
NEAR = 0.8  # ROUGE-L over tokens
_Z = NormalDist().inv_cdf(0.975)


def exposure(rank: int, candidates: int) -> float:
    """Bits by which a secret stands out among equally likely ones: log2 |R| − log2 rank.

    Args:
        rank: Place of the secret when all candidates are sorted by loss, from 1.
        candidates: How many there are, |R|.

    Raises:
        ValueError: If the rank is not among the candidates.

    Source:
        Carlini et al. 2019, "The secret sharer", arXiv:1802.08232, section 4.

    Example:
        >>> round(exposure(1, 1_000_000), 2), round(exposure(1000, 1_000_000), 2)
        (19.93, 9.97)
    """
    if not 1 <= rank <= candidates:
        raise ValueError(f"rank {rank} is not from 1 to {candidates}")
    return math.log2(candidates) - math.log2(rank)


def exposure_by_sample(loss: float, references: ArrayLike, candidates: int) -> tuple[float, float]:
    """Exposure of a secret, estimated from the losses of some of its candidates, and a p-value.

    Where the secret is likelier than all of the sample, the rank among all candidates is estimated by a skew-normal
    distribution with the sample's mean, deviation and skewness, down to rank 1.

    Args:
        loss: Loss of the secret, summed over its tokens.
        references: Losses of candidates drawn at random, at least two; shape (n,).
        candidates: How many there are in all, |R|.

    Returns:
        Bits, and the chance that a secret which was not learned has so low a loss: (1 + number of references with a
        loss as low) / (n + 1), which needs no distribution.

    Source:
        Carlini et al. 2019, arXiv:1802.08232, sections 4.2 and 4.3.
    """
    losses = np.asarray(references, dtype=np.float64)
    as_low = int((losses <= loss).sum())
    share = as_low / losses.size if as_low else math.exp(min(0.0, log_skew_normal(loss, losses)))
    rank = min(candidates, max(1, round(share * candidates)))
    return exposure(rank, candidates), (1 + as_low) / (losses.size + 1)


def log_skew_normal(x: float, sample: ArrayLike) -> float:
    """Logarithm of the chance of a value of at most x, under the skew-normal distribution with a sample's moments.

    Args:
        x: The value.
        sample: At least two values that differ; their skewness is taken as at most 0.99 (the distribution's limit is
            0.995).
    """
    values = np.asarray(sample, dtype=np.float64)
    mean, deviation = values.mean(), values.std()
    if deviation == 0:
        return 0.0 if x >= mean else -math.inf
    skewness = float(np.clip(((values - mean) ** 3).mean() / deviation**3, -0.99, 0.99))
    ratio = abs(skewness) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * ratio / (ratio + ((4 - math.pi) / 2) ** (2 / 3))), skewness)
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    below = np.append(0.0, np.geomspace(1e-8, 40.0, 4000))  # how far below x, in scales: dense where the mass is
    z = (x - mean) / scale + delta * math.sqrt(2 / math.pi) - below
    log_density = math.log(2) - z**2 / 2 - math.log(2 * math.pi) / 2 + _log_normal(shape * z)
    top = float(log_density.max())
    return top + math.log(float(np.trapezoid(np.exp(log_density - top), below)))


def _log_normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the standard normal distribution's cumulative function, also far below zero."""
    near = np.array([math.log(0.5 * math.erfc(-value / math.sqrt(2))) if value > -20 else 0.0 for value in z])
    far = np.minimum(z, -1.0)
    tail = -(far**2) / 2 - np.log(-far * math.sqrt(2 * math.pi)) + np.log1p(-1 / far**2 + 3 / far**4)
    return np.where(z > -20, near, tail)


def membership_auc(members: ArrayLike, others: ArrayLike) -> Interval:
    """Chance that a training example scores above one that was not trained, ties counting half.

    Args:
        members: Scores of training examples, higher meaning "was trained"; shape (n,).
        others: Scores of examples drawn alike but not trained; shape (m,).

    Returns:
        The area under the ROC curve with its 95 % interval: DeLong's, or, where the two are wholly apart, Wilson's for
        the smaller of n and m; ``n`` is n + m.

    Raises:
        ValueError: If either has fewer than two scores.

    Source:
        DeLong et al. 1988, Biometrics 44, 837–845.
    """
    a, b = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if min(a.size, b.size) < 2:
        raise ValueError(f"expected at least two scores on each side, got {a.size} and {b.size}")
    wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
    by_member, by_other = wins.mean(axis=1), wins.mean(axis=0)
    area = float(wins.mean())
    error = math.sqrt(by_member.var(ddof=1) / a.size + by_other.var(ddof=1) / b.size)
    if area in (
        0.0,
        1.0,
    ):  # no pair out of order tells nothing of how rare one is: as sure as the smaller side is large
        sure = wilson_interval(area * min(a.size, b.size), min(a.size, b.size))
        return Interval(area, sure.low, sure.high, a.size + b.size)
    return Interval(area, max(0.0, area - _Z * error), min(1.0, area + _Z * error), a.size + b.size)


def true_positive_rate(members: ArrayLike, others: ArrayLike, false_positive_rate: float) -> float:
    """Share of training examples recognised when at most so many others are taken for one, 0 to 1.

    The threshold is the lowest of the others' scores that keeps the false positives within the rate.

    Source:
        Carlini et al. 2022, "Membership inference attacks from first principles", arXiv:2112.03570, section 3.
    """
    return recognised(members, others, false_positive_rate)[0] / np.size(members)


def recognised(members: ArrayLike, others: ArrayLike, false_positive_rate: float) -> tuple[int, int]:
    """How many training examples, and how many others, lie above the threshold of ``true_positive_rate``."""
    a, b = np.asarray(members, dtype=np.float64), np.sort(np.asarray(others, dtype=np.float64))[::-1]
    allowed = math.floor(false_positive_rate * b.size + 1e-9)
    threshold = -math.inf if allowed >= b.size else b[allowed]
    return int((a > threshold).sum()), int((b > threshold).sum())


def is_recited(text: Sequence[Hashable], source: Sequence[Hashable]) -> bool:
    """Whether a text repeats its source: 50 tokens of it in a row, or 80 % by ROUGE-L over tokens.

    Args:
        text: Tokens of what was written.
        source: Tokens of what stood in the training data, at least one.

    Source:
        Carlini et al. 2023, "Quantifying memorization across neural language models", arXiv:2202.07646, section 3,
        for the 50 tokens.
    """
    overlap = 2 * longest_common_subsequence(text, source) / (len(text) + len(source))
    return overlap >= NEAR or longest_match(text, source) >= VERBATIM


def longest_match(text: Sequence[object], source: Sequence[object]) -> int:
    """Length of the longest run of items that stands in both, in items.

    Example:
        >>> longest_match("the cat sat".split(), "a cat sat down".split())
        2
    """
    best, before = 0, [0] * (len(source) + 1)
    for item in text:
        row = [0] * (len(source) + 1)
        for j, other in enumerate(source):
            if item == other:
                row[j + 1] = before[j] + 1
                best = max(best, row[j + 1])
        before = row
    return best
