from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from end_to_end.projects import TINY, build_cross_encoder, build_encoder
from tunesmith.candidates import FAMILIES, Context
from tunesmith.candidates.retrieval import (
    Looked,
    Lookup,
    answered,
    as_deep,
    cited,
    errors,
    fitted_contexts,
    raft_hits,
)
from tunesmith.config import parse_any_config, parse_config, read_config
from tunesmith.data.render import Renderer
from tunesmith.errors import ConfigError, DataError
from tunesmith.model.load import load_tokenizer
from tunesmith.rag.answer import with_context
from tunesmith.rag.chunk import Chunk
from tunesmith.rag.index import Hit, Index
from tunesmith.rag.rerank import Reranking, rerank
from tunesmith.rag.retrieve import Found
from tunesmith.records import Example, Message, Prediction
from tunesmith.sources import resolve_model
from tunesmith.tasks import build_task
from tunesmith.workflow import silent

WORDS = ["sand", "brick", "glass", "steel", "cement", "timber", "slate", "copper", "paint", "gravel", "tile", "stone"]
FACTS = {word: f"The {word} comes from town number {i * 7}" for i, word in enumerate(WORDS)}


def examples() -> list[Example]:
    return [
        Example(f"f:{i}", (Message("user", f"Where does {word} come from?"), Message("assistant", fact)), group=word)
        for i, (word, fact) in enumerate(FACTS.items())
    ]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def context(tmp_path: Path, encoder: Path) -> Context:
    """Facts as documents, and a generation task about them."""
    rows = "".join(json.dumps({"text": fact}) + "\n" for fact in FACTS.values())
    (tmp_path / "facts.jsonl").write_text(rows, encoding="utf-8")
    config = parse_config({
        "task": {"kind": "generation", "max_new_tokens": 4}, "data": {"train": "x"}, "model": str(TINY),
        "encoder": str(encoder), "rag": {"documents": str(tmp_path / "facts.jsonl"), "k": 3}, "forgetting": "off",
    })  # fmt: skip
    loop: dict[str, Any] = {"lora": {"epochs": 1.0, "learning_rate": 0.01, "global_batch_size": 4}}
    return Context(config, build_task(config.task, []), str(TINY), loop, 1024, silent)


def hits(*texts: str) -> list[Hit]:
    return [Hit(Chunk(text, "d", "", 0, 0, text), 1.0 - i / 10) for i, text in enumerate(texts)]


def prediction(score: float) -> Prediction:
    return Prediction("e", "c", "p", "t", score)


def test_the_base_model_answers_with_what_was_found(context: Context, tmp_path: Path) -> None:
    asked = examples()
    for name in ("dense", "bm25", "hybrid"):
        candidate = FAMILIES["rag"].build(context, f"rag/{name}", tmp_path / "run" / "candidates" / f"rag__{name}")
        details = candidate.fit(asked[:4], asked[4:8]).details["rag"]
        assert details["chunks"] == details["documents"] == len(FACTS)
        assert ("weight" in details) == (name == "hybrid")
        predictions = candidate.predict(asked[8:])
        assert [p.example_id for p in predictions] == [e.id for e in asked[8:]]
        assert [p.cluster for p in predictions] == WORDS[8:]
        assert [p.text for p in predictions] == [e.prompt[0].content for e in asked[8:]]
        assert details["retrieval"]["n"] == 4
        assert details["oracle"]["n"] == 4
        assert details["errors"]["wrong"] == sum(p.score < 0.5 for p in predictions)
        json.dumps(details, allow_nan=False)
        if name == "bm25":  # the encoder is random
            assert details["refusal"]["validation_accuracy"] == details["refusal"]["test_accuracy"] == 1.0
    assert details["retrieval"]["recall"] == 1.0
    assert (tmp_path / "run" / "index" / "index.json").is_file()


def test_a_model_is_trained_with_what_was_found(context: Context, tmp_path: Path) -> None:
    asked = examples()
    name = "tune+rag/tiny_llama/lora"
    candidate = FAMILIES["tune+rag"].build(context, name, tmp_path / "run" / "candidates" / "tuned")
    fit = candidate.fit(asked[:8], asked[8:10])
    assert fit.tokens_trained > 0
    assert "shown like validation examples" in fit.measured["memorization"]["reason"]
    assert 0 < fit.details["rag"]["train_examples_with_their_answer"] < 9
    predictions = candidate.predict(asked[10:])
    assert [(p.example_id, p.candidate) for p in predictions] == [(e.id, name) for e in asked[10:]]
    assert fit.details["rag"]["oracle"]["n"] == 2


