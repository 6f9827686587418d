"""How near translations are to a reference: chrF and BLEU, whose sentence statistics are sacrebleu's.

Both are scores of a whole test set, computed from statistics summed over its sentences, not means of sentence
scores. So the bootstrap resamples the statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHRF_ORDERS = 6  # character n-grams up to this length
CHRF_BETA = 2  # recall weighs this many times as much as precision
BLEU_ORDERS = 4  # word n-grams up to this length


def chrf(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """chrF2: overlap of character n-grams up to length 6, in [0, 100].

    Works for every language and rewards parts of words, so it is the better guide for inflected languages.

    Raises:
        ValueError: If there are no sentences, or the lengths differ.

    Source:
        Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; equal to sacrebleu's
        ``corpus_chrf`` (nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no).

    Example:
        >>> round(chrf(["the cat sat"], ["the cat sat down"]), 2)
        66.02
    """
    values = chrf_counts(predictions, targets)
    return float(chrf_statistic(values, np.ones((1, len(values))))[0])


def bleu(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """BLEU: share of word n-grams up to length 4 that stand in the reference, in [0, 100].

    Words are separated as by mteval-v13a, which is meaningless for scripts written without blanks; use chrF
    there. A test set without a single common 4-gram has a small score by smoothing.

    Raises:
        ValueError: If there are no sentences, or the lengths differ.

    Source:
        Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"; equal to
        sacrebleu's ``corpus_bleu`` (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp).

    Example:
        >>> round(bleu(["the cat sat on the mat"], ["the cat sat on a mat"]), 2)
        53.73
    """
    values = bleu_counts(predictions, targets)
    return float(bleu_statistic(values, np.ones((1, len(values))))[0])


def chrf_counts(predictions: Sequence[str], targets: Sequence[str]) -> Floats:
    """n-grams of prediction, of target and in both, for n from 1 to 6; shape (n, 18): for ``chrf_statistic``."""
    from sacrebleu.metrics.chrf import CHRF

    _check_lengths(predictions, targets)
    return np.array(CHRF()._extract_corpus_statistics(list(predictions), [list(targets)]), dtype=np.float64)


def bleu_counts(predictions: Sequence[str], targets: Sequence[str]) -> Floats:
    """Words of prediction and target, common n-grams, n-grams of the prediction; shape (n, 10)."""
    from sacrebleu.metrics.bleu import BLEU

    _check_lengths(predictions, targets)
    scorer = BLEU(force=True)  # or it warns of full stops that stand apart, which are the model's own
    return np.array(scorer._extract_corpus_statistics(list(predictions), [list(targets)]), dtype=np.float64)


def chrf_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """chrF of many resamples: n-gram counts (n, 18), counts (resamples, n) -> (resamples,) in [0, 100]."""
    predicted, wanted, common = (counts @ values).reshape(len(counts), CHRF_ORDERS, 3).transpose(2, 0, 1)
    used = (predicted > 0) & (wanted > 0)  # an order longer than all sentences says nothing
    orders = np.maximum(1, used.sum(axis=1))
    precision = np.divide(common, predicted, out=np.zeros_like(common), where=used).sum(axis=1) / orders
    recall = np.divide(common, wanted, out=np.zeros_like(common), where=used).sum(axis=1) / orders
    below = CHRF_BETA**2 * precision + recall
    above = (1 + CHRF_BETA**2) * precision * recall
    return 100 * np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def bleu_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """BLEU of many resamples: statistics (n, 10), counts (resamples, n) -> (resamples,) in [0, 100].

    An order without a common n-gram has precision 1/2, 1/4, … of one n-gram (smoothing by halves); a resample
    without any common word, or too short for an order, scores 0.
    """
    sums = counts @ values
    predicted, wanted = sums[:, 0], sums[:, 1]
    common, total = sums[:, 2 : 2 + BLEU_ORDERS], sums[:, 2 + BLEU_ORDERS :]
    usable = common.any(axis=1) & (total > 0).all(axis=1)
    missing = common == 0
    halves = 0.5 ** np.cumsum(missing, axis=1)
    precision = np.where(missing, halves, common) / np.maximum(1, total)
    short = np.divide(wanted, predicted, out=np.zeros_like(wanted), where=predicted > 0)
    brevity = np.exp(np.minimum(0.0, 1 - short))
    scores: Floats = np.where(usable, 100 * brevity * np.exp(np.log(precision).mean(axis=1)), 0.0)
    return scores


def _check_lengths(first: Sequence[str], second: Sequence[str]) -> None:
    if len(first) != len(second) or len(second) == 0:
        raise ValueError(f"{len(first)} and {len(second)} sentences: expected the same number, and at least one.")
