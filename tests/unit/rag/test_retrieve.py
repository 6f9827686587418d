from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import ConfigError
from tunesmith.measures.retrieval import reciprocal_rank
from tunesmith.rag.chunk import Chunk
from tunesmith.rag.index import Hit, Index
from tunesmith.rag.rerank import Reranking
from tunesmith.rag.retrieve import Found, fuse, retrieve, tune_weight


def hits(**scores: float) -> list[Hit]:
    return [Hit(Chunk(name, name, "", 0, 0, f"text {name}"), score) for name, score in scores.items()]


def ids(found: list[Hit]) -> list[str]:
    return [hit.chunk.id for hit in found]


FOUND = Found(hits(a=0.6, b=0.2), hits(b=8.0, c=4.0))


def test_weighted_scores_by_hand() -> None:
    # dense: a 1, b 1.2/1.6, c (not found, list not full) 0; bm25: b 1, c 1/2, a 0
    fused = fuse(FOUND, 0.5, 3)
    assert ids(fused) == ["b", "a", "c"]
    assert [hit.score for hit in fused] == pytest.approx([0.875, 0.5, 0.25])
    # where the lists were cut off, what one lacks counts as its last: c 0.75 by meaning, a 0.5 by words
    full = fuse(FOUND, 0.5, 3, depth=2)
    assert {hit.chunk.id: hit.score for hit in full} == pytest.approx({"a": 0.75, "b": 0.875, "c": 0.625})


def test_the_ends_are_either_list_and_ranks_are_reciprocal() -> None:
    assert ids(fuse(FOUND, 1.0, 2)) == ids(FOUND.dense)
    assert ids(fuse(FOUND, 0.0, 2)) == ids(FOUND.bm25)
    by_rank = fuse(FOUND, None, 3)
    assert ids(by_rank) == ["b", "a", "c"]
    assert [hit.score for hit in by_rank] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_words_that_find_nothing_leave_the_order_of_meaning() -> None:
    found = Found(hits(a=0.6, b=0.2, c=-0.1), [])
    for weight in (0.3, 1.0, None):
        assert ids(fuse(found, weight, 3)) == ["a", "b", "c"]
    assert fuse(Found([], []), 0.5, 3) == []


def test_fusing_keeps_the_order_whatever_the_unit_of_words(rng: np.random.Generator) -> None:
    names = [f"n{i}" for i in range(20)]
    dense = sorted(hits(**dict(zip(names, rng.uniform(-1, 1, 20), strict=True))), key=lambda h: -h.score)
    words = sorted(hits(**dict(zip(names, rng.uniform(0, 9, 20), strict=True))), key=lambda h: -h.score)
    scaled = [Hit(hit.chunk, 7 * hit.score) for hit in words]
    for weight in (0.0, 0.35, 1.0):
        assert ids(fuse(Found(dense, words), weight, 20)) == ids(fuse(Found(dense, scaled), weight, 20))


def test_a_wrong_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        fuse(FOUND, 1.5, 3)


def test_the_weight_is_tuned_to_what_is_worth_most() -> None:
    def first_is(name: str) -> float:
        return tune_weight([FOUND], lambda i, ranked: reciprocal_rank(ids(ranked), {name}), 3)

    assert ids(fuse(FOUND, first_is("a"), 1)) == ["a"]
    assert ids(fuse(FOUND, first_is("b"), 1)) == ["b"]
    assert tune_weight([FOUND], lambda i, ranked: 0.0, 3) == 0.5


def test_what_is_in_an_index_is_found_each_way(encoder: Path, tmp_path: Path) -> None:
    for name, text in (("a", "the cat sleeps"), ("b", "cement and sand"), ("c", "tax on houses")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    index = Index.create(tmp_path / "kb", str(encoder))
    index.add([tmp_path / f"{name}.txt" for name in "abc"])
    questions = ["cement and sand", "tax on houses"]
    for retriever in ("dense", "bm25", "hybrid"):
        for weight in (None, 0.5):
            found = retrieve(index, questions, retriever, 1, weight=weight)
            assert [hits[0].chunk.text for hits in found] == questions
            worst = Reranking(lambda query, texts: np.array([float(text != query) for text in texts]))
            found = retrieve(index, questions, retriever, 1, weight=weight, reranking=worst)
            assert all(len(hits) == 1 and hits[0].score == 1.0 for hits in found) == (retriever != "bm25")
    with pytest.raises(ConfigError, match="query is empty"):
        retrieve(index, ["x", " "], "dense", 1)
