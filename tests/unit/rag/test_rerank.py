from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from end_to_end.projects import build_cross_encoder
from tunesmith.model.load import load_model
from tunesmith.rag.chunk import Chunk
from tunesmith.rag.index import Hit
from tunesmith.rag.rerank import REQUEST, Reranking, by_cross_encoder, by_likelihood, rerank


def hits(*texts: str) -> list[Hit]:
    return [Hit(Chunk(text, text, "", 0, 0, text), 10.0 - i) for i, text in enumerate(texts)]


def texts(found: Sequence[Hit]) -> list[str]:
    return [hit.chunk.text for hit in found]


def by_length(query: str, texts: Sequence[str]) -> np.ndarray:
    return np.array([float(len(text)) for text in texts])


def test_the_first_are_ranked_anew_and_the_rest_follow_as_they_were() -> None:
    found = hits("a", "bbb", "cc", "dddd", "eeeee")
    ranked = rerank(Reranking(by_length, 3), "q", found)
    assert texts(ranked) == ["bbb", "cc", "a", "dddd", "eeeee"]
    assert [hit.score for hit in ranked] == [3.0, 2.0, 1.0, 7.0, 6.0]
    assert texts(rerank(Reranking(by_length), "q", found)) == ["eeeee", "dddd", "bbb", "cc", "a"]
    assert rerank(Reranking(by_length), "q", []) == []


def test_equal_scores_keep_the_former_order() -> None:
    found = hits("x", "yy", "z", "ww", "v")
    assert texts(rerank(Reranking(by_length), "q", found)) == ["yy", "ww", "x", "z", "v"]

    def nearly(query: str, texts: Sequence[str]) -> np.ndarray:
        return np.array([1e-7 * i for i in range(len(texts))])  # what a batch's padding makes of equal ones

    assert texts(rerank(Reranking(nearly), "q", found)) == texts(found)


def test_likelihood_is_that_of_the_question_after_the_passage(tiny_model_path: Path) -> None:
    """Against plain transformers: log-softmax of the logits at the question's tokens, each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32).eval()
    passages, question = ["sand is small", "the city has news of the weather", "x"], "which text is it?"
    expected = []
    for passage in passages:
        asked = tokenizer(" " + question, add_special_tokens=False)["input_ids"]
        before = (
            tokenizer("Passage: " + passage)["input_ids"] + tokenizer(REQUEST, add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            logits = model(torch.tensor([before + asked])).logits[0].double()
        steps = logits.log_softmax(-1)[len(before) - 1 : -1]
        expected.append(float(steps[range(len(asked)), asked].mean()))
    score = by_likelihood(load_model(str(tiny_model_path), "causal"))
    assert score(question, passages) == pytest.approx(expected, abs=1e-4)
    ranked = rerank(Reranking(score), question, hits(*passages))
    assert texts(ranked) == [passages[i] for i in np.argsort([-value for value in expected])]
    assert all(hit.score < 0 for hit in ranked)


def test_texts_and_questions_that_do_not_fit_are_cut(tiny_model_path: Path) -> None:
    score = by_likelihood(load_model(str(tiny_model_path), "causal"))
    long = "sand " * 20_000
    assert np.isfinite(score("which?", [long, "short"])).all()
    assert np.isfinite(score(long, [long])).all()


def test_a_cross_encoder_reads_question_and_chunk(tmp_path: Path) -> None:
    score = by_cross_encoder(str(build_cross_encoder(tmp_path / "ce")))
    found = score("which?", ["the day", "a city of glass", "the day"])
    assert found[0] == pytest.approx(found[2], abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-3)
    assert found[0] != pytest.approx(score("who?", ["the day"])[0], abs=1e-3)
