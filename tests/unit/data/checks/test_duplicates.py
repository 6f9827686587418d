"""Copies within a file: all near pairs that comparing every pair finds, and what follows from them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tunesmith.config import Data
from tunesmith.data.checks.duplicates import (
    SHINGLE,
    check,
    clusters,
    find_duplicates,
    jaccard,
    near_pairs,
    same_words,
    shingles,
)
from tunesmith.data.checks.material import Material
from tunesmith.measures.minhash import BANDS, ROWS, band_keys
from tunesmith.records import Example, Finding, Message, Split

WORDS = [
    "where",
    "when",
    "card",
    "bank",
    "pay",
    "my",
    "the",
    "a",
    "is",
    "new",
    "old",
    "lost",
    "blocked",
    "transfer",
    "money",
    "account",
    "to",
    "from",
    "please",
    "how",
]


def findings(examples: list[Example], task_kind: str = "classification") -> dict[str, Finding]:
    own = tuple(examples)
    material = Material(Data(train="x.csv"), task_kind, own, Split(own, (), ()), find_duplicates(own))
    return {f.check: f for f in check(material)}


def labelled(*rows: tuple[str, str]) -> list[Example]:
    return [Example(f"x.csv:{i}", text=text, label=label) for i, (text, label) in enumerate(rows, 2)]


def test_no_cluster_of_near_texts_is_missed() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(150)]
    texts += [f"{text} {rng.choice(WORDS)}" for text in texts[:80]]
    sets = [shingles(text) for text in texts]
    every = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts)) if jaccard(sets[i], sets[j]) >= 0.7]
    found = near_pairs(texts, 0.7)
    assert all(share == pytest.approx(jaccard(sets[i], sets[j]), abs=0.001) and share >= 0.7 for i, j, share in found)
    assert clusters(len(texts), [pair[:2] for pair in found]) == clusters(len(texts), every)


def test_min_hashes_agree_as_often_as_datasketchs_estimate_says() -> None:
    datasketch = pytest.importorskip("datasketch")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2**63, 400, dtype=np.uint64)
    agreed, expected = [], []
    for shared in (40, 200, 320, 400):
        other = np.concatenate([one[:shared], rng.integers(0, 2**63, 400 - shared, dtype=np.uint64)])
        keys = band_keys(np.concatenate([one, other]), np.array([400, 400]))
        agreed.append(float((keys[0] == keys[1]).mean()))
        signatures = [datasketch.MinHash(BANDS * ROWS) for _ in range(2)]
        for signature, values in zip(signatures, (one, other), strict=True):
            signature.update_batch([value.tobytes() for value in values])
        expected.append(signatures[0].jaccard(signatures[1]) ** ROWS)  # a band agrees if its four values do
    assert agreed == pytest.approx(expected, abs=0.25)
    assert agreed[-1] == 1


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("what is my balance", "whats is my balance", True),  # one letter
        ("what is my balance", "what is my blaance", True),
        ("set it please", "please set it", True),
        ("pay pay my bill", "pay my bill", True),
        ("a table for 4", "a table for 5", False),
        ("freeze my account", "unfreeze my account", False),
        ("pay the bill", "pay the till", False),  # both are words of other texts
        ("please", "thanks", False),
    ],
)
def test_what_has_the_same_words(a: str, b: str, same: bool) -> None:
    known = dict.fromkeys(f"{a} bill till account unfreeze freeze".split(), 5)
    assert same_words(a, b, {word: known.get(word, 1) for word in f"{a} {b}".split()}) == same


def test_each_kind_of_copy_has_its_finding_and_its_rows() -> None:
    others = [(f"{WORDS[i]} {WORDS[-1 - i]} {i * 37}", "ab"[i % 2]) for i in range(10)]
    found = findings(labelled(
        *others, ("where is my new card", "a"), ("where is my new card", "a"), ("WHERE is my new card?", "a"),
        ("where is my neww card", "a"), ("how do i pay at the bank", "a"), ("how do i pay at the bank", "b"),
        ("...", "a"), ("...", "b"),
    ))  # fmt: skip
    assert found["exact_duplicates"].rows == (13,)
    assert found["near_duplicates"].rows == (14, 15)
    assert ("x.csv:12", "x.csv:14", 1.0) in found["near_duplicates"].pairs
    assert found["conflicting_labels"].rows == (16, 17)
    assert "94.4 %" in found["conflicting_labels"].message  # one of 18 rows must be wrong


def test_a_number_that_differs_makes_no_duplicate() -> None:
    rows = labelled(
        ("reserve a table for 4 at red robin", "a"), ("reserve a table for 5 at red robin", "a"), ("x y", "b")
    )
    assert set(findings(rows)) == {"similar_texts"}
    assert find_duplicates(rows).similar == ((0, 1, 0.784),)


def test_a_template_makes_no_cluster() -> None:
    same = "Translate the following sentence from English to French and give nothing but the translation: "
    rows = [Example(f"x:{i}", text=same + word, label="a") for i, word in enumerate(map(str, range(1000, 1200)))]
    found = find_duplicates(rows)
    assert found.similar == ()
    assert found.template == 200


def test_numbers_answers_tables_and_pairs() -> None:
    numbers = [Example(f"x:{i}", text=f"text {i // 2}", label=str(i)) for i in range(100)]
    assert [(f.check, f.severity, f.count) for f in findings(numbers, "regression").values()] == [
        ("conflicting_numbers", "info", 100)
    ]
    answers = [
        Example(f"x:{i}", (Message("user", f"q{i % 50}"), Message("assistant", f"{i * 7919}"))) for i in range(100)
    ]
    assert findings(answers, "generation") == {}
    row = Example("t:2", text="age: 39, work: state, hours: 40", label="x", columns=(("age", 39.0),))
    assert findings([row, replace(row, text="age: 38, work: state, hours: 40", columns=(("age", 38.0),))]) == {}
    turns = (Message("user", "hi"), Message("assistant", "hello"))
    pairs = [Example(f"x:{i}", turns, rejected=(Message("assistant", f"no {i % 15}"),)) for i in range(30)]
    assert findings(pairs, "preference")["exact_duplicates"].count == 15


def test_texts_shorter_than_a_shingle_are_no_near_copies() -> None:
    assert SHINGLE == 4
    assert near_pairs(["a", "b", "", "ab"], 0.5) == []
