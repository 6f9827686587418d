"""Copies within a file: equal rows, nearly equal texts, and equal texts whose labels contradict each other.

A model learns what stands ten times ten times over, a copy on the other side of a split makes the score a memory test,
and of two labels for one text a model can meet only one. Candidates come from MinHash of character shingles, and are
verified by the exact Jaccard similarity. Near duplicates have the same words, but for spelling and order; texts that
share much and differ in a word ("a table for 4", "a table for 5") are told apart from them, for review.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tunesmith.data.checks.copies import plain_words
from tunesmith.data.checks.lengths import has_words
from tunesmith.data.checks.material import Copies, Material, finding
from tunesmith.measures.minhash import BANDS, band_keys, candidate_links
from tunesmith.measures.overlap import windows
from tunesmith.records import Example, Finding

SHINGLE = 4  # characters
ALIKE = 0.7  # Jaccard similarity of the shingles of similar texts
RESPELLED = (
    0.5  # and, at least, of near duplicates; both were chosen on other domains than benchmarks/data_checks.py scores
)
COURTESY = re.compile(  # words that say nothing
    "please|pls|kindly|thanks|hi|hey|hello|bitte|danke|hallo|merci|bonjour|gracias|hola|grazie|ciao|obrigado|olá"
)
MISSPELLED = 0.1  # share of a text's words, at least one, that may be misspelled
TEMPLATE_SHARE, TEMPLATE_LEAST = 0.05, 10  # a larger cluster of near copies shares a template, and is no cluster
BLOCK_CHARACTERS = 500_000


def find_duplicates(examples: Sequence[Example]) -> Copies:
    """Equal and nearly equal examples; near copies are not looked for in tables and among questions about images."""
    texts = [" ".join(plain_words(text)) if has_words(text := _shown(example)) else "" for example in examples]
    keys = np.array(
        [
            hash((t, e.image_hash or e.image)) if t else -2 - i
            for i, (t, e) in enumerate(zip(texts, examples, strict=True))
        ],
        dtype=np.int64,
    )
    _, first, equal = np.unique(keys, return_index=True, return_inverse=True)
    if any(e.columns or e.image is not None for e in examples):
        return Copies(equal)
    once = np.sort(first)
    found = near_pairs([texts[i] for i in once.tolist()], RESPELLED)
    pairs = [(int(once[i]), int(once[j]), share) for i, j, share in found]
    known = Counter(word for i in once.tolist() for word in texts[i].split()) if pairs else Counter()
    respelled = tuple(pair for pair in pairs if same_words(texts[pair[0]], texts[pair[1]], known))
    similar = sorted({pair for pair in pairs if pair[2] >= ALIKE} - set(respelled))
    most = max(TEMPLATE_LEAST, round(TEMPLATE_SHARE * len(once)))
    members = Counter(roots := clusters(len(texts), [pair[:2] for pair in similar]))
    kept = tuple(pair for pair in similar if members[roots[pair[0]]] <= most)
    return Copies(equal, respelled, kept, sum(n for n in members.values() if n > most))


def same_words(a: str, b: str, known: Mapping[str, int]) -> bool:
    """Whether two texts have the same words in whatever order, but for courtesy, repeated and misspelled words.

    A misspelled word is one edit from the other's and stands nowhere else; a number is never one.

    Args:
        a: Words with spaces between them.
        b: As ``a``.
        known: How often each word stands in all texts.
    """
    one, other = (
        Counter(word for word, _ in itertools.groupby(text.split()) if not COURTESY.fullmatch(word)) for text in (a, b)
    )
    if not one:
        return False
    left, right = list((one - other).elements()), list((other - one).elements())
    if len(left) != len(right) or len(left) > max(1, MISSPELLED * one.total()):
        return False
    for word in left:
        match = next((w for w in right if min(known[word], known[w]) <= 1 and _one_edit(word, w)), None)
        if match is None:
            return False
        right.remove(match)
    return True


def _one_edit(a: str, b: str) -> bool:
    """Whether one letter more, less, or other, or two neighbours changed places, makes one word of the other."""
    if abs(len(a) - len(b)) > 1 or any(c.isdecimal() for c in a + b):
        return False
    a, b = _without_start(a, b)
    a, b = _without_start(a[::-1], b[::-1])
    return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


def _without_start(a: str, b: str) -> tuple[str, str]:
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return a[same:], b[same:]


def clusters(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Of each of ``n`` places the first place that pairs link it with."""
    parent = list(range(n))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for a, b in pairs:
        one, other = root(a), root(b)
        parent[max(one, other)] = min(one, other)
    return [root(place) for place in range(n)]


def near_pairs(texts: Sequence[str], alike: float = ALIKE) -> list[tuple[int, int, float]]:
    """Pairs of texts whose shingles' Jaccard similarity is at least ``alike``, with it; enough of them to link all.

    Example:
        >>> near_pairs(["where is my new card", "where is my new bank card", "freeze it"], 0.6)
        [(0, 1, 0.64)]
    """
    keys = np.zeros((len(texts), BANDS), dtype=np.uint64)
    filled = np.zeros(len(texts), dtype=bool)
    for start, stop in _blocks(texts):
        padded = [f" {text} " for text in texts[start:stop]]
        lengths = np.array([len(text) for text in padded])
        characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        found = windows(characters, lengths, SHINGLE)
        counts = np.bincount(found.rows, minlength=len(lengths))
        keys[start:stop] = band_keys(found.hashes, counts)
        filled[start:stop] = counts > 0
    places = np.flatnonzero(filled)
    pairs = []
    for i, j in places[candidate_links(keys[places])].tolist():
        a, b = sorted((len(texts[i]), len(texts[j])))
        if a + 2 < alike * (b + 3 - SHINGLE):  # too different in length; a set has no more shingles than its text
            continue
        share = jaccard(shingles(texts[i]), shingles(texts[j]))
        if share >= alike:
            pairs.append((i, j, round(share, 3)))
    return pairs


