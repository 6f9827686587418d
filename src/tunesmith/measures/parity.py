"""What weakens the link between group and label: weights, resampling, thresholds.

Labels and groups are integers from 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def reweighing(groups: ArrayLike, labels: ArrayLike) -> Floats:
    """Weight of each item, w(a, t) = P(a)·P(t) / P(a, t): weighted, group and label are independent.

    Their mean is 1, and the shares of groups and of labels stay as they are.

    Args:
        groups: Group of each item, shape (n,).
        labels: Its label, shape (n,).

    Returns:
        Shape (n,).

    Source:
        Kamiran and Calders 2012, "Data preprocessing techniques for classification without discrimination",
        section 5.2.1.

    Example:
        >>> reweighing([0, 0, 0, 1], [1, 1, 0, 0]).round(3)
        array([0.75, 0.75, 1.5 , 0.5 ])
    """
    a, t = np.asarray(groups), np.asarray(labels)
    cells = a * (int(t.max()) + 1) + t
    counts = [np.bincount(values)[values] for values in (a, t, cells)]
    found: Floats = counts[0] * counts[1] / (counts[2] * len(a))
    return found


def uniform_sample(groups: ArrayLike, labels: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of items drawn so that group and label are independent: each cell as often as its weight asks.

    A cell that should be larger is taken whole as often as that goes, and the rest of it drawn without repetition; one
    that should be smaller is drawn without repetition.

    Args:
        groups: Group of each item, shape (n,).
        labels: Its label, shape (n,).
        rng: Source of the draws.

    Returns:
        Places in order, shape (about n,): each cell's size is rounded.

    Source:
        Kamiran and Calders 2012, section 5.2.2, "uniform sampling".
    """
    a, t = np.asarray(groups), np.asarray(labels)
    weights = reweighing(a, t)
    drawn = []
    for group, label in np.unique(np.stack([a, t]), axis=1).T:
        places = np.flatnonzero((a == group) & (t == label))
        whole, rest = divmod(max(1, round(float(weights[places].sum()))), len(places))
        drawn += [np.tile(places, whole), rng.permutation(places)[:rest]]
    return np.sort(np.concatenate(drawn))


def group_thresholds(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, rates: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """For each group the score above which the answer is yes, so that groups get the yes as often as told.

    Args:
        scores: Of the yes, held-out items, in (0, 1), shape (n,).
        labels: 1 where yes is right, else 0, shape (n,).
        groups: Group of each item, shape (n,).
        rates: How often each group should get the yes, shape (groups,). None: all alike, as often as is most accurate
            on these items.

    Returns:
        Thresholds, shape (groups,), halfway between two scores, and the rates they give on these items.

    Source:
        Hardt et al. 2016, arXiv:1610.02413, for thresholds by group; without fairlearn's drawing of lots between two
        thresholds, so the rates are met to within one item.
    """
    p, t, a = np.asarray(scores, dtype=np.float64), np.asarray(labels), np.asarray(groups)
    of = [a == group for group in range(int(a.max()) + 1)]
    if rates is None:
        grid = np.arange(len(p) + 1) / len(p)
        right = [np.mean([_said(p, of, np.full(len(of), rate)) == t]) for rate in grid]
        rates = np.full(len(of), grid[int(np.argmax(right))])
    wanted = np.asarray(rates, dtype=np.float64)
    found = np.array([_threshold(p[mask], rate) for mask, rate in zip(of, wanted, strict=True)])
    return found, np.array([np.mean(p[mask] > limit) for mask, limit in zip(of, found, strict=True)])


def _said(scores: Floats, of: list[NDArray[np.bool_]], rates: Floats) -> NDArray[np.int64]:
    said = np.zeros(len(scores), dtype=np.int64)
    for mask, rate in zip(of, rates, strict=True):
        said[mask] = scores[mask] > _threshold(scores[mask], rate)
    return said


def _threshold(scores: Floats, rate: float) -> float:
    """Halfway between the last score that is above and the first that is not; 0 and 1 lie beyond all."""
    ordered = np.concatenate([[1.0], np.sort(scores)[::-1], [0.0]])
    k = round(rate * len(scores))
    return float((ordered[k] + ordered[k + 1]) / 2)
