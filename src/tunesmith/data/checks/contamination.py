"""Contamination: test and validation examples that stand in the training data, equal, nearly so, or in other words.

A model that has seen a question need not have learned anything to answer it, so its score on such examples says nothing
of new ones. Equal and near copies are all but certain, and warnings; paraphrases, by the cosine of sentence vectors,
are for review. What to do: take the training rows out, or name in ``data.group`` what such rows share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.checks.copies import find_copies
from tunesmith.data.checks.material import Material, shown
from tunesmith.records import Example, Finding, Severity

if TYPE_CHECKING:
    from tunesmith.model.embed import Encoder

Places = NDArray[np.int64]
Cosines = NDArray[np.float64]

ENCODER = "minilm-l6"
SAME_MEANING = 0.86  # cosine of that encoder's vectors; chosen and measured by benchmarks/contamination.py
BLOCK = 1024  # training texts embedded at a time
NAMED = 5  # pairs shown in a finding
FIXES = {
    "test": "Take those rows out of the training data; of rows that belong together, name what they share in "
    "data.group, and they stay in one split.",
    "suite": "Take those rows out of the training data, or read nothing into that suite's score.",
    "meaning": "Look at the pairs; take rows that say the same out of the training data.",
}


class Text(NamedTuple):
    """A text and where it stands, as ``file:line``."""

    source: str
    text: str


def check(material: Material) -> list[Finding]:
    """Test and validation examples that stand in the training data.

    Not looked for: questions about images, which recur from picture to picture (equal pictures with equal questions are
    kept in one split), and, in tables, near copies: rows differ in few cells by nature.
    """
    split, data = material.split, material.data
    if data.contamination == "off" or any(e.image is not None for e in split.train):
        return []
    is_table = any(e.columns for e in split.train)
    findings = []
    for part, examples in (("validation", split.validation), ("test", split.test)):
        if not examples:
            continue
        held_out = [Text(e.source, asked(e)) for e in examples]
        found = find_leaks(split.train, held_out, f"{part} examples", near=not is_table)
        if data.contamination == "meaning" and not is_table:
            known = {pair[0] for finding in found for pair in finding.pairs}
            found += _same_meaning(split.train, [text for text in held_out if text.source not in known], part)
        findings += found
    return findings


def asked(example: Example) -> str:
    """What an example shows a model: its text, or what the user says."""
    if example.text is not None:
        return example.text
    return "\n".join(m.content for m in example.prompt if m.role == "user")


def _trained(examples: Iterable[Example]) -> Iterator[Text]:
    """What training shows of each example: what is asked, and each answer by itself."""
    for example in examples:
        yield Text(example.source, asked(example))
        for message in (*example.messages, *example.rejected):
            if message.role == "assistant":
                yield Text(example.source, message.content)


def find_leaks(
    train: Sequence[Example], held_out: Sequence[Text], what: str, fix: str = FIXES["test"], near: bool = True
) -> list[Finding]:
    """One finding of the texts that stand in the training data as they are, and one of those that nearly do.

    Args:
        train: Training examples.
        held_out: Texts that should not be among them.
        what: Their name, in the plural.
        fix: What to do.
        near: Also look for near copies.
    """
    sources: list[str] = []

    def texts() -> Iterator[str]:
        for source, text in _trained(train):
            sources.append(source)
            yield text

    copies = find_copies(texts(), [text for _, text in held_out], near)
    places = {c.train for c in copies}
    shown = {k: text for k, (_, text) in enumerate(_trained(train)) if k in places} if copies else {}
    findings = []
    for kind, words in (("exact", "stand in the training data"), ("near", "are nearly equal to a training text")):
        pairs = [
            (held_out[c.held_out], Text(sources[c.train], shown[c.train]), c.share) for c in copies if c.kind == kind
        ]
        if pairs:
            message = f"{len(pairs):,} of {len(held_out):,} {what} {words}"
            message += ", but for case, punctuation and spaces." if kind == "exact" else "."
            findings.append(_finding("warning", message, pairs, fix))
    return findings


def _same_meaning(train: Sequence[Example], held_out: Sequence[Text], part: str) -> list[Finding]:
    from tunesmith.model.embed import load_encoder
    from tunesmith.sources import resolve_model

    if not held_out:
        return []
    shown = [asked(e) for e in train]
    places, cosines = nearest_by_meaning(load_encoder(resolve_model(ENCODER)), shown, [text for _, text in held_out])
    pairs = [
        (text, Text(train[place].source, shown[place]), float(cosine))
        for text, place, cosine in zip(held_out, places.tolist(), cosines, strict=True)
        if cosine >= SAME_MEANING
    ]
    pairs.sort(key=lambda pair: -pair[2])
    message = f"{len(pairs):,} {part} examples seem to say the same as a training text in other words; for review."
    return [_finding("info", message, pairs, FIXES["meaning"])] if pairs else []


def nearest_by_meaning(encoder: Encoder, train: Sequence[str], held_out: Sequence[str]) -> tuple[Places, Cosines]:
    """Of the training texts with the same numbers, the one nearest to each held-out text: its place, and the cosine.

    What differs in a number says something else, however near its vector is. Training texts are embedded in blocks and
    forgotten, so memory does not grow with their number. Where no training text has the same numbers, the cosine is −1.
    """
    from tunesmith.model.embed import embed

    known: dict[tuple[str, ...], int] = {}
    numbers = np.array([known.setdefault(_numbers(text), len(known)) for text in held_out])
    vectors = embed(encoder, held_out)[0]
    places, cosines = np.zeros(len(held_out), np.int64), np.full(len(held_out), -1.0)
    for start in range(0, len(train), BLOCK):
        block = train[start : start + BLOCK]
        theirs = np.array([known.get(_numbers(text), -1) for text in block])
        found = np.where(numbers[:, None] == theirs, vectors @ embed(encoder, block)[0].T, -1.0)
        best, value = found.argmax(1), found.max(1)
        places = np.where(value > cosines, start + best, places)
        cosines = np.maximum(cosines, value)
    return places, cosines


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\d+", text)))


def _finding(severity: Severity, message: str, pairs: Sequence[tuple[Text, Text, float]], fix: str) -> Finding:
    lines = [held_out.source.rpartition(":")[2] for held_out, _, _ in pairs]
    return Finding(
        "contamination",
        severity,
        len(pairs),
        message,
        rows=tuple(sorted(int(line) for line in lines if line.isdecimal())),
        examples=tuple(f"{_named(a)} – {_named(b)} ({share:.2f})" for a, b, share in pairs[:NAMED]),
        fix=fix,
        pairs=tuple((a.source, b.source, round(share, 3)) for a, b, share in pairs),
    )


def _named(text: Text) -> str:
    return f"{text.source} “{shown(text.text)}”"
