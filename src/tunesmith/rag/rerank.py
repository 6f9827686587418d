"""Ranking what was found anew: by a cross-encoder, or by how likely a model finds the question after each chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.rag.index import Hit

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

LIKELIHOOD = "likelihood"  # instead of a cross-encoder's name
DEPTH = 50  # hits that are ranked anew, at most: further down scores mislead more often than they help
DEPTHS = (0, 5, 10, 20, 50)  # tried on validation
REQUEST = "\nPlease write a question based on this passage.\nQuestion:"
EQUAL_DIGITS = 5  # scores that agree to so many digits after the point are equal: a batch's padding moves the next

Scorer = Callable[[str, Sequence[str]], np.ndarray]  # a query and texts → a score of each, higher fits better


@dataclass(frozen=True, slots=True)
class Reranking:
    """What ranks hits anew, and how many of them."""

    score: Scorer
    depth: int = DEPTH


def rerank(reranking: Reranking, query: str, hits: Sequence[Hit]) -> list[Hit]:
    """The hits with the first ``depth`` in the order of their new scores; of equal ones the former first.

    Those get the new scores; the hits below follow as they were, with the scores they had.

    Source: Jacob et al. 2024, "Drowning in documents", arXiv:2411.11767, on why the depth is bounded.
    """
    top = hits[: reranking.depth]
    scores = reranking.score(query, [hit.chunk.text for hit in top])
    order = np.argsort(-np.round(scores, EQUAL_DIGITS), kind="stable")
    return [*(Hit(top[i].chunk, float(scores[i])) for i in order), *hits[reranking.depth :]]


def by_cross_encoder(name: str) -> Scorer:
    """Scores by a cross-encoder: a catalog name, a folder or ``hf:owner/name``.

    Raises:
        NotFoundError, SourceError, ModelError: If it is not to be had, or is no sequence classifier with one output.
    """
    from tunesmith.model.cross_encoder import load_cross_encoder, score_pairs
    from tunesmith.sources import resolve_model

    encoder = load_cross_encoder(resolve_model(name))
    return lambda query, texts: score_pairs(encoder, query, texts)


def by_likelihood(lm: LanguageModel) -> Scorer:
    """Scores by the mean log-likelihood of the query's tokens after each text, in nats, ≤ 0.

    A text that leaves the query no room in the model is cut; so is a query of more than half of what the model takes.

    Source: Sachan et al. 2022, "Improving passage retrieval with zero-shot question generation", arXiv:2204.07496.
    """
    from tunesmith.model.score import score_continuations

    def tokens(text: str, special: bool = False) -> list[int]:
        ids: list[int] = lm.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    request = tokens(REQUEST)

    def score(query: str, texts: Sequence[str]) -> np.ndarray:
        asked = tokens(" " + query)[: lm.max_length // 2]
        room = lm.max_length - len(asked) - len(request)
        prompts = [tokens("Passage: " + text, special=True)[:room] + request for text in texts]
        losses = score_continuations(lm, prompts, [[asked]] * len(prompts))
        return -np.array([loss[0].mean() for loss in losses])

    return score
