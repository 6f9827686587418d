"""Nearest neighbours: the answer of the training vectors most like a vector, the nearer the weightier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.measures.linear import LOSS_NAMES, Floats, HeadLoss, judge

K_GRID = (1, 2, 4, 8, 16, 32)  # neighbours that are asked
EQUAL = 1e-6  # distances below this are this: weights stay finite, and equal vectors outweigh all others
EQUAL_DIGITS = 6  # cosines that agree to so many digits after the point are equal
ROWS = 256  # vectors compared with all others at once


@dataclass(frozen=True, slots=True)
class NeighboursFit:
    """What is kept: all training vectors, and how many of them are asked.

    Attributes:
        vectors: Shape (n, width), of length 1.
        targets: Shape (n, targets), as in :func:`tunesmith.measures.linear.fit_linear`.
        k: The chosen number of neighbours.
        loss: What the answers are judged by.
        labels: Number of labels, or of numbers.
        tried: For each k its score on the held-out vectors, the score's standard error, and their loss.
    """

    vectors: Floats
    targets: NDArray[Any]
    k: int
    loss: HeadLoss
    labels: int
    tried: tuple[dict[str, float], ...]

    def outputs(self, vectors: NDArray[Any]) -> Floats:
        """Logits or numbers of vectors (n, width), shape (n, outputs)."""
        return _answers(*nearest(self.vectors, unit(vectors), self.k), self.targets, self.loss, self.labels)


def fit_neighbours(
    vectors: NDArray[Any],
    targets: NDArray[Any],
    held_out: NDArray[Any],
    held_out_targets: NDArray[Any],
    loss: HeadLoss,
    outputs: int,
) -> NeighboursFit:
    """Ask 1 to 32 neighbours by cosine similarity; the best k on held-out vectors is kept (ties: lower loss).

    A neighbour weighs 1 / (1 − cosine). A label's probability is its share of the weights, as if one neighbour more
    had been undecided; a number is the weighted mean.

    Args:
        vectors: Shape (n, width), of any length above 0.
        targets: As in :func:`tunesmith.measures.linear.fit_linear`, shape (n, targets).
        held_out: Shape (m, width).
        held_out_targets: As ``targets``, shape (m, targets).
        loss: What the held-out vectors are judged by.
        outputs: Number of labels, or of numbers.

    Source:
        Dudani 1976, "The distance-weighted k-nearest-neighbor rule"; the weights are scikit-learn's ``distance``.
    """
    kept = unit(vectors)
    grid = [k for k in K_GRID if k <= len(kept)]
    places, distances = nearest(kept, unit(held_out), grid[-1])
    tried = []
    for k in grid:
        answers = _answers(places[:, :k], distances[:, :k], targets, loss, outputs)
        tried.append({"k": k, **judge(answers, held_out_targets, loss)})
    best = max(range(len(grid)), key=lambda i: (tried[i]["score"], -tried[i][LOSS_NAMES[loss]]))
    return NeighboursFit(kept, targets, grid[best], loss, outputs, tuple(tried))


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows brought to length 1; a row of zeros stays one."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(lengths > 0, lengths, 1.0)
    return found


def nearest(vectors: NDArray[Any], queries: NDArray[Any], k: int) -> tuple[NDArray[np.intp], Floats]:
    """Places of the ``k`` vectors nearest to each query, the nearest first, and their distances 1 − cosine.

    Cosines that agree to six digits after the point are equal, and of equal ones the vector that stands first is
    nearer: what a product's order of summing leaves of a difference decides nothing.

    Args:
        vectors: Of length 1, shape (n, width).
        queries: Of length 1, shape (m, width).
        k: At most n.

    Returns:
        Two arrays of shape (m, k).
    """
    kept, asked = np.asarray(vectors, np.float64), np.asarray(queries, np.float64)
    found = np.zeros((len(asked), k), dtype=np.intp)
    distances = np.zeros((len(asked), k))
    for start in range(0, len(asked), ROWS):
        cosines = asked[start : start + ROWS] @ kept.T
        # one number for cosine and place, so that no two are equal
        order = -np.rint(cosines * 10**EQUAL_DIGITS).astype(np.int64) * len(kept) + np.arange(len(kept))
        some = np.argpartition(order, k - 1, axis=1)[:, :k]
        some = np.take_along_axis(some, np.argsort(np.take_along_axis(order, some, 1), axis=1), 1)
        found[start : start + ROWS] = some
        distances[start : start + ROWS] = 1.0 - np.take_along_axis(cosines, some, 1)
    return found, distances


def _answers(places: NDArray[np.intp], distances: Floats, targets: NDArray[Any], loss: HeadLoss, labels: int) -> Floats:
    """Logits or numbers, shape (m, outputs), from the neighbours of m vectors."""
    weights = 1.0 / np.maximum(distances, EQUAL)
    weights /= weights.sum(1, keepdims=True)  # (m, k)
    k = places.shape[1]
    if loss != "cross_entropy":
        means: Floats = np.einsum("mk,mkt->mt", weights, targets[places].astype(np.float64))
        if loss == "squared":
            return means
        share = (k * means + 0.5) / (k + 1)
        return np.log(share) - np.log1p(-share)
    held = np.zeros((len(places), labels))
    rows = np.repeat(np.arange(len(places)), k)
    np.add.at(held, (rows, targets[places.ravel(), 0].astype(int)), weights.ravel())
    shares: Floats = np.log((k * held + 1 / labels) / (k + 1))
    return shares
