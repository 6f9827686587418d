"""``rag/<retriever>`` and ``tune+rag/<model>/<method>``: the model answers with documents before it.

``rag`` shows the base model, with each question, the chunks that a retriever finds for it. ``tune+rag`` trains the
model on such questions: most training examples are shown the chunk that holds their answer among others, the rest only
others, so that it learns to read and to pass over. Training never sees the test questions; the documents, which are
there in use as well, may hold the answers to them.

Source: Lewis et al. 2020, "Retrieval-augmented generation", arXiv:2005.11401; Zhang et al. 2024, "RAFT",
arXiv:2403.10131.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.candidates.embedding import encoder_name
from tunesmith.candidates.tuned import Part, Tuned
from tunesmith.config import Config, Rag
from tunesmith.errors import DataError
from tunesmith.measures.retrieval import ndcg_at, recall_at, reciprocal_rank
from tunesmith.rag.answer import (
    best_score,
    chosen_hits,
    citations,
    control_tokens,
    holds,
    question_of,
    refusal_accuracy,
    tune_threshold,
    with_context,
    without_citations,
)
from tunesmith.rag.index import Hit, Index
from tunesmith.rag.rerank import DEPTHS, LIKELIHOOD, Reranking, Scorer, by_cross_encoder, by_likelihood, rerank
from tunesmith.rag.retrieve import DEPTH, Found, Retriever, find_both, tune_weight
from tunesmith.records import Example, Prediction
from tunesmith.tasks.generation import SCORES, GenerationTask, shown_text

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel

WRONG = 0.5  # an answer that scores less counts as wrong, where errors are told apart
ORACLE_EXAMPLES = 100  # test questions asked again with the right chunk alone, at most
TRAINED_METHODS = ("lora", "qlora", "full")
METRIC_PLACES = 10  # of nDCG
RERANK_EXAMPLES = 50  # validation examples on which the depth of reranking is chosen, at most


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found for an example: the two lists, one ranking of them, and all known chunks that hold its answer.

    ``former`` is the ranking before its first ``depth`` hits were ranked anew, and ``seconds`` what all this took.
    """

    found: Found
    hits: list[Hit]
    right: list[Hit]
    former: list[Hit] = field(default_factory=list)
    depth: int = 0
    seconds: float = 0.0


