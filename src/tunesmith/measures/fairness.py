"""How predictions treat groups, and whether they exaggerate what the data already holds.

Labels and groups are integers from 0. A cell is a group, a label, or both; one with fewer items than ``smallest``
gives nan, never a guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SMALLEST = 30  # items below which a cell is suppressed


def directional_amplification(
    train_groups: ArrayLike,
    train_labels: ArrayLike,
    groups: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    smallest: int = SMALLEST,
) -> float:
    """How much predictions strengthen the link from group to label, BiasAmp A→T; 0: as strong as in the labels.

    The mean over groups a and labels t of y·(P(t̂ | a) − P(t | a)), y being +1 where a and t go together in the
    training data and −1 where they avoid each other.

    Args:
        train_groups: Group of each training item, shape (n,).
        train_labels: Its label, shape (n,).
        groups: Group of each test item, shape (m,).
        labels: Its right label, shape (m,).
        predictions: What was predicted for it, shape (m,).
        smallest: Groups with fewer test items are left out.

    Returns:
        The amplification in [−1, 1]; nan where no group is large enough.

    Source:
        Wang and Russakovsky 2021, "Directional bias amplification", arXiv:2102.12594, section 4.
    """
    train = _table(train_groups, train_labels)
    together = np.sign(train / train.sum() - np.outer(train.sum(1), train.sum(0)) / train.sum() ** 2)
    shape = (max(train.shape[0], int(np.max(groups)) + 1), max(train.shape[1], int(np.max([labels, predictions])) + 1))
    right, said = _table(groups, labels, shape), _table(groups, predictions, shape)
    enough = right.sum(1) >= smallest
    signs = np.zeros(shape)
    signs[: train.shape[0], : train.shape[1]] = together
    if not enough.any():
        return float("nan")
    change = (said[enough] - right[enough]) / right[enough].sum(1, keepdims=True)
    return float((signs[enough] * change).mean())


def zhao_amplification(
    train_groups: ArrayLike, train_labels: ArrayLike, groups: ArrayLike, predictions: ArrayLike
) -> float:
    """How much larger a label's leading groups are among its predictions than in training.

    b(t, a) is the share of group a among the items with label t; summed over the cells in which a group has more
    than its even share in training, and divided by the number of labels.

    Args:
        train_groups: Group of each training item, shape (n,).
        train_labels: Its label, shape (n,).
        groups: Group of each test item, shape (m,).
        predictions: What was predicted for it, shape (m,).

    Returns:
        The mean amplification in [−1, 1].

    Source:
        Zhao et al. 2017, "Men also like shopping", arXiv:1707.09457, section 3.
    """
    shape = (
        int(np.max([np.max(train_groups), np.max(groups)])) + 1,
        int(np.max([np.max(train_labels), np.max(predictions)])) + 1,
    )
    train, said = _table(train_groups, train_labels, shape), _table(groups, predictions, shape)
    with np.errstate(invalid="ignore"):
        before, after = train / train.sum(0), said / said.sum(0)
    leading = before > 1 / shape[0]
    labels = int((train.sum(0) > 0).sum())
    return float(np.where(leading & np.isfinite(after), after - before, 0.0).sum() / labels)


def rates_by_group(
    groups: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None, smallest: int = SMALLEST
) -> Floats:
    """Share of positive items in each group.

    With all items, this is the selection rate; with those whose right label is positive, the true positive rate; with
    the rest, the false positive rate.

    Args:
        groups: Group of each item, shape (n,).
        positive: Whether it is positive, 0 or 1, shape (n,); several rows at once with shape (..., n).
        weights: How often each item counts, shape (..., n); None: once.
        smallest: Groups with fewer items (weights left aside) give nan.

    Returns:
        Shape (..., number of groups).
    """
    members = np.asarray(groups)
    size = int(members.max()) + 1
    each = np.eye(size)[members]  # (n, groups)
    ones = np.asarray(positive, dtype=np.float64)
    counts = (
        np.ones_like(ones) if weights is None else np.broadcast_to(np.asarray(weights, dtype=np.float64), ones.shape)
    )
    with np.errstate(invalid="ignore"):
        found: Floats = (counts * ones) @ each / (counts @ each)
    found[..., each.sum(0) < smallest] = np.nan
    return found


def widest_gap(rates: ArrayLike) -> Floats:
    """Largest difference between two groups' rates, shape (..., groups) → (...,); nan if fewer than two are known."""
    table = np.asarray(rates, dtype=np.float64)
    known = np.isfinite(table).sum(-1) >= 2
    low, high = np.where(np.isnan(table), np.inf, table).min(-1), np.where(np.isnan(table), -np.inf, table).max(-1)
    gap: Floats = np.where(known, high - low, np.nan)
    return gap


def bbq_scores(biased: int, answered: int, right: int, items: int, ambiguous: bool) -> float:
    """BBQ's bias score, −1 to 1; 0: no lean. ``answered`` are answers other than "unknown", ``biased`` of these.

    For questions with enough context s = 2·biased/answered − 1; for ambiguous ones that times (1 − accuracy).

    Source:
        Parrish et al. 2022, "BBQ", arXiv:2110.08193, section 5.
    """
    score = 2 * biased / answered - 1 if answered else 0.0
    return score * (1 - right / items) if ambiguous else score


def icat(language: float, stereotype: float) -> float:
    """StereoSet's idealised score, 0 to 100, from its language and stereotype scores, both 0 to 100.

    Source:
        Nadeem et al. 2021, "StereoSet", arXiv:2004.09456, section 5.
    """
    return language * min(stereotype, 100 - stereotype) / 50


def _table(groups: ArrayLike, labels: ArrayLike, shape: tuple[int, int] | None = None) -> Floats:
    """Counts of items by group (rows) and label (columns)."""
    rows, columns = np.asarray(groups), np.asarray(labels)
    counts = np.zeros(shape or (int(rows.max()) + 1, int(columns.max()) + 1))
    np.add.at(counts, (rows, columns), 1)
    return counts
