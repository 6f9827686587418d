"""How strongly two yes-or-no marks of the same items go together."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Association(NamedTuple):
    """The correlation of two marks, in [−1, 1], with its 95 % interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float


def association(both: int, first: int, second: int, n: int, independent: int | None = None) -> Association:
    """Correlation of two yes-or-no marks (phi), by Fisher's z.

    Args:
        both: Items with both marks.
        first: Items with the first, neither 0 nor n.
        second: Items with the second, neither 0 nor n.
        n: All items.
        independent: How many of them are independent of each other, at least 4; None: all.

    Source:
        Fisher 1921, "On the probable error of a coefficient of correlation deduced from a small sample".

    Example:
        >>> [round(value, 3) for value in association(30, 40, 50, 100)]
        [0.408, 0.231, 0.56, 0.0]
    """
    r = (n * both - first * second) / math.sqrt(first * (n - first) * second * (n - second))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    error = 1 / math.sqrt((independent or n) - 3)
    half = NormalDist().inv_cdf(0.975) * error
    return Association(r, math.tanh(z - half), math.tanh(z + half), math.erfc(abs(z) / error / math.sqrt(2)))
