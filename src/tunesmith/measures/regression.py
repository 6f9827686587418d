"""How near predicted numbers are to the right ones: correlation, and the mean error.

A correlation is not defined where all predictions are equal; here it counts as 0, as for predictions that have
nothing to do with the targets. A model that answers everything with one number thus stays comparable, and is never
better than one whose answers rise with the targets. Where all *targets* are equal nothing can be said of any model,
and that is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FLAT = 1e-12  # a spread smaller than this share of the mean square is rounding: all values are equal


def pearson(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Pearson's correlation: how well a straight line tells the targets from the predictions.

    Args:
        predictions: Shape (n,).
        targets: Shape (n,).

    Returns:
        A number in [−1, 1]; 0 where all predictions are equal.

    Raises:
        ValueError: If the arrays are empty, differ in length, are not finite, or all targets are equal.

    Source:
        Pearson 1895, "Note on regression and inheritance in the case of two parents".

    Example:
        >>> round(pearson([1, 2, 3, 4], [2, 4, 6, 9]), 4)
        0.9944
    """
    values = _pairs(predictions, targets)
    return float(pearson_statistic(values, np.ones((1, len(values))))[0])


def spearman(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank.

    Args:
        predictions: Shape (n,).
        targets: Shape (n,).

    Returns:
        A number in [−1, 1]; 0 where all predictions are equal.

    Raises:
        ValueError: As ``pearson``.

    Source:
        Spearman 1904, "The proof and measurement of association between two things".

    Example:
        >>> round(spearman([1, 2, 3, 100], [2, 4, 3, 9]), 4)
        0.8
    """
    values = _pairs(predictions, targets)
    return float(spearman_statistic(values, np.ones((1, len(values))))[0])


def mean_absolute_error(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Mean distance of prediction and target, in the targets' unit; lower is better.

    Args:
        predictions: Shape (n,).
        targets: Shape (n,).

    Raises:
        ValueError: If the arrays are empty, differ in length, or are not finite.

    Example:
        >>> mean_absolute_error([1.0, 2.0], [1.5, 1.0])
        0.75
    """
    values = _pairs(predictions, targets, spread=False)
    return float(np.abs(values[:, 0] - values[:, 1]).mean())


def pearson_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """Pearson's correlation of many resamples: pairs (n, 2), counts (resamples, n) -> (resamples,).

    A resample in which one side is constant has correlation 0.
    """
    # shifted and scaled so that sums of squares keep their digits
    centred = values - values.mean(axis=0)
    scale = np.abs(centred).max(axis=0)
    x, y = (centred / np.where(scale > 0, scale, 1.0)).T
    n = counts.sum(axis=1)
    mean_x, mean_y, xx, yy, xy = (counts @ np.stack([x, y, x * x, y * y, x * y], axis=1)).T / n
    spread_x, spread_y = xx - mean_x**2, yy - mean_y**2
    varied = (spread_x > FLAT * xx) & (spread_y > FLAT * yy)
    return _ratio(xy - mean_x * mean_y, spread_x, spread_y, varied)


def spearman_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """Spearman's correlation of many resamples: pairs (n, 2), counts (resamples, n) -> (resamples,).

    Ranks are those within each resample, ties included. A resample in which one side is constant has
    correlation 0.
    """
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2  # the mean rank, whatever the ties
    x, y = (_midranks(values[:, side], counts) - middle for side in (0, 1))  # (resamples, n) each
    weighted = counts * x
    covariance, spread_x = np.einsum("rn,rn->r", weighted, y), np.einsum("rn,rn->r", weighted, x)
    spread_y = np.einsum("rn,rn,rn->r", counts, y, y)
    return _ratio(covariance, spread_x, spread_y, (spread_x > 0) & (spread_y > 0))


def _midranks(values: NDArray[Any], counts: Floats) -> Floats:
    """Mean rank of each value among those drawn: values (n,), counts (resamples, n) -> (resamples, n)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # where each value begins
    drawn = np.add.reduceat(counts[:, order], first, axis=1)  # how often each distinct value was drawn
    ranks = np.cumsum(drawn, axis=1) - (drawn - 1) / 2
    place = np.empty(len(values), dtype=np.int64)
    place[order] = np.repeat(np.arange(len(first)), np.diff([*first, len(values)]))
    found: Floats = ranks[:, place]
    return found


def _ratio(covariance: Floats, spread_x: Floats, spread_y: Floats, varied: NDArray[np.bool_]) -> Floats:
    below = np.sqrt(np.where(varied, spread_x, 1.0)) * np.sqrt(np.where(varied, spread_y, 1.0))
    found: Floats = np.where(varied, np.clip(covariance / below, -1.0, 1.0), 0.0)
    return found


def _pairs(predictions: ArrayLike, targets: ArrayLike, spread: bool = True) -> Floats:
    first, second = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"shapes {first.shape} and {second.shape}: expected two lists of one length, at least one.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("predictions or targets are not finite: expected numbers.")
    if spread and (second == second[0]).all():
        raise ValueError(f"all {len(second)} targets are {second[0]:g}: a correlation needs targets that differ.")
    return np.stack([first, second], axis=1)
