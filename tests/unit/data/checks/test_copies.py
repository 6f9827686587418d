"""Copies against a plain quadratic search, and rules that can be told by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.checks import copies
from tunesmith.data.checks.copies import ALIKE, FEWEST, LONGEST, WORDS, find_copies, plain_words
from tunesmith.measures.memorization import longest_match
from tunesmith.measures.overlap import build_index, longest_runs, look_up, windows

words = st.sampled_from(["a", "b", "c", "d", "e"])
texts = st.lists(st.lists(words, max_size=24).map(" ".join), max_size=12)


def reference(train: list[str], held_out: list[str]) -> dict[int, float]:
    """Share found again of each held-out text, by comparing every text with every other."""
    found = {}
    for i, text in enumerate(map(str.split, held_out)):
        shares = []
        for other in map(str.split, train):
            run = longest_match(text, other)
            alike = (Counter(text) & Counter(other)).total() / max(len(text), len(other), 1)
            if text and "".join(text) == "".join(other):
                shares.append(1.0)
            if run >= WORDS and run / len(text) >= LONGEST:
                shares.append(run / len(text))
            if len(text) >= FEWEST and alike >= ALIKE:
                shares.append(alike)
        if shares:
            found[i] = max(shares)
    return found


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_finds_what_a_quadratic_search_finds(train: list[str], held_out: list[str]) -> None:
    found = find_copies(train, held_out)
    assert {copy.held_out: copy.share for copy in found} == reference(train, held_out)
    for copy in found:
        assert (copy.kind == "exact") == (
            train[copy.train].replace(" ", "") == held_out[copy.held_out].replace(" ", "")
        )


@given(st.lists(st.lists(words, max_size=12), max_size=6), st.lists(st.lists(words, max_size=12), max_size=6))
def test_longest_runs_are_those_of_dynamic_programming(a: list[list[str]], b: list[list[str]]) -> None:
    numbers = {word: number for number, word in enumerate("abcde")}
    sides = []
    for rows in (a, b):
        items = np.array([numbers[word] for row in rows for word in row], np.int64)
        sides.append((windows(items, np.array([len(row) for row in rows], np.int64), 3), rows))
    (left, _), (right, _) = sides
    number, place = look_up(build_index(left.hashes, left.places), right.hashes)
    begins, runs = longest_runs(place, right.places[number], 3)
    row_of = np.repeat(np.arange(len(a)), [len(row) for row in a])
    longest: dict[tuple[int, int], int] = {}
    for k, run in zip(begins.tolist(), runs.tolist(), strict=True):
        pair = int(row_of[place[k]]), int(right.rows[number[k]])
        longest[pair] = max(run, longest.get(pair, 0))
    expected = {(i, j): longest_match(x, y) for i, x in enumerate(a) for j, y in enumerate(b)}
    assert longest == {pair: run for pair, run in expected.items() if run >= 3}


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    train = [" ".join(rng.choice(list("abcdefgh"), 9)) for _ in range(300)]
    held_out = [" ".join(rng.choice(list("abcdefgh"), 9)) for _ in range(80)]
    whole = find_copies(train, held_out)
    assert whole
    monkeypatch.setattr(copies, "BLOCK_CELLS", 400)
    assert find_copies(iter(train), held_out) == whole


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Don’t PANIC, it’s fine.", "dont panic its fine"),
        ("ｆｕｌｌ　width", "full width"),
        ("well-known", "well known"),
        ("(in 2019)", "in 2019."),
        ("किताब।", "किताब"),
    ],
)
def test_spelling_does_not_tell_texts_apart(a: str, b: str) -> None:
    assert [copy.kind for copy in find_copies([a], [b])] == ["exact"]


@pytest.mark.parametrize(
    ("a", "b"),
    [("1.5 plus 2", "15 plus 2"), ("-3", "3"), ("2+3", "2 3"), ("काला", "कल"), ("", "?!"), ("a < b", "a > b")],
)
def test_numbers_signs_and_vowels_do(a: str, b: str) -> None:
    assert find_copies([a], [b]) == []


def test_texts_without_spaces_are_compared_by_characters() -> None:
    assert plain_words("東京は大きい。") == list("東京は大きい")
    assert [copy.kind for copy in find_copies(["東京はとても大きい都市です"], ["東京はとても大きな都市です"])] == [
        "near"
    ]


def test_a_template_of_many_held_out_texts_is_no_leak() -> None:
    template = "please read the following text and answer in one word"
    held_out = [f"{template} {a} {b} {c}" for a in "abc" for b in "abc" for c in "abc"]
    assert find_copies([f"{template} x y z p q r s t u v w"], held_out) == []
    assert len(find_copies([f"{template} x y z p q r s t u v w"], held_out[:20])) == 20


def test_the_first_of_equally_good_copies_counts() -> None:
    train = [
        "one two three four six",
        "one two three four seven",
        "One, two, three, four, five!",
        "one two three four five",
    ]
    (copy,) = find_copies(train, ["one two three four five"])
    assert (copy.kind, copy.train) == ("exact", 2)
    (copy,) = find_copies(train[:2], ["one two three four five"])
    assert (copy.kind, copy.train, copy.share) == ("near", 0, 0.8)
    assert find_copies(train[:2], ["one two three four five"], near=False) == []
