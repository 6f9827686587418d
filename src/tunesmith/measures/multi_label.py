"""How good sets of labels are: F1 over all decisions, F1 label by label, and sets that are right altogether.

A set is written as its sorted labels joined by ``|``; the empty string is the empty set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.records import LABEL_SEPARATOR

Floats = NDArray[np.float64]


def label_set(text: str) -> frozenset[str]:
    """The labels that a prediction or target names.

    Example:
        >>> sorted(label_set("billing|urgent")), sorted(label_set(""))
        (['billing', 'urgent'], [])
    """
    return frozenset(text.split(LABEL_SEPARATOR)) if text else frozenset()


def micro_f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """F1 = 2·hits / (named + right) over all labels of all items: frequent labels weigh most.

    Returns:
        A number in [0, 1]; 0 where no item names or has a label.

    Raises:
        ValueError: If there are no items, or the lengths differ.

    Source:
        scikit-learn's ``f1_score(average="micro")``, to which it is equal.

    Example:
        >>> micro_f1(["a|b", "b"], ["a", "b"])
        0.8
    """
    values = set_overlaps(predictions, targets)
    return float(micro_f1_statistic(values, np.ones((1, len(values))))[0])


def macro_f1_labels(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean over labels of F1 = 2·hits / (named + right); every label counts the same, however rare.

    The mean is over the labels that occur among targets or predictions; a label never hit has F1 0.

    Returns:
        A number in [0, 1]; 0 where no label occurs.

    Raises:
        ValueError: If there are no items, or the lengths differ.

    Source:
        scikit-learn's ``f1_score(average="macro")`` over the labels that occur, to which it is equal.

    Example:
        >>> round(macro_f1_labels(["a|b", "b"], ["a", "b"]), 4)
        0.8333
    """
    values = label_overlaps(predictions, targets)
    return float(macro_f1_labels_statistic(values, np.ones((1, len(values))))[0])


def subset_accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of items whose set of labels is right altogether, in [0, 1].

    Raises:
        ValueError: If there are no items, or the lengths differ.

    Example:
        >>> subset_accuracy(["b|a", "b"], ["a|b", ""])
        0.5
    """
    _check_lengths(predictions, targets)
    return sum(map(same_set, predictions, targets)) / len(targets)


def same_set(prediction: str, target: str) -> float:
    """1 if the two name the same labels, otherwise 0."""
    return float(label_set(prediction) == label_set(target))


def set_f1(prediction: str, target: str) -> float:
    """Overlap of two sets of labels, 2·hits / (named + right), in [0, 1]; two empty sets score 1.

    Example:
        >>> set_f1("a|b", "b")
        0.6666666666666666
    """
    named, right = label_set(prediction), label_set(target)
    return 2 * len(named & right) / (len(named) + len(right)) if named or right else 1.0


def set_overlaps(predictions: Sequence[str], targets: Sequence[str]) -> Floats:
    """Hits, labels named too much and labels missed of each item, shape (n, 3): for ``micro_f1_statistic``."""
    _check_lengths(predictions, targets)
    pairs = [(label_set(p), label_set(t)) for p, t in zip(predictions, targets, strict=True)]
    return np.array([(len(p & t), len(p - t), len(t - p)) for p, t in pairs], dtype=np.float64)


def label_overlaps(predictions: Sequence[str], targets: Sequence[str]) -> Floats:
    """Of each item and label: hit (0 or 1), and how many of prediction and target have it; shape (n, 2, K)."""
    _check_lengths(predictions, targets)
    pairs = [(label_set(p), label_set(t)) for p, t in zip(predictions, targets, strict=True)]
    labels = sorted(frozenset().union(*(p | t for p, t in pairs)))
    named, right = (
        np.array([[label in pair[side] for label in labels] for pair in pairs], dtype=bool) for side in (0, 1)
    )
    return np.stack([named & right, named.astype(np.float64) + right], axis=1)


def micro_f1_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """Micro F1 of many resamples: overlaps (n, 3), counts (resamples, n) -> (resamples,)."""
    hits, too_much, missed = (counts @ values).T
    total = 2 * hits + too_much + missed
    return np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)


def macro_f1_labels_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """Macro F1 of many resamples: overlaps (n, 2, K), counts (resamples, n) -> (resamples,)."""
    hits, total = counts @ values[:, 0], counts @ values[:, 1]  # (resamples, K)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    scores: Floats = f1.sum(axis=1) / np.maximum(1, (total > 0).sum(axis=1))
    return scores


def _check_lengths(first: Sequence[str], second: Sequence[str]) -> None:
    if len(first) != len(second) or len(second) == 0:
        raise ValueError(f"{len(first)} and {len(second)} items: expected the same number, and at least one.")