def test_answers_are_judged_without_their_citations(context: Context, tmp_path: Path) -> None:
    """A model that copies the first source and cites it."""
    lookup = Lookup(context, "bm25", tmp_path / "run" / "candidates" / "rag")
    renderer = Renderer(load_tokenizer(resolve_model(str(TINY)), "decoder"), 1024)

    def ask(shown: list[Example]) -> list[Prediction]:
        first = [e.prompt[-1].content.split(">\n")[2].removesuffix("\n</source") for e in shown]
        pairs = zip(first, shown, strict=True)
        return [Prediction(e.id, "c", f"{text} [1]", e.answer, 0.0, text="changed") for text, e in pairs]

    predictions = answered(lookup, context, renderer, examples(), lookup.look(examples()), ask)
    assert [p.prediction for p in predictions] == list(FACTS.values())
    assert {p.score for p in predictions} == {1.0}
    details = lookup.details
    assert details["citations"] == {"answers_that_cite": 1.0, "citations": 12, "invented": 0, "precision": 1.0}
    assert details["errors"]["wrong"] == 0
    assert details["oracle"] == {"n": 12, "score": 1.0, "own_score": 1.0}


def with_rag(context: Context, **rag: Any) -> Context:
    settings = context.config.model_dump(mode="json")
    return replace(context, config=parse_config(settings | {"rag": settings["rag"] | rag}))