def shingles(text: str) -> set[str]:
    """The runs of ``SHINGLE`` characters of a text between spaces."""
    padded = f" {text} "
    return {padded[i : i + SHINGLE] for i in range(len(padded) - SHINGLE + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Share of what is in either set that is in both."""
    return len(a & b) / max(1, len(a | b))


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for stop, text in enumerate(texts, 1):
        size += len(text)
        if size >= BLOCK_CHARACTERS or stop == len(texts):
            yield start, stop
            start, size = stop, 0


def _shown(example: Example) -> str:
    if example.text is not None:
        return example.text
    turns = (*example.messages, *example.rejected)
    return "\n".join(m.content for m in turns if m.role != "system")


# ── findings ─────────────────────────────────────────────────────────────────────────────────────────────
def check(material: Material) -> list[Finding]:
    """Exact duplicates, near duplicates, and conflicting labels or numbers."""
    return [*_exact(material), *_near(material), *_conflicts(material)]


def _exact(material: Material) -> list[Finding]:
    seen: set[int] = set()
    repeated = []
    for e in material.examples:
        if e.text is not None and not has_words(e.text):  # empty_text names it
            continue
        key = hash((e.text, e.label, e.messages, e.rejected, e.image_hash or e.image, e.columns))
        if key in seen:
            repeated.append(e)
        seen.add(key)
    message = f"{len(repeated):,} rows repeat an earlier row exactly; they stay together in one split."
    fix = "tunesmith data clean DATA -o NEW --fix exact_duplicates; keep them if their number means something."
    return finding("exact_duplicates", "info", repeated, message, fix)


def _near(material: Material) -> list[Finding]:
    """Near duplicates with the same label, similar texts with the same, and either with another label."""
    examples, copies = material.examples, material.copies
    first: dict[tuple[int, str | None], int] = {}
    pairs = list(copies.respelled)
    for place, (number, e) in enumerate(zip(copies.equal.tolist(), examples, strict=True)):
        before = first.setdefault((number, e.label), place)
        if before != place and _shown(examples[before]) != _shown(e) and e.image is None:
            pairs.append((before, place, 1.0))
    near, near_pairs_ = _later(examples, pairs)
    similar, similar_pairs = _later(examples, copies.similar)
    both = [*copies.respelled, *copies.similar]
    differ = [
        examples[p] for p in sorted({p for a, b, _ in both if examples[a].label != examples[b].label for p in (a, b)})
    ]
    template = f" {copies.template:,} more share most of their text with many others, as a template does." * bool(
        copies.template
    )
    together = "they stay together in one split"
    found = finding(
        "near_duplicates", "info", near,
        f"{len(near):,} rows repeat an earlier one but for case, punctuation, spelling or word order; {together}.",
        "tunesmith data clean DATA -o NEW --fix near_duplicates keeps the first of each.", pairs=near_pairs_,
    )  # fmt: skip
    found += finding(
        "similar_texts", "info", similar,
        f"{len(similar):,} rows share most of their text with an earlier one.{template}",
        "Nothing, unless many differ in nothing that matters: the rows are then fewer than they seem.",
        pairs=similar_pairs,
    )  # fmt: skip
    return found + finding(
        "near_conflicts", "info", differ,
        f"{len(differ):,} rows have a nearly equal text with another label; for review.",
        "Look whether the difference between the texts is one between the labels.",
        [f"{e.label}: {_shown(e)}" for e in differ],
    )  # fmt: skip


def _later(
    examples: Sequence[Example], pairs: Sequence[tuple[int, int, float]]
) -> tuple[list[Example], tuple[tuple[str, str, float], ...]]:
    """The later examples of pairs with the same label, and the sources of these pairs."""
    same = sorted(pair for pair in pairs if examples[pair[0]].label == examples[pair[1]].label)
    later = [examples[place] for place in sorted({b for _, b, _ in same})]
    return later, tuple((examples[a].source, examples[b].source, share) for a, b, share in same)


def _conflicts(material: Material) -> list[Finding]:
    groups: dict[int, list[Example]] = defaultdict(list)
    counts = np.bincount(material.copies.equal)
    for number, e in zip(material.copies.equal.tolist(), material.examples, strict=True):
        if e.label is not None and counts[number] > 1:
            groups[number].append(e)
    differing = [group for group in groups.values() if len({e.label for e in group}) > 1]
    rows = sorted((e for group in differing for e in group), key=lambda e: (e.source.rpartition(":")[0], _line(e)))
    notes = [f"{e.label}: {_shown(e)}" for e in rows]
    if material.task_kind == "regression":  # a number may well come out otherwise the second time
        message = f"{len(rows):,} rows have a text that also has another number; no model can meet both."
        return finding(
            "conflicting_numbers", "info", rows, message, "Average them, or add what tells them apart.", notes
        )
    lost = sum(len(group) - max(Counter(e.label for e in group).values()) for group in differing)
    ceiling = 1 - lost / max(1, len(material.examples))
    message = (
        f"{len(rows):,} rows have a text that also has another label; both cannot be right, and no model that sees the "
        f"text alone can be right on more than {100 * ceiling:.1f} % of such data."
    )
    return finding("conflicting_labels", "warning", rows, message, "Decide on one label for each text.", notes)


def _line(example: Example) -> int:
    tail = example.source.rpartition(":")[2]
    return int(tail) if tail.isdecimal() else 0