class Lookup:
    """The documents of a run: its index, and what a retriever finds in it."""

    def __init__(self, context: Context, retriever: Retriever, folder: Path) -> None:
        self.context, self.retriever = context, retriever
        self.settings = cast("Rag", context.config.rag)
        self.folder = Path(self.settings.index).expanduser() if self.settings.index else folder.parent.parent / "index"
        self.weight: float | None = None
        self.threshold: float | None = None
        self.depth = 0 if self.settings.rerank is None else self.settings.rerank_depth
        self.details: dict[str, Any] = {"retriever": retriever, "k": self.settings.k}
        if self.depth:
            self.details["rerank"] = {"by": self.settings.rerank, "depth": self.depth}
        self._index: Index | None = None

    def open(self) -> Index:
        """The index, with the documents in it.

        Raises:
            DataError: If there is nothing in it, or no document has the metadata that is asked for.
            ConfigError: If no document has such a field of metadata.
        """
        if self._index is None:
            index = self._made() if self.settings.index is None else Index.open(self.folder)
            stats = index.stats()
            if not stats["chunks"]:
                refused = "; ".join(f"{name}: {reason}" for name, reason in self.details.get("refused", []))
                raise DataError(f"rag: there is nothing in the documents to look up ({refused or self.folder}).")
            where = self.settings.where
            index.check_fields(where)
            if where and not index.count(where):
                asked = ", ".join(f"{key}: {value}" for key, value in where.items())
                raise DataError(f"rag.where: no document has {asked}. Its fields are there, so check the values.")
            if where:
                self.details |= {"where": where, "chunks_searched": index.count(where)}
            self.details |= {"encoder": index.encoder, "documents": stats["documents"], "chunks": stats["chunks"]}
            self._index = index
        return self._index

    def _made(self) -> Index:
        from tunesmith.sources import resolve_files

        paths = [
            path
            for source in self.settings.documents
            for path in (resolve_files(source).values() if _is_named(source) else [Path(source)])
        ]
        if (self.folder / "index.json").is_file():
            index = Index.open(self.folder)
        else:
            size = self.settings.chunk_size
            index = Index.create(self.folder, encoder_name(self.context.config), chunk_size=size, overlap=size // 10)
        added = index.add(paths, self.context.listener)
        if added.refused:
            self.details["refused"] = [[item.name, item.reason] for item in added.refused]
        return index

    def look(self, examples: Sequence[Example]) -> list[Looked]:
        """What is found for each example's question, as far as ``weight`` and ``depth`` are known."""
        started = time.monotonic()
        looked = self.ranked_anew(examples, self._ranked(self._find(examples)))
        seconds = (time.monotonic() - started) / max(1, len(examples))
        return [replace(one, seconds=seconds) for one in looked]

    def ranked_anew(self, examples: Sequence[Example], looked: Sequence[Looked]) -> list[Looked]:
        """The same with the first ``depth`` hits of each in their new order, where they are not yet."""
        if all(one.depth == self.depth for one in looked):
            return list(looked)
        return self._reranked(examples, looked, Reranking(self._scorer(), self.depth))

    def tune(self, validation: Sequence[Example]) -> list[Looked]:
        """Choose the weight of hybrid, how many hits are ranked anew, and the threshold to refuse.

        All is chosen on the validation examples whose answer is somewhere in the documents.

        Returns:
            What was found for all of them; :meth:`ranked_anew` finishes it.
        """
        looked = self._find(validation)
        known = [i for i, one in enumerate(looked) if one.right]
        self.details |= {"validation_examples": len(known)}
        if self.retriever == "hybrid" and known:
            self.weight = tune_weight(
                [looked[i].found for i in known], lambda i, hits: _ndcg(hits, looked[known[i]].right), METRIC_PLACES
            )
            self.details["weight"] = self.weight
        looked = self._ranked(looked)
        if self.depth and known:
            some = known[:RERANK_EXAMPLES]
            tuned = self._tune_depth([validation[i] for i in some], [looked[i] for i in some])
            for i, one in zip(some, tuned, strict=True):
                looked[i] = one
        answerable, unanswerable = self._best_scores(looked)
        if answerable and unanswerable:
            chosen = tune_threshold(answerable, unanswerable)
            self.threshold = chosen.value
            self.details["refusal"] = {"threshold": chosen.value, "validation_accuracy": chosen.accuracy}
        return looked

    def _tune_depth(self, examples: Sequence[Example], looked: Sequence[Looked]) -> list[Looked]:
        """Take the depth with the best nDCG, of equal ones the smallest; every chunk is scored once for all of them."""
        deepest = self._reranked(examples, looked, Reranking(self._scorer(), self.depth))
        found: dict[int, list[Looked]] = {0: list(looked)}
        for depth in sorted({min(depth, self.depth) for depth in DEPTHS[1:]}):
            found[depth] = [as_deep(one, depth) for one in deepest]
        worth = {depth: float(np.mean([_ndcg(one.hits, one.right) for one in at])) for depth, at in found.items()}
        self.depth = max(worth, key=lambda depth: (round(worth[depth], 9), -depth))
        self.details["rerank"] |= {
            "depth": self.depth, "validation_examples": len(looked),
            "tried_on_validation": [{"depth": depth, "ndcg@10": value} for depth, value in worth.items()],
        }  # fmt: skip
        return found[self.depth]

    def _find(self, examples: Sequence[Example]) -> list[Looked]:
        """For each question the two lists, and of all chunks in them and of those like the answer what holds it."""
        index, looked, where = self.open(), [], self.settings.where
        questions = [question_of(example) for example in examples]
        for example, found in zip(examples, find_both(index, questions, where=where), strict=True):
            more = index.text(example.answer, METRIC_PLACES, where) if example.answer.strip() else []
            known = {hit.chunk.id: hit for hits in (more, *found) for hit in hits}
            looked.append(Looked(found, [], [hit for hit in known.values() if holds(hit.chunk.text, example.answer)]))
        return looked

    def _ranked(self, looked: Sequence[Looked]) -> list[Looked]:
        rankings = [chosen_hits(one.found, self.retriever, self.weight, DEPTH) for one in looked]
        return [replace(one, hits=hits, former=hits) for one, hits in zip(looked, rankings, strict=True)]

    def _reranked(self, examples: Sequence[Example], looked: Sequence[Looked], reranking: Reranking) -> list[Looked]:
        found = []
        for i, (example, one) in enumerate(zip(examples, looked, strict=True)):
            if one.depth != reranking.depth:
                hits = rerank(reranking, question_of(example), one.former)
                one = replace(one, hits=hits, depth=reranking.depth)
            found.append(one)
            self.context.listener("documents: ranking anew", i + 1, len(looked), {})
        return found

    def _scorer(self) -> Scorer:
        """What ranks anew; loaded each time, so that it takes no memory while a model is trained or asked."""
        from tunesmith.model.load import load_model

        name = cast("str", self.settings.rerank)
        return by_likelihood(load_model(self.context.model, "causal")) if name == LIKELIHOOD else by_cross_encoder(name)

    def _best_scores(self, looked: Sequence[Looked]) -> tuple[list[float], list[float]]:
        """Best scores of questions, and of the same with every chunk that holds their answer hidden."""
        scores: tuple[list[float], list[float]] = ([], [])
        for one in (each for each in looked if each.right):
            right = {hit.chunk.id for hit in one.right}
            hidden = Found(*([hit for hit in hits if hit.chunk.id not in right] for hits in one.found))
            for kind, found in zip(scores, (one.found, hidden), strict=True):
                kind += [best for best in [best_score(found, self.retriever)] if best is not None]
        return scores

    # ── what it came to ──────────────────────────────────────────────────────────────────────────────────
    def judge(
        self, looked: Sequence[Looked], shown: Sequence[int], raw: Sequence[str], predictions: Sequence[Prediction],
        oracle: dict[int, float],
    ) -> None:  # fmt: skip
        """Put into the details: rankings, refusals, citations, and why wrong answers are wrong.

        Args:
            looked: What was found for each test example.
            shown: How many of the hits fitted into its prompt.
            raw: Answers with their citations.
            predictions: The same answers, scored.
            oracle: By place, the score of the answer to the right chunk alone.
        """
        known = [one for one in looked if one.right]
        if known:
            k = self.settings.k
            self.details["retrieval"] = {"n": len(known), "k": k, **rankings([(o.hits, o.right) for o in known], k)}
            if self.depth:
                self.details["rerank"]["retrieval_before"] = rankings([(o.former, o.right) for o in known], k)
        scores = self._best_scores(looked)
        if self.threshold is not None and all(scores):
            self.details["refusal"]["test_accuracy"] = refusal_accuracy(*scores, self.threshold)
        self.details["chunks_shown"] = float(np.mean(shown))
        self.details["citations"] = cited(looked, shown, raw)
        self.details["errors"] = errors(looked, shown, predictions, oracle)
        if oracle:
            self.details["oracle"] = {
                "n": len(oracle), "score": float(np.mean(list(oracle.values()))),
                "own_score": float(np.mean([predictions[i].score for i in oracle])),
            }  # fmt: skip


def rankings(found: Sequence[tuple[Sequence[Hit], Sequence[Hit]]], k: int) -> dict[str, float]:
    """Means over rankings and what is right in them: recall in the first ``k``, nDCG@10, and reciprocal rank."""
    return {
        "recall": float(np.mean([recall_at(_ids(hits), _ids(right), k) for hits, right in found])),
        "ndcg@10": float(np.mean([_ndcg(hits, right) for hits, right in found])),
        "mrr": float(np.mean([reciprocal_rank(_ids(hits), _ids(right)) for hits, right in found])),
    }


def _ndcg(hits: Sequence[Hit], right: Sequence[Hit]) -> float:
    return ndcg_at(_ids(hits), dict.fromkeys(_ids(right), 1.0), METRIC_PLACES)


def cited(looked: Sequence[Looked], shown: Sequence[int], raw: Sequence[str]) -> dict[str, Any]:
    """Share of answers that cite, and of their citations those of a shown chunk that holds the answer (precision)."""
    found = [citations(answer, n) for answer, n in zip(raw, shown, strict=True)]
    good = sum(
        one.hits[number - 1].chunk.id in _ids(one.right)
        for one, cites in zip(looked, found, strict=True)
        for number in cites.real
    )
    total = sum(len(cites.real) + len(cites.invented) for cites in found)
    return {
        "answers_that_cite": sum(bool(cites.real or cites.invented) for cites in found) / max(1, len(found)),
        "citations": total, "invented": sum(len(cites.invented) for cites in found),
        "precision": good / total if total else None,
    }  # fmt: skip


def errors(
    looked: Sequence[Looked], shown: Sequence[int], predictions: Sequence[Prediction], oracle: dict[int, float]
) -> dict[str, Any]:
    """Wrong answers told apart by what went wrong.

    Where no chunk that was shown holds the answer, it is a ``retrieval_miss``. Else, where the model answers right if
    it is shown the right chunk alone, ``ignored_context``; where it does not, ``wrong_reading``; where it was not
    asked, ``not_told_apart``.
    """
    counts = dict.fromkeys(("retrieval_miss", "ignored_context", "wrong_reading", "not_told_apart"), 0)
    for i, (one, n, prediction) in enumerate(zip(looked, shown, predictions, strict=True)):
        if prediction.score >= WRONG:
            continue
        right = set(_ids(one.right))
        if not any(hit.chunk.id in right for hit in one.hits[:n]):
            counts["retrieval_miss"] += 1
        elif i not in oracle:
            counts["not_told_apart"] += 1
        else:
            counts["ignored_context" if oracle[i] >= WRONG else "wrong_reading"] += 1
    return {"wrong_below": WRONG, "wrong": sum(counts.values()), **counts}


def as_deep(deeper: Looked, depth: int) -> Looked:
    """What was ranked anew, as if it had been less deep: the first ``depth`` of the former ranking in their new order.

    A reranker scores each chunk for itself, so that those of fewer stand in the same order as among more.
    """
    first = set(_ids(deeper.former[:depth]))
    hits = [hit for hit in deeper.hits if hit.chunk.id in first]
    return replace(deeper, hits=[*hits, *deeper.former[depth:]], depth=depth)


class Retrieval:
    """``rag/<retriever>``: the base model with what was found before each question."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.lookup = Lookup(context, cast("Retriever", candidate_id.rsplit("/", 1)[1]), folder)

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        self.lookup.tune(validation)
        return Fit(details={"rag": self.lookup.details})

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        from tunesmith.data.render import Renderer
        from tunesmith.model.load import load_model

        looked = self.lookup.look(examples)
        self.context.listener(f"{self.id}: loading {self.context.model}", 0, 0, {})
        lm = load_model(self.context.model, "causal")
        renderer = Renderer(lm.tokenizer, lm.max_length)
        return answered(self.lookup, self.context, renderer, examples, looked, lambda asked: self._ask(lm, asked))

    def _ask(self, lm: LanguageModel, examples: Sequence[Example]) -> list[Prediction]:
        total, done = len(examples), [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: test", done[0], total, {})

        return self.context.task.predict(lm, examples, self.id, (), progress)


class TunedRetrieval:
    """``tune+rag/<model>/<method>``: trained with chunks before each question, as it is then asked."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.lookup = Lookup(context, cast("Rag", context.config.rag).retriever[-1], folder)
        self.tuned = Tuned(context, candidate_id, folder)

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        settings, renderer = self.lookup.settings, self._renderer()
        looked = self.lookup.ranked_anew(validation, self.lookup.tune(validation))
        held_out = fitted_contexts(self.context, renderer, validation, [one.hits[: settings.k] for one in looked])
        rng = np.random.default_rng([self.context.config.seed, 8])
        kept = rng.random(len(train)) < settings.gold_share
        shown = [
            raft_hits(one, settings.k, bool(keep)) for one, keep in zip(self.lookup.look(train), kept, strict=True)
        ]
        contexts = fitted_contexts(self.context, renderer, train, shown)
        learned, followed = ([example for example, _ in part] for part in (contexts, held_out))
        fit = self.tuned.fit_parts([Part("", self.context.task, learned, followed, alike=False)])
        self.lookup.details["train_examples_with_their_answer"] = int(kept.sum())
        fit.details["rag"] = self.lookup.details
        return fit

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        looked = self.lookup.look(examples)
        return answered(self.lookup, self.context, self._renderer(), examples, looked, self.tuned.predict)

    def _renderer(self) -> Renderer:
        from tunesmith.data.render import Renderer
        from tunesmith.model.load import load_tokenizer
        from tunesmith.sources import resolve_model

        return Renderer(load_tokenizer(resolve_model(self.context.model), "decoder"), self.context.max_length)


def raft_hits(looked: Looked, k: int, keep: bool) -> list[Hit]:
    """What a training example is shown: the chunk with its answer among others, or only others; at most ``k``."""
    right = set(_ids(looked.right))
    if keep:
        there = any(hit.chunk.id in right for hit in looked.hits[:k])
        return looked.hits[:k] if there or not right else [*looked.hits[: k - 1], looked.right[0]]
    others = [*looked.hits, *looked.found.dense, *looked.found.bm25]
    return list({hit.chunk.id: hit for hit in others if hit.chunk.id not in right}.values())[:k]


def fitted_contexts(
    context: Context, renderer: Renderer, examples: Sequence[Example], hits: Sequence[Sequence[Hit]]
) -> list[tuple[Example, int]]:
    """Each example with as many of its hits as leave room for the answer, and how many these are."""
    task, control = cast("GenerationTask", context.task), control_tokens(renderer.tokenizer)

    def fitted(example: Example, found: Sequence[Hit]) -> tuple[Example, int]:
        for n in range(len(found), 0, -1):
            shown = with_context(example, found[:n], control)
            turns = task.messages(shown)
            asked = len(renderer.prompt(turns)) + task.max_new_tokens
            if max(asked, len(renderer.render(turns).input_ids)) <= renderer.max_length:
                return shown, n
        return example, 0

    return [fitted(example, found) for example, found in zip(examples, hits, strict=True)]


def answered(
    lookup: Lookup,
    context: Context,
    renderer: Renderer,
    examples: Sequence[Example],
    looked: Sequence[Looked],
    ask: Any,
) -> list[Prediction]:
    """Predictions for the original examples, each asked with what was found; the details say how that went."""
    started = time.monotonic()
    asked = fitted_contexts(context, renderer, examples, [one.hits[: lookup.settings.k] for one in looked])
    fitting = (time.monotonic() - started) / max(1, len(examples))
    task = cast("GenerationTask", context.task)
    raw = ask([example for example, _ in asked])
    predictions = [
        replace(_own(task, prediction, example), seconds=prediction.seconds + fitting + one.seconds)
        for prediction, example, one in zip(raw, examples, looked, strict=True)
    ]
    places = [i for i, one in enumerate(looked) if one.right][:ORACLE_EXAMPLES]
    alone = fitted_contexts(context, renderer, [examples[i] for i in places], [looked[i].right[:1] for i in places])
    best = ask([example for example, _ in alone]) if alone else []
    oracle = {i: _own(task, p, examples[i]).score for i, p in zip(places, best, strict=True)}
    lookup.judge(looked, [n for _, n in asked], [p.prediction for p in raw], predictions, oracle)
    return predictions


def _own(task: GenerationTask, prediction: Prediction, example: Example) -> Prediction:
    """The prediction as one of the original example, compared without its citations."""
    text = without_citations(prediction.prediction)
    score = SCORES[task.metric](text, prediction.target)
    return replace(prediction, example_id=example.id, prediction=text, score=score, text=shown_text(example))


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def _is_named(source: str) -> bool:
    """Whether a source stands for files by name or wildcard, not for a file or folder that is there."""
    return not Path(source).expanduser().exists() and (":" in source or "*" in source or "?" in source)


def _fits(config: Config, architecture: str) -> bool:
    return config.rag is not None and config.task.kind == "generation" and architecture == "decoder"


def _ids_of_rag(config: Config, model: str, architecture: str) -> list[str]:
    return [f"rag/{name}" for name in cast("Rag", config.rag).retriever] if _fits(config, architecture) else []


def _ids_of_tuned(config: Config, model: str, architecture: str) -> list[str]:
    methods = [method.kind for method in config.method if method.kind in TRAINED_METHODS]
    return [f"tune+rag/{model}/{kind}" for kind in methods] if _fits(config, architecture) else []


RAG = Family(
    name="rag",
    ids=_ids_of_rag,
    baseline=True,
    reason="looks the answer up; what changes from day to day need not be learned",
    build=Retrieval,
)
TUNED_RAG = Family(
    name="tune+rag",
    ids=_ids_of_tuned,
    baseline=False,
    reason="learns how to answer, and looks up what",
    build=TunedRetrieval,
)