class Scorer:
    """Fits best: the fact about what is asked, or what is turned round; every pair that was scored is noted."""

    def __init__(self, sign: float) -> None:
        self.sign, self.scored = sign, list[tuple[str, str]]()

    def __call__(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.scored += [(query, text) for text in texts]
        return self.sign * np.array([float(query.split()[2] in text.split()) for text in texts])


def test_how_many_are_ranked_anew_is_chosen_on_validation(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = examples()
    for sign, retriever, kept in ((1.0, "dense", True), (-1.0, "bm25", False)):  # meaning is random, words are right
        score = Scorer(sign)
        monkeypatch.setattr(Lookup, "_scorer", lambda self, score=score: score)
        lookup = Lookup(
            with_rag(context, rerank="x", rerank_depth=12), retriever, tmp_path / "run" / "candidates" / "x"
        )
        looked = lookup.tune(asked[:6])
        told = lookup.details["rerank"]
        assert [row["depth"] for row in told["tried_on_validation"]] == [0, 5, 10, 12]
        worth = {row["depth"]: row["ndcg@10"] for row in told["tried_on_validation"]}
        assert worth[12] == 1.0 if kept else worth[0] == 1.0 > worth[12]
        assert told["depth"] == lookup.depth == min(depth for depth in worth if worth[depth] == 1.0)
        assert len(set(score.scored)) == len(score.scored) == 6 * 12  # each pair once
        finished = lookup.ranked_anew(asked[:6], looked)
        assert len(score.scored) == 6 * 12
        for one, example in zip(finished, asked, strict=False):
            assert sorted(hit.chunk.id for hit in one.hits) == sorted(hit.chunk.id for hit in one.former)
            if kept:
                assert example.answer in one.hits[0].chunk.text
            else:
                assert one.hits == one.former
        assert [[h.chunk.id for h in one.hits] for one in lookup.look(asked[:6])] == [
            [h.chunk.id for h in one.hits] for one in finished
        ]


def test_less_deep_is_what_reranking_less_deep_gives(context: Context, tmp_path: Path) -> None:
    """Cut from the deepest ranking, against reranking anew at every depth."""
    rng = np.random.default_rng(0)
    former = hits(*(f"text {i}" for i in range(12)))
    value = {hit.chunk.text: round(float(rng.random()), 1) for hit in former}  # with ties

    def score(query: str, texts: Sequence[str]) -> np.ndarray:
        return np.array([value[text] for text in texts])

    one = Looked(Found(former, []), former, [], former)
    deepest = replace(one, hits=rerank(Reranking(score, 12), "q", former), depth=12)
    for depth in range(13):
        assert as_deep(deepest, depth).hits == rerank(Reranking(score, depth), "q", former)


@pytest.mark.parametrize("by", ["likelihood", "cross-encoder"])
def test_a_run_ranks_anew(context: Context, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both candidates, with real models, whatever their random weights prefer."""
    monkeypatch.setattr("tunesmith.candidates.retrieval.DEPTHS", (0, 6))
    monkeypatch.setattr("tunesmith.candidates.retrieval.ndcg_at", lambda ranked, gold, k: float(ranked[0] in gold))
    asked = examples()
    name = "likelihood" if by == "likelihood" else str(build_cross_encoder(tmp_path / "ce"))
    own = with_rag(context, rerank=name, rerank_depth=6)
    for family, candidate_id in (("rag", "rag/bm25"), ("tune+rag", "tune+rag/tiny_llama/lora")):
        candidate = FAMILIES[family].build(own, candidate_id, tmp_path / "run" / "candidates" / family)
        lookup: Lookup = candidate.lookup  # type: ignore[attr-defined]
        details = candidate.fit(asked[:8], asked[8:10]).details["rag"]
        assert details["rerank"]["by"] == name
        assert [row["depth"] for row in details["rerank"]["tried_on_validation"]] == [0, 6]
        lookup.depth = 6  # whichever was chosen
        predictions = candidate.predict(asked[10:])
        assert [p.example_id for p in predictions] == [e.id for e in asked[10:]]
        assert {"recall", "ndcg@10", "mrr"} == details["rerank"]["retrieval_before"].keys()
        looked = lookup.look(asked[10:])
        assert all(one.depth == 6 and one.seconds > 0 for one in looked)
        assert all(p.seconds > 0 for p in predictions)
        json.dumps(details, allow_nan=False)


def test_wrong_answers_are_told_apart() -> None:
    right, other = hits("right", "other")
    seen = Looked(Found([right, other], []), [right, other], [right])
    missed = Looked(Found([other], []), [other], [right])
    late = Looked(Found([other, right], []), [other, right], [right])  # the second did not fit
    looked = [seen, seen, missed, seen, late, seen]
    scores = [prediction(s) for s in (0.9, 0.1, 0.0, 0.2, 0.4, 0.49)]
    found = errors(looked, [2, 2, 1, 2, 1, 2], scores, {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.1, 4: 1.0})
    assert found == {
        "wrong_below": 0.5, "wrong": 5, "retrieval_miss": 2, "ignored_context": 1, "wrong_reading": 1,
        "not_told_apart": 1,
    }  # fmt: skip
    cites = cited([seen, seen, missed], [2, 2, 1], ["a [1]", "b [2] [7]", "none"])
    assert cites == {"answers_that_cite": 2 / 3, "citations": 3, "invented": 1, "precision": 1 / 3}


def test_training_shows_the_right_chunk_among_others_or_others_only() -> None:
    found = hits("a", "b", "c", "d", "e")
    missed = Looked(Found(found[:4], found[1:4]), found[:3], [found[4]])
    assert [h.chunk.id for h in raft_hits(missed, 3, True)] == ["a", "b", "e"]
    there = Looked(Found(found[:4], found[1:4]), found[:4], [found[1]])
    assert raft_hits(there, 3, True) == found[:3]
    late = Looked(Found(found[:4], found[1:4]), found[:4], [found[3]])
    assert [h.chunk.id for h in raft_hits(late, 3, True)] == ["a", "b", "d"]
    assert [h.chunk.id for h in raft_hits(there, 3, False)] == ["a", "c", "d"]


def test_chunks_that_leave_no_room_are_left_out(context: Context) -> None:
    found, example = hits("one " * 100, "two " * 100, "three " * 100), examples()[0]
    renderer = Renderer(load_tokenizer(resolve_model(str(TINY)), "decoder"), 100_000)
    lengths = [len(renderer.prompt(with_context(example, found[:n]).messages)) for n in range(4)]
    for n in range(4):
        short = Renderer(renderer.tokenizer, lengths[n] + 60)
        ((shown, kept),) = fitted_contexts(context, short, [example], [found])
        assert kept == n
        assert (shown is example) == (n == 0)


def test_an_index_that_is_there_is_used_as_it_is(context: Context, encoder: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "kb", str(encoder))
    settings = {**context.config.model_dump(mode="json"), "rag": {"index": str(tmp_path / "kb")}}
    config = parse_config(settings)
    own = Context(config, context.task, context.model, {}, 1024, silent)
    with pytest.raises(DataError, match="nothing in the documents"):
        Lookup(own, "dense", tmp_path / "run" / "candidates" / "x").open()
    index.add([tmp_path / "facts.jsonl"])
    assert Lookup(own, "dense", tmp_path / "run" / "candidates" / "x").open().stats()["documents"] == len(FACTS)


def test_only_documents_with_the_metadata_that_is_asked_for(context: Context, tmp_path: Path) -> None:
    rows = [{"text": fact, "year": 2000 + i % 2, "old": i < 6} for i, fact in enumerate(FACTS.values())]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked, place = examples(), tmp_path / "run" / "candidates" / "x"
    for retriever in ("dense", "bm25", "hybrid"):
        lookup = Lookup(with_rag(context, where={"year": 2001, "old": True}), retriever, place)
        looked = lookup.look(asked)
        for one in looked:
            assert sorted(hit.chunk.metadata["year"] for hit in one.hits) == ["2001"] * 3
            assert all(hit.chunk.metadata["old"] == "true" for hit in one.right)
        assert [bool(one.right) for one in looked] == [i % 2 == 1 and i < 6 for i in range(12)]
        assert lookup.details["where"] == {"year": "2001", "old": "true"}
        assert (lookup.details["chunks"], lookup.details["chunks_searched"]) == (12, 3)
    with pytest.raises(ConfigError, match=r"where jahr: no document .* Fields are file, kind, old, year\."):
        Lookup(with_rag(context, where={"jahr": 2001}), "dense", place).open()
    with pytest.raises(DataError, match="no document has year: 1066"):
        Lookup(with_rag(context, where={"year": 1066}), "dense", place).open()


BASE: dict[str, Any] = {"task": "generation", "data": {"train": "x"}}


def test_documents_bring_their_candidates() -> None:
    config = parse_config({**BASE, "rag": {"documents": "docs"}, "method": ["lora", "full"]})
    assert config.candidates[-2:] == ("rag", "tune+rag")
    assert parse_config(config.model_dump(mode="json")) == config
    assert FAMILIES["rag"].ids(config, "m", "decoder") == ["rag/dense", "rag/bm25", "rag/hybrid"]
    assert FAMILIES["tune+rag"].ids(config, "m", "decoder") == ["tune+rag/m/lora", "tune+rag/m/full"]
    assert FAMILIES["rag"].ids(config, "m", "encoder") == []
    assert "rag" not in parse_config(BASE).candidates


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": ["rag"]}, "need documents"),
        ({"rag": {}}, "neither documents nor an index"),
        ({"rag": {"documents": "a", "index": "b"}}, "leave one out"),
        ({"rag": {"documents": "a", "retriever": ["dense", "dense"]}}, "may stand once"),
        ({"rag": {"documents": "a", "rerank_depth": 20}}, "nothing ranks anew"),
        ({"rag": {"documents": "a", "rerank": "likelihood", "rerank_depth": 51}}, "rerank_depth"),
        ({"rag": {"documents": "a", "where": {"year": [1]}}}, "where.year"),
        ({"rag": {"documents": "a", "retreiver": "dense"}}, "Did you mean 'retriever'"),
        ({"rag": {"documents": "a"}, "task": "classification"}, "classification takes no documents"),
        ({"tasks": {"a": {"kind": "generation", "data": {"train": "x"}}, "b": {"kind": "generation",
          "data": {"train": "y"}}}, "candidates": ["rag"]}, "one task"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(changes: dict[str, Any], match: str) -> None:
    raw = {**BASE, **changes}
    if "tasks" in changes:
        raw = changes
    with pytest.raises(ConfigError, match=match):
        parse_any_config(raw)


def test_documents_lie_beside_the_project_file(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "ce").mkdir()
    rag = "{documents: [docs, other], rerank: ce}"
    (tmp_path / "p.yaml").write_text(f"task: generation\ndata: {{train: x}}\nrag: {rag}\n")
    config = read_config(tmp_path / "p.yaml")
    assert config.rag is not None
    assert config.rag.rerank == str(tmp_path / "ce")
    assert config.rag.documents == (str(tmp_path / "docs"), "other")
