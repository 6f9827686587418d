"""What a sequence of training stages keeps: accuracy at the end, transfer back and forth, and forgetting.

All take ``scores``: R[i, j] is the score on task j after stage i, both counted from the first, and stage i trains
task i. Higher is better. Leading axes are resamples: shape (..., T, T) gives (...,). A measure is nan where a cell
that it needs was not measured (nan), and where it is not defined for one stage alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def average_accuracy(scores: ArrayLike) -> Floats:
    """Mean over tasks of the score after the last stage, ACC = mean_j R[T, j].

    Source:
        Lopez-Paz and Ranzato 2017, "Gradient episodic memory for continual learning", arXiv:1706.08840.

    Example:
        >>> round(float(average_accuracy([[0.8, 0.3], [0.7, 0.85]])), 3)
        0.775
    """
    last: Floats = _square(scores)[..., -1, :].mean(axis=-1)
    return last


def backward_transfer(scores: ArrayLike) -> Floats:
    """What later stages did to earlier tasks, BWT = mean_{i<T} (R[T, i] − R[i, i]); negative: they were forgotten.

    Source:
        As ``average_accuracy``.

    Example:
        >>> round(float(backward_transfer([[0.8, 0.3], [0.7, 0.85]])), 3)
        -0.1
    """
    table = _square(scores)
    return _mean((table[..., -1, :] - np.diagonal(table, axis1=-2, axis2=-1))[..., :-1])


def forward_transfer(scores: ArrayLike, base: ArrayLike) -> Floats:
    """What earlier stages did for tasks not yet trained, FWT = mean_{i≥2} (R[i−1, i] − b[i]).

    Args:
        scores: Shape (..., T, T).
        base: Scores of the model before the first stage, shape (..., T).

    Source:
        As ``average_accuracy``.

    Example:
        >>> round(float(forward_transfer([[0.8, 0.35], [0.7, 0.85]], [0.4, 0.3])), 3)
        0.05
    """
    table, before = _square(scores), np.asarray(base, dtype=np.float64)
    if before.shape != table.shape[:-1]:
        raise ValueError(f"base of shape {before.shape} for scores of shape {table.shape}: expected one a task.")
    return _mean(np.diagonal(table, offset=1, axis1=-2, axis2=-1) - before[..., 1:])


def average_forgetting(scores: ArrayLike) -> Floats:
    """How far earlier tasks fell from their best, F = mean_{j<T} (max_{l<T} R[l, j] − R[T, j]).

    A task's scores before its own stage count where they were measured.

    Source:
        Chaudhry et al. 2018, "Riemannian walk for incremental learning", arXiv:1801.10112.

    Example:
        >>> round(float(average_forgetting([[0.8, 0.3], [0.7, 0.85]])), 3)
        0.1
    """
    table = _square(scores)
    stages = table.shape[-1]
    own = np.tri(stages, dtype=bool)  # from a task's own stage on every cell is needed
    known = np.where(~own & np.isnan(table), -np.inf, table)
    best = known[..., :-1, :].max(axis=-2) if stages > 1 else table[..., -1, :]
    return _mean((best - table[..., -1, :])[..., :-1])


def _mean(parts: Floats) -> Floats:
    """Mean over the last axis; nan where it is empty."""
    if parts.shape[-1] == 0:
        return np.full(parts.shape[:-1], np.nan)
    mean: Floats = parts.mean(axis=-1)
    return mean


def _square(scores: Any) -> Floats:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim < 2 or table.shape[-1] != table.shape[-2] or table.shape[-1] == 0:
        raise ValueError(f"scores of shape {table.shape}: expected as many tasks as stages, shape (..., T, T).")
    return table
