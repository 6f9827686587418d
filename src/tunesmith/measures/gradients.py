"""Whether tasks pull the weights the same way: cosines between their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 1_000_000  # columns converted to float64 at once


def cosine_matrix(vectors: ArrayLike) -> NDArray[np.float64]:
    """Cosine of every pair of vectors: 1 the same direction, 0 unrelated, −1 opposed.

    A diagnosis, not a remedy: tasks with opposed gradients may still learn well together. In many dimensions
    unrelated gradients have cosines near 0.

    Args:
        vectors: One gradient a row, shape (k, d).

    Returns:
        Symmetric matrix, shape (k, k), in [−1, 1]. A zero vector has no direction: its row and column are 0.

    Raises:
        ValueError: If ``vectors`` is not a table or holds a number that is not finite.

    Source:
        Yu et al. 2020, "Gradient surgery for multi-task learning", section 2, arXiv:2001.06782.

    Example:
        >>> cosine_matrix([[1, 0], [0, 2], [-3, 0]]).tolist()
        [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]
    """
    table: NDArray[Any] = np.asarray(vectors)
    if table.ndim != 2:
        raise ValueError(f"vectors of shape {table.shape}: expected one a row, shape (k, d).")
    products = np.zeros((len(table), len(table)))
    for start in range(0, table.shape[1], BLOCK):
        part = table[:, start : start + BLOCK].astype(np.float64)
        products += part @ part.T
    if not np.isfinite(products).all():
        raise ValueError("a vector holds a number that is not finite: expected finite gradients.")
    lengths = np.sqrt(np.diagonal(products))
    below = np.outer(lengths, lengths)
    cosines = np.divide(products, below, out=np.zeros_like(products), where=below > 0).clip(-1, 1)
    return cosines + 0.0  # no −0
