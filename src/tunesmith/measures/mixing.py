"""How often each of several data sets is drawn from when they are trained together."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mixing_weights(sizes: Sequence[int], temperature: float = 1.0, cap: int | None = None) -> list[float]:
    """Share of each data set in the mixture, r_i ∝ min(n_i, K)^(1/T).

    T = 1 draws in proportion to size, T → ∞ equally from all. The cap K keeps a huge data set from drowning the
    others.

    Args:
        sizes: Number of training examples of each data set, each at least 1.
        temperature: T, at least 1.
        cap: K, at least 1; None: no cap.

    Returns:
        Shares, summing to 1.

    Raises:
        ValueError: If an argument leaves its range, or there is no data set.

    Source:
        Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer",
        section 3.5.2, arXiv:1910.10683.

    Example:
        >>> mixing_weights([100, 400]), mixing_weights([100, 400], temperature=2), mixing_weights([1, 400], cap=3)
        ([0.2, 0.8], [0.3333333333333333, 0.6666666666666666], [0.25, 0.75])
    """
    if any(n < 1 for n in sizes) or not 1 <= temperature < math.inf or (cap is not None and cap < 1):
        raise ValueError(f"sizes={list(sizes)}, temperature={temperature}, cap={cap}: expected each to be at least 1.")
    return normalized_weights([min(n, cap or n) ** (1 / temperature) for n in sizes])


def normalized_weights(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum.

    Raises:
        ValueError: If there are none, one is negative or not finite, or all are 0.

    Example:
        >>> normalized_weights([3, 1])
        [0.75, 0.25]
    """
    total = math.fsum(weights)
    if not all(0 <= w < math.inf for w in weights) or not 0 < total < math.inf:
        raise ValueError(f"weights {list(weights)}: expected numbers of at least 0, not all of them 0.")
    return [w / total for w in weights]
