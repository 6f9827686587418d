"""Copies of held-out texts in training texts: equal ones, and near ones.

The held-out texts are indexed and the training texts pass by in blocks, so memory does not grow with their number.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.measures.overlap import build_index, longest_runs, look_up, windows

WORDS = 8  # words in a gram: longer ones miss copies (ConTAM, arXiv:2411.03923)
LONGEST = 0.7  # a near copy: a run of 8 words or more that is this share of the held-out text
ALIKE = 0.8  # or this share of the longer text's words in common, whatever their order
FEWEST = 5  # words; of a shorter text one word more or less makes another text
COMMON = 20  # a gram of words in more held-out texts than this is their template
BLOCK_CHARACTERS, BLOCK_CELLS = 1_000_000, 4_000_000

Kind = Literal["exact", "near"]
Ints = NDArray[np.int64]


class Copy(NamedTuple):
    """``held_out`` and ``train`` are places in what was given; ``share`` says how much of the text was found again."""

    held_out: int
    train: int
    kind: Kind
    share: float


def plain_words(text: str) -> list[str]:
    """The words of a text without what does not tell texts apart: Unicode spelling (NFKC), case, punctuation.

    A sign before a digit stays (1.5, −3), and so do signs that are no punctuation (+, <, $). Where words are not spaced
    (Chinese, Japanese, Thai, Lao, Burmese, Khmer), each character is one.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"[.,:/*-](?!\d)", " ", text).translate(_punctuation())
    return re.sub(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])", r" \1 ", text).split()


@cache
def _punctuation() -> dict[int, str]:
    """Punctuation to spaces, but apostrophes to nothing; those that may belong to a number are told by what follows."""
    signs = (c for c in map(chr, range(0x10000)) if unicodedata.category(c)[0] == "P" and c not in ".,:/*-%&#@")
    return {ord(c): " " for c in signs} | {ord(c): "" for c in "'’‘`"}


def find_copies(train: Iterable[str], held_out: Sequence[str], near: bool = True) -> list[Copy]:
    """Of each held-out text the training text that is most of a copy of it, where there is one.

    Equal texts have the same letters and digits. A near copy has 70 % of its words, and at least 8, in one run within
    the training text (ConTAM's longest match); or, from 5 words on, at least 80 % of the words of the longer of the two
    are in both. No such copy is missed, except that a run of 8 words which stands in more than 20 held-out texts is
    taken for their template.

    Args:
        train: Training texts; gone through once.
        held_out: Texts that should not be among them.
        near: Also look for near copies, not only for equal texts.

    Returns:
        In the order of the held-out texts; of equally good copies the first training text.

    Source:
        Singh et al. 2024, "Evaluation data contamination in LLMs", arXiv:2411.03923, for the longest match.
    """
    texts = [plain_words(text) for text in held_out]
    equal: dict[str, list[int]] = {}
    for i, words in enumerate(texts):
        equal.setdefault("".join(words), []).append(i)
    equal.pop("", None)
    best: dict[int, Copy] = {}
    pairs = _pairs(texts) if near else None
    for first, block in _blocks(train, len(texts)):
        for j, words in enumerate(block):
            for i in equal.get("".join(words), ()):
                if i not in best or best[i].kind != "exact":
                    best[i] = Copy(i, first + j, "exact", 1.0)
        for i, j, run in pairs(block) if pairs is not None else ():
            if i in best and best[i].kind == "exact":
                continue
            share = _share(texts[i], block[j], run)
            if share and (i not in best or share > best[i].share):
                best[i] = Copy(i, first + j, "near", share)
    return [best[i] for i in sorted(best)]


def _share(text: Sequence[str], other: Sequence[str], run: int) -> float:
    """How much of a text stands in another one; 0 where that makes no near copy."""
    in_a_row = run / len(text) if run >= WORDS else 0.0
    alike = (Counter(text) & Counter(other)).total() / max(len(text), len(other)) if len(text) >= FEWEST else 0.0
    return max(in_a_row if in_a_row >= LONGEST else 0.0, alike if alike >= ALIKE else 0.0)


