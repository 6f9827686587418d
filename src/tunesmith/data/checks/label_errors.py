"""Labels that are probably wrong, and texts that belong to none: what a model of the data says of its own examples.

Confident learning: a logistic regression on the texts' vectors, fitted without the fold that it judges (copies share a
fold), gives each label a probability. The number of wrong labels is estimated from those that it is sure of, and as
many with the least probable labels are named, the least probable first. About half of what such methods name in public
data sets is truly wrong, so nothing is changed by it: look, and write what you decide.

The vectors are of words and letters (TF-IDF, reduced), which needs no model; or a sentence encoder's, which find more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith.data.checks.duplicates import clusters
from tunesmith.data.checks.material import SHOWN, Material, finding, rows_of, shown
from tunesmith.measures.label_quality import confident_errors
from tunesmith.records import Finding

FOLDS, WIDTH = 5, 200
FEWEST, MOST = 50, 50_000  # labelled examples; beyond, fitting takes longer than all other checks
NEIGHBOURS = 5  # whose mean cosine tells what is far from all
SPREADS = 2.25  # robust standard deviations below the median; chosen on other domains than are scored


def why_not(material: Material) -> str | None:
    """Why labels are not checked here; None if they are."""
    n = len(material.examples)
    if material.task_kind != "classification" or any(e.text is None or e.columns for e in material.examples):
        return "labels are checked of texts with one label each"
    if n < FEWEST or n > MOST:
        return f"{n:,} examples; labels are checked of {FEWEST} to {MOST:,}"
    return None


def word_vectors(texts: list[str]) -> np.ndarray:
    """Vectors of the words, pairs of words and runs of letters in texts, of length 1, shape (n, ``WIDTH`` at most)."""
    from scipy.sparse import hstack
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    kinds: tuple[dict[str, Any], ...] = ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 4)})
    counted = hstack([TfidfVectorizer(sublinear_tf=True, **kind).fit_transform(texts) for kind in kinds]).tocsr()
    reduced = TruncatedSVD(min(WIDTH, *(size - 1 for size in counted.shape)), random_state=0).fit_transform(counted)
    found: np.ndarray = reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-9)
    return found


def label_probabilities(material: Material, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Out-of-fold probabilities of the labels (n, labels), the places of the given labels (n,), and their names."""
    names = sorted({e.label or "" for e in material.examples})
    place = {name: i for i, name in enumerate(names)}
    given = np.array([place[e.label or ""] for e in material.examples])
    return _out_of_fold(material, vectors, given), given, names


def _out_of_fold(material: Material, vectors: np.ndarray, given: np.ndarray) -> np.ndarray:
    from tunesmith.measures.linear import out_of_fold

    copies = material.copies
    first: dict[int, int] = {}
    pairs = [(first.setdefault(number, i), i) for i, number in enumerate(copies.equal.tolist())]
    pairs += [(a, b) for a, b, _ in (*copies.respelled, *copies.similar)]
    cluster = np.unique(clusters(len(given), pairs), return_inverse=True)[1]
    return out_of_fold(vectors, given, cluster % FOLDS)


def check(material: Material, vectors: np.ndarray) -> list[Finding]:
    """Labels that are probably wrong; the finding's rows are in order, the most suspect first."""
    probabilities, given, names = label_probabilities(material, vectors)
    quality = probabilities[np.arange(len(given)), given]
    wrong = int(confident_errors(probabilities, given).sum())
    worst = np.argsort(quality, kind="stable")[:wrong].tolist()
    suspects = [material.examples[i] for i in worst]
    named = [
        f"{material.examples[i].source} {names[given[i]]} → {names[int(probabilities[i].argmax())]}? "
        f"“{shown(material.examples[i].text or '')}”"
        for i in worst[:SHOWN]
    ]
    message = (
        f"about {wrong:,} of {len(given):,} labels ({100 * wrong / len(given):.1f} %) seem to be wrong, by a model "
        "that has not seen them; for review, the most suspect first."
    )
    fix = "tunesmith data clean DATA -o NEW --review FILE, with what you decide of each row."
    if not suspects:
        return []
    return [Finding("label_errors", "warning", wrong, message, rows=rows_of(suspects), examples=tuple(named), fix=fix)]


def out_of_domain(material: Material, vectors: np.ndarray) -> list[Finding]:
    """Texts whose nearest others mean something far from them."""
    n = len(vectors)
    nearest = np.zeros(n)
    for start in range(0, n, 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1.0
        nearest[start : start + 1024] = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1)
    spread = 1.4826 * float(np.median(np.abs(nearest - np.median(nearest))))
    far = np.flatnonzero(nearest < np.median(nearest) - SPREADS * max(spread, 1e-6))
    far = far[np.argsort(nearest[far], kind="stable")]
    examples = [material.examples[i] for i in far.tolist()]
    message = f"{len(examples):,} rows mean something far from all others; for review, the farthest first."
    fix = "Look whether they belong to this task; give what does not a label of its own, or leave it out."
    return finding("out_of_domain", "info", examples, message, fix)
