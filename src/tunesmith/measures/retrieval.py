"""How good a ranking is, one query at a time: recall, discounted gain, reciprocal rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence


def recall_at(ranked: Sequence[Hashable], relevant: Collection[Hashable], k: int) -> float:
    """Share of what is relevant that stands among the first ``k``.

    Args:
        ranked: What was found, the best first, nothing twice.
        relevant: What should be found, at least one.
        k: Places looked at, at least 1.

    Returns:
        In [0, 1].

    Raises:
        ValueError: If nothing is relevant, ``k`` is not positive, or something stands twice.

    Example:
        >>> recall_at(["a", "b", "c"], {"b", "d"}, 2)
        0.5
    """
    _check(ranked, relevant, k)
    wanted = set(relevant)
    return sum(item in wanted for item in ranked[:k]) / len(wanted)


def ndcg_at(ranked: Sequence[Hashable], gains: Mapping[Hashable, float], k: int) -> float:
    """Normalised discounted cumulative gain: Σ gain_r / log₂(r + 1) over the first ``k`` ranks r, over its best value.

    Args:
        ranked: What was found, the best first, nothing twice.
        gains: How useful each item is, at least 0; 0 where it is not named. One is above 0.
        k: Places looked at, at least 1.

    Returns:
        In [0, 1]; 1 if no ranking of ``k`` places is better.

    Raises:
        ValueError: If no gain is above 0, one is below, ``k`` is not positive, or something stands twice.

    Source:
        Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with linear gains.
    """
    if any(gain < 0 for gain in gains.values()):
        raise ValueError("a gain is below 0: expected gains of at least 0.")
    _check(ranked, [item for item, gain in gains.items() if gain > 0], k)
    best = sorted(gains.values(), reverse=True)
    return _discounted([gains.get(item, 0.0) for item in ranked[:k]]) / _discounted(best[:k])


def reciprocal_rank(ranked: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """One over the rank of the first relevant item, 0 if there is none; its mean over queries is the MRR.

    Raises:
        ValueError: If nothing is relevant, or something stands twice.

    Source:
        Voorhees 1999, "The TREC-8 question answering track report".
    """
    _check(ranked, relevant, 1)
    wanted = set(relevant)
    return next((1.0 / rank for rank, item in enumerate(ranked, start=1) if item in wanted), 0.0)


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _check(ranked: Sequence[Hashable], relevant: Collection[Hashable], k: int) -> None:
    if k < 1 or not relevant or len(set(ranked)) < len(ranked):
        raise ValueError(
            f"{len(relevant)} relevant, k={k}, {len(ranked)} ranked of which {len(set(ranked))} differ: expected at "
            "least one relevant, k of at least 1, and nothing ranked twice."
        )
