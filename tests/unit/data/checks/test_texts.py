"""Broken, empty, overlong, garbled and cut texts, and classes: what is found, and what is left alone."""

from __future__ import annotations

import random

import pytest

from tunesmith.config import Data
from tunesmith.data.checks import CHECKS, gate
from tunesmith.data.checks.duplicates import find_duplicates
from tunesmith.data.checks.encoding import is_broken, repair
from tunesmith.data.checks.lengths import has_words
from tunesmith.data.checks.material import Material
from tunesmith.records import Example, Finding, Split

OBJECTS = [
    "card",
    "account",
    "balance",
    "bill",
    "transfer",
    "cheque",
    "loan",
    "pin",
    "statement",
    "limit",
    "payment",
    "deposit",
]
STARTS = (
    "i want to see",
    "please show me",
    "can you tell me about",
    "what happened to",
    "i have lost",
    "how do i change",
)
ENDS = ("today", "this week", "as soon as possible", "from last month", "at the bank", "with my phone", "right now")


def texts(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.choice(STARTS)} my {rng.choice(OBJECTS)} {rng.choice(ENDS)}" for _ in range(n)]


def found(check: str, own: list[str], labels: list[str] | None = None) -> dict[str, Finding]:
    examples = tuple(
        Example(f"x:{i}", text=text, label=labels[i - 1] if labels else "ab"[i % 2]) for i, text in enumerate(own, 1)
    )
    material = Material(
        Data(train="x"), "classification", examples, Split(examples, (), ()), find_duplicates(examples[:0])
    )
    return {f.check: f for f in CHECKS[check](material)}


@pytest.mark.parametrize(
    "text", ["what’s the café’s address", "naïve “quote” – 5 €", "Größe 10 µm", "日本語 text", "😀 yes"]
)
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_mojibake_is_undone(text: str, encoding: str) -> None:
    raw = text.encode("utf-8")
    if encoding == "cp1252":  # what it does not define stays as it is, as browsers do
        broken = "".join(
            bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b) for b in raw
        )
    else:
        broken = raw.decode("latin-1")
    assert is_broken(broken)
    assert repair(broken) == text
    assert not is_broken(text)


@pytest.mark.parametrize(
    "text", ["CAFÉ… ÉTÉ", "„Spaß“ im MENÜ”", "NÃO É", "Ünïcödé Ålesund", "20 °C ± 1", "plain", "a\tb\nc"]
)
def test_letters_with_accents_are_no_mojibake(text: str) -> None:
    assert not is_broken(text)


def test_signs_that_are_no_text_are_broken() -> None:
    assert all(map(is_broken, ("caf\ufffd", "a\x00b", "\x85")))


def test_empty_and_overlong_texts() -> None:
    own = [*texts(100), "...", "N/A", "?!", "👍", "5", "word " * 400]
    rows = {name: finding.rows for name, finding in found("lengths", own).items()}
    assert rows == {"empty_text": (101, 102, 103), "overlong": (106,)}
    assert has_words("ok")
    assert found("lengths", ["short", "a" * 5000]) == {}  # too few to say what is usual


def test_garbled_texts_stand_out() -> None:
    rng = random.Random(1)
    own = texts(300)
    for i in (5, 50, 150):
        own[i] = "".join(rng.choice("qwxzjkvbp#@%~") for _ in range(25))
    assert found("garbled", own)["garbled"].rows == (6, 51, 151)
    assert found("garbled", texts(300)) == {}


def test_texts_that_were_cut_stand_out() -> None:
    own = texts(600)
    for i in range(0, 600, 30):
        own[i] = own[i][: len(own[i]) // 2]
    rows = set(found("truncated", own)["truncated"].rows)
    cut = {i + 1 for i in range(0, 600, 30)}
    assert len(rows & cut) >= 0.7 * len(cut)
    assert len(rows - cut) <= 12


def test_classes_that_are_unequal_named_in_the_text_or_told_by_length() -> None:
    rng = random.Random(2)
    labels = ["spam" if i % 20 == 0 else "ham" for i in range(200)]
    rows = [f"{label} it is, they say {i}" for i, label in enumerate(labels)]
    assert set(found("labels", rows, labels)) == {"class_imbalance", "label_in_text"}
    even = ["yes" if i % 2 else "no" for i in range(200)]
    long = ["w" * (rng.randint(90, 110) if label == "yes" else rng.randint(8, 12)) for label in even]
    assert set(found("labels", long, even)) == {"length_by_label"}
    assert found("labels", texts(200), even) == {}


def test_the_gate_follows_the_gravest_finding() -> None:
    info, warning, error = (Finding("x", severity, 1, "") for severity in ("info", "warning", "error"))  # type: ignore[arg-type]
    assert [gate(f) for f in ([], [info], [info, warning], [warning, error])] == [
        "ready",
        "ready",
        "warnings",
        "not_ready",
    ]
