"""Retrieval on XQuAD: which of 240 English passages answers a question, asked in English and in German.

    python benchmarks/retrieval.py

Needs the extras rag and bench, and XQuAD's ``xquad.en.json.gz`` and ``xquad.de.json.gz`` in
``$TUNESMITH_TEST_DATA/xquad/``. The passage a question was written for is the one to find. Exits with 1 if a target is
missed:

- BM25 is within 0.01 nDCG@10 of bm25s on the same tokens: lower case, split at what is no letter or digit, without
  Lucene's stop words, Snowball stems; k1 = 1.2, b = 0.75.
- Hybrid is not worse than the better of dense and BM25: the paired interval of the difference reaches 0 or more.

The weight of hybrid is tuned on the questions of half of the passages and judged on those of the other half, and the
other way round, so that every question is judged. Questions about one passage are one cluster of the bootstrap. Takes
about two minutes on two cores.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from environment import test_data, write_result

from tunesmith.measures.retrieval import ndcg_at, recall_at, reciprocal_rank
from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
from tunesmith.rag.index import Hit, Index
from tunesmith.rag.retrieve import Found, find_both, fuse, tune_weight

ENCODER = "minilm-l6"
K = 10
MEASURES = {
    "ndcg@10": lambda ranked, gold: ndcg_at(ranked, {gold: 1.0}, K),
    "recall@5": lambda ranked, gold: recall_at(ranked, {gold}, 5),
    "mrr": lambda ranked, gold: reciprocal_rank(ranked, {gold}),
}  # fmt: skip


def main() -> None:
    english, german = read("en"), read("de")
    passages = [text for text, _ in english]
    with tempfile.TemporaryDirectory() as folder:
        index, names = build(Path(folder), passages)
        parts = {}
        for language, data in (("en", english), ("de", german)):
            questions = [(question, place) for place, (_, asked) in enumerate(data) for question in asked]
            parts[language] = judge(index, names, passages, questions)
    reached = {
        "bm25_within_0.01_of_bm25s": abs(parts["en"]["bm25_minus_bm25s"]["difference"]) <= 0.01,
        **{f"hybrid_not_worse_{key}": part["hybrid_minus_better"]["high"] >= 0 for key, part in parts.items()},
    }
    write_result("retrieval", {"passages": len(passages), "encoder": ENCODER, **parts, "reached": reached})
    if not all(reached.values()):
        sys.exit("missed: " + ", ".join(name for name, done in reached.items() if not done))


def read(language: str) -> list[tuple[str, list[str]]]:
    """Each passage with its questions, in the file's order, which is the same in every language."""
    with gzip.open(test_data("xquad") / f"xquad.{language}.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [(p["context"], [qa["question"] for qa in p["qas"]]) for p in paragraphs]


def build(folder: Path, passages: list[str]) -> tuple[Index, list[str]]:
    """An index of the passages, each one chunk, and their ids in order."""
    for place, passage in enumerate(passages):
        (folder / f"{place:03}.txt").write_text(passage, encoding="utf-8")
    index = Index.create(folder / "index", ENCODER, chunk_size=1000, overlap=0)
    index.add([folder / f"{place:03}.txt" for place in range(len(passages))])
    return index, [f"{place:03}" for place in range(len(passages))]


def judge(index: Index, names: list[str], passages: list[str], questions: list[tuple[str, int]]) -> dict[str, Any]:
    """Every retriever on the same questions, with intervals and paired differences."""
    found = find_both(index, [question for question, _ in questions])
    gold = [names[place] for _, place in questions]
    clusters = [place for _, place in questions]
    tuned, weights = halves(found, gold, clusters)
    rankings = {
        "dense": [ranked(one.dense) for one in found],
        "bm25": [ranked(one.bm25) for one in found],
        "hybrid": tuned,
        "rrf": [ranked(fuse(one, None, K)) for one in found],
        "bm25s": oracle(passages, names, [question for question, _ in questions]),
    }
    values = {
        name: {m: np.array([f(r, g) for r, g in zip(rows, gold, strict=True)]) for m, f in MEASURES.items()}
        for name, rows in rankings.items()
    }  # fmt: skip

    def difference(a: str, b: str) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        found = paired_bootstrap(values[a]["ndcg@10"], values[b]["ndcg@10"], clusters, rng=rng)
        return {"a": a, "b": b, "difference": found.difference, "low": found.low, "high": found.high}

    better = max(("dense", "bm25"), key=lambda name: values[name]["ndcg@10"].mean())
    return {
        "questions": len(questions), "weights": weights,
        "retrievers": {
            name: {
                m: bootstrap_interval(v, clusters=clusters, rng=np.random.default_rng(0)).to_json()
                for m, v in own.items()
            }
            for name, own in values.items()
        },
        "hybrid_minus_better": difference("hybrid", better), "rrf_minus_better": difference("rrf", better),
        "hybrid_minus_rrf": difference("hybrid", "rrf"), "bm25_minus_bm25s": difference("bm25", "bm25s"),
    }  # fmt: skip


def halves(found: list[Found], gold: list[str], clusters: list[int]) -> tuple[list[list[str]], list[float]]:
    """Hybrid rankings of every question, each with the weight tuned on the half of the passages it is not about."""
    in_first = np.random.default_rng(0).permutation(max(clusters) + 1) % 2 == 0
    side = in_first[clusters]
    rankings: list[list[str]] = [[]] * len(found)
    weights = []
    for own in (True, False):
        others = [i for i in range(len(found)) if side[i] != own]

        def value(i: int, hits: list[Hit], others: list[int] = others) -> float:
            return ndcg_at(ranked(hits), {gold[others[i]]: 1.0}, K)

        weight = tune_weight([found[i] for i in others], value, K)
        weights.append(weight)
        for i in np.flatnonzero(side == own):
            rankings[i] = ranked(fuse(found[i], weight, K))
    return rankings, weights


def oracle(passages: list[str], names: list[str], questions: list[str]) -> list[list[str]]:
    """What bm25s finds; passages that share no word with the question are left out, as everywhere."""
    settings: dict[str, Any] = {
        "stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "token_pattern": r"[^\W_]+", "show_progress": False,
    }  # fmt: skip
    engine = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    engine.index(bm25s.tokenize(passages, **settings), show_progress=False)
    rows = []
    for question in questions:
        asked = bm25s.tokenize([question], return_ids=False, **settings)
        known = [token for token in asked[0] if token in engine.vocab_dict]
        if not known:
            rows.append([])
            continue
        places, scores = engine.retrieve([known], k=K, show_progress=False)
        rows.append([names[p] for p, s in zip(places[0].tolist(), scores[0].tolist(), strict=True) if s > 0])
    return rows


def ranked(hits: list[Hit]) -> list[str]:
    """Names of the passages, the best first."""
    return [Path(hit.chunk.document).stem for hit in hits]


if __name__ == "__main__":
    main()