def _blocks(train: Iterable[str], held_out: int) -> Iterator[tuple[int, list[list[str]]]]:
    """The words of training texts in blocks that bound memory, each with the place of its first text."""
    most = max(1, BLOCK_CELLS // max(1, held_out))
    first, size = 0, 0
    block: list[list[str]] = []
    for text in train:
        block.append(plain_words(text))
        size += len(text)
        if size >= BLOCK_CHARACTERS or len(block) == most:
            yield first, block
            first, block, size = first + len(block), [], 0
    if block:
        yield first, block


# ── which pairs are worth a look ─────────────────────────────────────────────────────────────────────────
def _pairs(texts: Sequence[Sequence[str]]) -> Callable[[Sequence[Sequence[str]]], Iterator[tuple[int, int, int]]]:
    """Indexes texts; the function returned gives, of a block: held-out text, training text, longest run if from 8."""
    numbers: dict[str, int] = {}
    items = np.array([numbers.setdefault(word, len(numbers) + 1) for text in texts for word in text], np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    in_a_row, in_any_order = _runs(items, lengths), _shared_words(items, lengths)

    def pairs(block: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, int]]:
        asked = np.array([numbers.get(word, 0) for text in block for word in text], np.int64)
        sizes = np.array([len(text) for text in block], np.int64)
        found = dict.fromkeys(in_any_order(asked, sizes), 0) | in_a_row(asked, sizes)
        yield from ((i, j, run) for (j, i), run in sorted(found.items()))

    return pairs


def _runs(items: Ints, lengths: Ints) -> Callable[[Ints, Ints], dict[tuple[int, int], int]]:
    """Pairs (training text, held-out text) that share 8 words in a row, with the longest such run."""
    grams = windows(items, lengths, WORDS)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    once = np.unique(np.stack([grams.hashes, grams.rows.astype(np.uint64)]), axis=1)[0]  # of each text once
    every, texts_with = np.unique(once, return_counts=True)
    kept = ~np.isin(grams.hashes, every[texts_with > COMMON])
    index = build_index(grams.hashes[kept], grams.places[kept])

    def pairs(asked: Ints, sizes: Ints) -> dict[tuple[int, int], int]:
        theirs = windows(asked, sizes, WORDS)
        number, place = look_up(index, theirs.hashes)
        begins, runs = longest_runs(place, theirs.places[number], WORDS)
        found: dict[tuple[int, int], int] = {}
        rows = zip(theirs.rows[number[begins]].tolist(), row_of[place[begins]].tolist(), runs.tolist(), strict=True)
        for j, i, run in rows:
            found[j, i] = max(run, found.get((j, i), 0))
        return found

    return pairs


def _shared_words(items: Ints, lengths: Ints) -> Callable[[Ints, Ints], list[tuple[int, int]]]:
    """Pairs (training text, held-out text) that may have ``ALIKE`` of their words in common.

    Of a text of n words at most d = 0.2·n may be missing. So of its d + 2 rarest words at least two are there, and only
    those are indexed (a prefix filter: Chaudhuri et al. 2006).
    """
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    rows, words = np.unique(np.stack([row_of, items]), axis=1)
    spread = np.bincount(words)[words] if len(words) else words
    order = np.lexsort((words, spread, rows))
    rows, words = rows[order], words[order]
    distinct = np.bincount(rows, minlength=len(lengths))
    may_miss = np.floor((1 - ALIKE) * lengths + 1e-9).astype(np.int64)
    indexed = np.where(lengths >= FEWEST, np.minimum(distinct, may_miss + 2), 0)
    kept = np.arange(len(rows)) - np.repeat(np.cumsum(distinct) - distinct, distinct) < indexed[rows]
    index = build_index(words[kept].astype(np.uint64), rows[kept])
    least = np.maximum(1, indexed - may_miss)

    def pairs(asked: Ints, sizes: Ints) -> list[tuple[int, int]]:
        number, row = look_up(index, asked.astype(np.uint64))
        cells = np.bincount(
            np.repeat(np.arange(len(sizes)), sizes)[number] * len(lengths) + row, minlength=len(sizes) * len(lengths)
        )
        places = np.flatnonzero(cells.reshape(len(sizes), -1) >= least) if len(lengths) else np.zeros(0, np.int64)
        return [divmod(place, len(lengths)) for place in places.tolist()]

    return pairs
