"""Swaps by a lexicon: case, forms, articles, boundaries; what is refused; both copies on one side of a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.data.lexicon import SHIPPED, changed_example, read_lexica, read_lexicon
from tunesmith.data.prepare import neutral_key
from tunesmith.data.read import read_examples
from tunesmith.data.split import same_text_key, split_examples
from tunesmith.errors import DataError
from tunesmith.records import Example


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("He gave her his book. It was hers.", "She gave him her book. It was his."),
        ("I saw her yesterday with her dog; HE LEFT.", "I saw him yesterday with his dog; SHE LEFT."),
        ("The choice is his, and he's an uncle.", "The choice is hers, and she's an aunt."),
        ("James said: Ask Mr. Smith himself!", "Mary said: Ask Ms. Smith herself!"),
        ("the sheriff, a hero and a he-man", None),
        ("mary had a lamb", "james had a lamb"),
        ("Ask mary", None),  # in a text with capitals a name has one
        ("The waiter is an actor", "The waitress is an actress"),
    ],
)
def test_a_swap_keeps_case_form_and_boundaries(text: str, swapped: str | None) -> None:
    lexicon = read_lexica(["pronouns", "names"])[0]
    assert lexicon.swapped(text) == swapped
    if swapped is not None:
        assert lexicon.swapped(swapped) == text
        assert lexicon.neutral(swapped) == lexicon.neutral(text) != text


def test_an_article_follows_its_noun_and_all_terms_of_a_text_go_to_one_group() -> None:
    lexicon = read_lexicon("nationalities")
    changed = lexicon.swapped("An Indian engineer met a Chinese friend in Japan.")
    assert changed is not None
    groups = [group for group in lexicon.groups if lexicon.group_of(changed) == group]
    assert groups and groups != ["asia"]
    assert all(f" {wrong} " not in f" {changed} " for wrong in ("An Nigerian", "An German", "An Mexican", "a Iranian"))


def test_a_placebo_keeps_the_group() -> None:
    lexicon = read_lexica(["names", "pronouns"])[0]
    changed = lexicon.placebo("Robert said that he met Mary.")
    assert changed == "Michael said that he met Patricia."
    assert lexicon.placebo("He met her.") is None
    assert lexicon.group_of("Michael met him") == "male"
    assert lexicon.group_of("Michael met Patricia") is None


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_term_has_a_way_back_and_stands_for_one_group(name: str) -> None:
    lexicon = read_lexicon(name)
    for _, terms in lexicon.rows:
        for group, term in zip(lexicon.groups, terms, strict=True):
            assert lexicon.group_of(f"seen: {term}.") == group


def test_an_own_file_is_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("old,young\nelderly,youthful\nretired,elderly\n,\n")
    with pytest.raises(DataError, match=r"line 4: no term[\s\S]*'elderly' stands for old and young"):
        read_lexicon(str(file))
    with pytest.raises(DataError, match="Known: pronouns, names, nationalities"):
        read_lexicon("pronoun")


def test_the_group_may_come_from_the_words_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label\nHe is in,a\nShe is out,b\nHe met her,a\nNobody,b\n")
    found = read_examples(file, "classification", sensitive=["lexicon:pronouns"]).examples
    assert [dict(e.sensitive).get("lexicon:pronouns") for e in found] == ["male", "female", None, None]


def test_cells_of_a_table_change_with_its_text() -> None:
    example = Example("f:1", text="who: Mary, age: 3", label="a", columns=(("who", "Mary"), ("age", 3.0)))
    changed = changed_example(example, read_lexicon("names").swapped)
    assert changed is not None
    assert (changed.text, changed.columns) == ("who: James, age: 3", (("who", "James"), ("age", 3.0)))


def test_texts_that_differ_in_swapped_terms_alone_stay_on_one_side_of_a_split() -> None:
    pairs = [Example(f"f:{2 * i + j}", text=f"{who} is number {i}", label="ab"[i % 2])
             for i in range(60) for j, who in enumerate(("He", "She"))]  # fmt: skip
    apart = {}
    for name, key in (("plain", same_text_key), ("swapped", neutral_key(["pronouns"]))):
        split = split_examples(pairs, seed=0, stratify=True, text_key=key)
        held = {(e.text or "").split(" ", 1)[1] for e in (*split.test, *split.validation)}
        apart[name] = sum((e.text or "").split(" ", 1)[1] in held for e in split.train)
        assert len(split.train) + len(split.validation) + len(split.test) == len(pairs)
    assert apart["plain"] > 0
    assert apart["swapped"] == 0
