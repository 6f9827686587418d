"""Finding chunks by meaning, by words, or by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from tunesmith.errors import ConfigError
from tunesmith.rag.index import Hit
from tunesmith.rag.rerank import Reranking, rerank

if TYPE_CHECKING:
    from tunesmith.rag.index import Index

Retriever = Literal["dense", "bm25", "hybrid"]
RETRIEVERS: tuple[Retriever, ...] = ("dense", "bm25", "hybrid")
DEPTH = 50  # hits of each kind that are fused
LOWEST = (-1.0, 0.0)  # a cosine's and BM25's least possible values
RRF = 60  # Cormack, Clarke & Büttcher 2009
WEIGHTS = tuple(i / 20 for i in range(21))


class Found(NamedTuple):
    """What was found for one query, by meaning and by words, each the best first."""

    dense: list[Hit]
    bm25: list[Hit]


def retrieve(
    index: Index,
    queries: Sequence[str],
    retriever: Retriever,
    k: int,
    *,
    weight: float | None = None,
    where: Mapping[str, str] | None = None,
    reranking: Reranking | None = None,
) -> list[list[Hit]]:
    """The ``k`` best chunks for each query.

    Args:
        index: Where to look.
        queries: Questions, none empty.
        retriever: By meaning (dense), by words (bm25), or both (hybrid).
        k: How many, at least 1.
        weight: Of meaning against words in hybrid, in [0, 1]; None: by rank alone.
        where: Values that metadata must have.
        reranking: What ranks the best of them anew, if anything.

    Raises:
        ConfigError: If a query is empty, ``k`` is not at least 1, or no document has such a field of metadata.
    """
    check_queries(queries, k)
    n = k if reranking is None else max(k, reranking.depth)
    if retriever == "bm25":
        ranked = [index.text(query, n, where) for query in queries]
    elif retriever == "dense":
        ranked = [index.dense(vector, n, where) for vector in index.embed(queries)]
    else:
        ranked = [fuse(found, weight, n) for found in find_both(index, queries, max(n, DEPTH), where)]
    if reranking is not None:
        ranked = [rerank(reranking, query, hits)[:k] for query, hits in zip(queries, ranked, strict=True)]
    return ranked


def find_both(
    index: Index, queries: Sequence[str], depth: int = DEPTH, where: Mapping[str, str] | None = None
) -> list[Found]:
    """The ``depth`` best chunks for each query by meaning, and by words.

    Raises:
        ConfigError: If a query is empty, or no document has such a field of metadata.
    """
    check_queries(queries, depth)
    vectors = index.embed(queries)
    return [
        Found(index.dense(vector, depth, where), index.text(query, depth, where))
        for query, vector in zip(queries, vectors, strict=True)
    ]


def fuse(found: Found, weight: float | None, k: int, depth: int = DEPTH) -> list[Hit]:
    """One ranking of both lists: their normalised scores weighted, or by rank alone.

    Each score s becomes (s − least possible) / (highest found − least possible), in [0, 1]; the fused one is
    weight · dense + (1 − weight) · bm25. A chunk that one list lacks counts there as its last hit, which bounds it from
    above, or as the least possible if the list has fewer than ``depth`` hits, so that nothing was cut off. By rank,
    a chunk gets Σ 1 / (60 + rank) over the lists that have it.

    Args:
        found: The two lists, the best first.
        weight: Of meaning against words, in [0, 1]; None: by rank alone.
        k: How many to return.
        depth: How many each list was asked for.

    Returns:
        At most ``k`` hits, the best first; equal ones in the order of their ids.

    Raises:
        ValueError: If the weight leaves [0, 1].

    Source:
        Bruch, Gai & Ingber 2022, "An analysis of fusion functions for hybrid retrieval", arXiv:2210.11934; Cormack,
        Clarke & Büttcher 2009, "Reciprocal rank fusion", SIGIR.
    """
    if weight is not None and not 0 <= weight <= 1:
        raise ValueError(f"a weight of {weight}: expected 0 to 1.")
    chunks = {hit.chunk.id: hit.chunk for hits in found for hit in hits}
    if weight is None:
        ranks = [{hit.chunk.id: rank for rank, hit in enumerate(hits, start=1)} for hits in found]
        scores = {name: sum(1 / (RRF + rank[name]) for rank in ranks if name in rank) for name in chunks}
    else:
        dense, bm25 = (_normalised(hits, least, depth, chunks) for hits, least in zip(found, LOWEST, strict=True))
        scores = {name: weight * dense[name] + (1 - weight) * bm25[name] for name in chunks}
    order = sorted(scores, key=lambda name: (-scores[name], name))
    return [Hit(chunks[name], scores[name]) for name in order[:k]]


def _normalised(hits: Sequence[Hit], least: float, depth: int, names: Mapping[str, object]) -> dict[str, float]:
    if not hits:
        return dict.fromkeys(names, 0.0)
    span = hits[0].score - least
    missing = hits[-1].score if len(hits) >= depth else least
    own = {hit.chunk.id: hit.score for hit in hits}
    return {name: (own.get(name, missing) - least) / span if span > 0 else 0.0 for name in names}


def tune_weight(found: Sequence[Found], value: Callable[[int, list[Hit]], float], k: int) -> float:
    """The weight of :func:`fuse` whose rankings are worth most on average; of equal ones the nearest to one half.

    Args:
        found: What was found for each query, at least one.
        value: From a query's place and its ranking of at most ``k`` to what that is worth, such as nDCG.
        k: Places of the ranking.

    Returns:
        One of 0, 0.05, …, 1.
    """
    worth = {w: sum(value(i, fuse(one, w, k)) for i, one in enumerate(found)) for w in WEIGHTS}
    return max(WEIGHTS, key=lambda w: (round(worth[w], 9), -abs(w - 0.5)))


def check_queries(queries: Sequence[str], k: int) -> None:
    """Refuse what :func:`retrieve` would, before anything is loaded."""
    if not all(query.strip() for query in queries):
        raise ConfigError("the query is empty. Give it some words.")
    if k < 1:
        raise ConfigError(f"k: {k} chunks asked for; expected at least 1.")
