"""How well frozen features suit a task, without training on them: scores by which models are ranked.

Arrays in, one number out; higher is better. Targets are columns: the one-hot columns of labels, 0 or 1 for each of
several labels, or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ITERATIONS = 100  # of the fixed point at most
TOLERANCE = 1e-5  # relative change of α / β at which it ends
SMALLEST = 1e-12  # of the mean square of a target: residual and weights are not taken for smaller


def h_score(features: NDArray[Any], targets: NDArray[Any]) -> float:
    """Share of the targets' spread that a linear function of the features explains, summed over directions.

    The trace of Σ⁻¹ Σ_B: Σ the features' covariance, shrunk by Ledoit and Wolf's rule so that it can be inverted where
    features outnumber examples; Σ_B that of their linear prediction from the targets (for labels, of the labels'
    means), times what shrinkage left of Σ.

    Args:
        features: Shape (n, width).
        targets: Shape (n, columns).

    Returns:
        Between 0 and the rank of the centred targets: the number of labels less one.

    Source:
        Bao et al. 2019, "An Information-Theoretic Approach to Transferability"; Ibrahim et al. 2021, "Newer is not
        always better", arXiv:2110.06893 (shrinkage).
    """
    from sklearn.covariance import ledoit_wolf

    centred = np.asarray(features, dtype=float) - np.mean(features, axis=0)
    wanted = np.asarray(targets, dtype=float) - np.mean(targets, axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    u, s, _ = np.linalg.svd(wanted, full_matrices=False)
    basis = u[:, s > s.max(initial=0.0) * 1e-10]  # orthonormal directions of the targets, shape (n, rank)
    explained = centred.T @ basis / len(centred) ** 0.5  # (width, rank); times its transpose: Σ_B
    return float((1 - shrinkage) * np.sum(explained * np.linalg.solve(covariance, explained)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Log evidence per example of a Bayesian linear regression at the α and β that make it largest."""

    value: float
    alpha: float
    beta: float


def log_evidence(features: NDArray[Any], target: NDArray[Any]) -> Evidence:
    """Log probability per example of a target under y = F w + noise, w ~ N(0, 1/α), noise ~ N(0, 1/β).

    α and β are found by MacKay's fixed point. With k the rank of F, all of D features that no example moves cancel
    out of the evidence, which is therefore counted in k directions. The reference code of LogME leaves their
    (D − k) · ln α in where D > n, and so overrates wide models on few examples.

    Args:
        features: Shape (n, width).
        target: Shape (n,).

    Source:
        You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", arXiv:2102.11005,
        equations 2 to 4.
    """
    return _evidence(*_decompose(features), np.asarray(target, dtype=float))


def logme(features: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean over target columns of :func:`log_evidence`; targets of shape (n, columns)."""
    u, s = _decompose(features)
    columns = np.asarray(targets, dtype=float).T
    return float(np.mean([_evidence(u, s, column).value for column in columns]))


def _decompose(features: NDArray[Any]) -> tuple[Floats, Floats]:
    u, s, _ = np.linalg.svd(np.asarray(features, dtype=float), full_matrices=False)
    kept = s > s.max(initial=0.0) * 1e-10
    return u[:, kept], s[kept] ** 2


def _evidence(u: Floats, squares: Floats, target: Floats) -> Evidence:
    """``squares`` are the squared singular values whose left vectors are the columns of ``u``."""
    n, k = u.shape
    along = (u.T @ target) ** 2  # of the target in each direction
    least = SMALLEST * max(float(target @ target), 1e-300)
    outside = max(float(target @ target - along.sum()), 0.0)
    alpha, beta = 1.0, 1.0

    def weights_and_residual() -> tuple[float, float]:
        shrunk = alpha + beta * squares
        return float((beta**2 * squares * along / shrunk**2).sum()), float((along * (alpha / shrunk) ** 2).sum())

    for _ in range(ITERATIONS):
        before = alpha / beta
        weights, inside = weights_and_residual()
        well_determined = float((beta * squares / (alpha + beta * squares)).sum())
        alpha = well_determined / max(weights, least)
        beta = max(n - well_determined, SMALLEST) / max(inside + outside, least)
        if abs(alpha / beta - before) <= TOLERANCE * before:
            break
    weights, inside = weights_and_residual()
    value = k * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * squares).sum() - n * np.log(2 * np.pi)
    value -= beta * (inside + outside) + alpha * weights
    return Evidence(float(value / 2 / n), alpha, beta)
