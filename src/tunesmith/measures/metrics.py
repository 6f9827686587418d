"""How good answers are: accuracy and F1 of labels, overlap of texts, likelihood.

``accuracy``, ``confusion_matrix`` and ``macro_f1`` take all items; ``exact_match``, ``token_f1`` and
``rouge_l`` take one answer and return its score in [0, 1].
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ARTICLES = re.compile(r"\b(a|an|the)\b")
WORDS = re.compile(r"[^\W_]+")
SMALLEST_PROBABILITY = 1e-12  # keeps one impossible answer from making a mean infinite


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────
def accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of items whose predicted label is the right one, in [0, 1].

    Raises:
        ValueError: If there are no items, or the lengths differ.

    Example:
        >>> accuracy(["spam", "ham"], ["spam", "spam"])
        0.5
    """
    _check_lengths(predictions, targets)
    return sum(p == t for p, t in zip(predictions, targets, strict=True)) / len(targets)


def confusion_matrix(predictions: Sequence[str], targets: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """How often each label was answered for each right label.

    Args:
        predictions: Predicted labels, length n.
        targets: Right labels, length n.
        labels: The K labels in the order of rows and columns; must hold every label that occurs.

    Returns:
        Counts, shape (K, K): rows are targets, columns predictions.

    Raises:
        ValueError: If the lengths differ, there are no items, or a label is not among ``labels``.

    Example:
        >>> confusion_matrix(["a", "b", "b"], ["a", "a", "b"], ["a", "b"]).tolist()
        [[1, 1], [0, 1]]
    """
    _check_lengths(predictions, targets)
    code = {label: i for i, label in enumerate(labels)}
    unknown = sorted({*predictions, *targets} - code.keys())
    if unknown:
        raise ValueError(f"labels {unknown[:5]} occur but are not among the {len(labels)} labels given.")
    cells = np.array([code[t] * len(code) + code[p] for p, t in zip(predictions, targets, strict=True)])
    counts: NDArray[np.int64] = np.bincount(cells, minlength=len(code) ** 2).reshape(len(code), len(code))
    return counts


def macro_f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean over labels of F1 = 2·hits / (answered + right); every label counts the same, however rare.

    The mean is over the labels that occur among targets or predictions; a label never hit has F1 0.

    Raises:
        ValueError: If there are no items, or the lengths differ.

    Source:
        scikit-learn's ``f1_score(average="macro")``, to which it is equal.

    Example:
        >>> macro_f1(["a", "b", "b"], ["a", "a", "b"])
        0.6666666666666666
    """
    codes = label_codes(predictions, targets)
    return float(macro_f1_statistic(codes, np.ones((1, len(codes))))[0])


def label_codes(predictions: Sequence[str], targets: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of target and predicted label, shape (n, 2): what ``macro_f1_statistic`` takes as values."""
    _check_lengths(predictions, targets)
    code = {label: i for i, label in enumerate(sorted({*predictions, *targets}))}
    return np.array([(code[t], code[p]) for p, t in zip(predictions, targets, strict=True)])


def macro_f1_statistic(values: NDArray[Any], counts: Floats) -> Floats:
    """Macro F1 of many resamples at once: label codes (n, 2), counts (resamples, n) -> (resamples,)."""
    classes = np.arange(values.max() + 1)
    target = values[:, :1] == classes  # (n, K)
    predicted = values[:, 1:] == classes
    hits = counts @ (target & predicted).astype(np.float64)  # (resamples, K)
    total = counts @ (target.astype(np.float64) + predicted)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    scores: Floats = f1.sum(axis=1) / (total > 0).sum(axis=1)
    return scores


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────
def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and extra blanks: what two answers are compared by.

    Source:
        Rajpurkar et al. 2016, "SQuAD", arXiv:1606.05250, official evaluation script; here punctuation of
        every script is removed, not only ASCII's.

    Example:
        >>> normalize_answer("The  Eiffel Tower.")
        'eiffel tower'
    """
    kept = "".join(
        c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    return " ".join(ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, target: str) -> float:
    """1 if the two answers are equal once normalised, otherwise 0.

    Example:
        >>> exact_match("The answer: 42", "answer 42.")
        1.0
    """
    return float(normalize_answer(prediction) == normalize_answer(target))


def token_f1(prediction: str, target: str) -> float:
    """Overlap of the two answers' words, order ignored, in [0, 1].

    F1 of precision (share of the prediction's words that are in the target) and recall (the reverse) after
    ``normalize_answer``; repeated words count as often as they occur in both. Two empty answers score 1, one
    empty answer 0. Words are what blanks separate: meaningless for scripts written without them.

    Source:
        Rajpurkar et al. 2016, "SQuAD", arXiv:1606.05250, section 6.1.

    Example:
        >>> token_f1("the cat sat", "a cat sat down")
        0.8
    """
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(target).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))


def rouge_l(prediction: str, target: str) -> float:
    """Overlap of the two texts' words in order, in [0, 1].

    F = 2·P·R / (P + R) with P = LCS / words of the prediction, R = LCS / words of the target, and LCS the
    length of their longest common subsequence. Words are runs of letters and digits in lower case, not
    stemmed. Two texts without words score 1, one without words 0.

    Source:
        Lin 2004, "ROUGE: a package for automatic evaluation of summaries", section 3, with β = 1.

    Example:
        >>> rouge_l("police kill the gunman", "police killed the gunman")
        0.75
    """
    predicted, wanted = WORDS.findall(prediction.lower()), WORDS.findall(target.lower())
    if not predicted or not wanted:
        return float(predicted == wanted)
    return 2 * longest_common_subsequence(predicted, wanted) / (len(predicted) + len(wanted))


def longest_common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest sequence of words, or tokens, that stands in both, in order.

    Bit-parallel: one bit per word of ``a``, so that a text of b costs len(b) operations on integers.

    Source:
        Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[Hashable, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(a) - row.bit_count()


# ── probabilities ────────────────────────────────────────────────────────────────────────────────────────
def negative_log_likelihood(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean surprise at the right label: −log of its probability, in nats.

    Args:
        probabilities: Probability of each label for each item, shape (n, K), in [0, 1].
        targets: Number of the right label, shape (n,), integers in [0, K).

    Returns:
        Nats per item, at least 0; log K for uniform guessing. Probabilities below 1e-12 count as 1e-12.

    Raises:
        ValueError: If the arrays are empty or differ in length.

    Example:
        >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
        0.4904
    """
    table, right = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    _check_lengths(table, right)
    chosen = table[np.arange(len(right)), right]
    return float(-np.log(np.maximum(chosen, SMALLEST_PROBABILITY)).mean())


def _check_lengths(first: Any, second: Any) -> None:
    if len(first) != len(second) or len(second) == 0:
        raise ValueError(f"{len(first)} and {len(second)} items: expected the same number, and at least one.")
