from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.rag.chunk import chunk_text
from tunesmith.records import content_hash

GUIDE = """# Guide

## Install

Use pip.

```
# no heading
```

## Use

First sentence here. Second sentence is here. Third one.

Another paragraph.
"""


def test_headings_are_followed_and_never_crossed() -> None:
    chunks = chunk_text("guide.md", GUIDE, 100)
    assert [c.heading for c in chunks] == ["Guide > Install", "Guide > Use"]
    assert chunks[0].text.startswith("# Guide\n\n## Install") and chunks[0].text.endswith("```")
    assert chunks[1].text.startswith("## Use") and chunks[1].text.endswith("Another paragraph.")


def test_a_heading_ends_those_of_its_own_level_and_below() -> None:
    text = "# A\n\na\n\n### C\n\nc\n\n## B ##\n\nb\n\n# D\n\nd"
    assert [c.heading for c in chunk_text("x", text, 50)] == ["A", "A > C", "A > B", "D"]


def test_text_before_the_first_heading_has_none() -> None:
    assert [c.heading for c in chunk_text("x", "before\n# A\nafter", 50)] == ["", "A"]


def test_long_sections_are_cut_at_paragraphs_then_sentences_then_words() -> None:
    paragraphs = "one two three\n\nfour five six\n\nseven eight"
    assert [c.text for c in chunk_text("x", paragraphs, 5)] == ["one two three", "four five six\n\nseven eight"]
    sentences = "One two three. Four five six! Seven eight?"
    assert [c.text for c in chunk_text("x", sentences, 5)] == ["One two three.", "Four five six! Seven eight?"]
    assert [c.text for c in chunk_text("x", "a b c d e f g", 3)] == ["a b c", "d e f", "g"]


def test_overlap_repeats_whole_sentences() -> None:
    text = "A one two. B one two. C one two. D one two."
    assert [c.text for c in chunk_text("x", text, 6, 3)] == [
        "A one two. B one two.",
        "B one two. C one two.",
        "C one two. D one two.",
    ]
    assert [c.text for c in chunk_text("x", text, 6)] == ["A one two. B one two.", "C one two. D one two."]


def test_text_without_spaces_is_cut_too() -> None:
    assert [len(c.text) for c in chunk_text("x", "漢" * 25, 10)] == [10, 10, 5]
    assert [len(c.text) for c in chunk_text("x", "y" * 45, 2)] == [40, 5]


def test_ids_are_hashes_of_document_position_and_text() -> None:
    first, second = chunk_text("x", "same\n# H\nother", 50, metadata={"file": "x"})
    assert (first.id, second.id) == (content_hash(["x", 0, "same"]), content_hash(["x", 1, "# H\nother"]))
    assert second.metadata == {"file": "x"}
    assert chunk_text("y", "same", 50)[0].id != first.id


def test_nothing_gives_nothing() -> None:
    assert chunk_text("x", " \n\t\n", 10) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (4, 3), (4, -1)])
def test_sizes_out_of_range_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        chunk_text("x", "text", size, overlap)


@settings(deadline=None)
@given(
    st.text(alphabet="ab .#\n漢`é", max_size=200),
    st.integers(1, 12),
    st.integers(0, 6),
)
def test_every_word_is_in_a_chunk_in_order_and_within_size(text: str, size: int, overlap: int) -> None:
    chunks = chunk_text("x", text, size, min(overlap, size // 2))
    covered: set[int] = set()
    for number, chunk in enumerate(chunks):
        assert chunk.position == number
        assert chunk.text == text[chunk.start : chunk.start + len(chunk.text)] == chunk.text.strip()
        assert len(chunk.text.replace("漢", " 漢 ").split()) <= size
        covered.update(range(chunk.start, chunk.start + len(chunk.text)))
    assert {i for i, c in enumerate(text) if not c.isspace()} <= covered
    starts = [chunk.start for chunk in chunks]
    assert starts == sorted(set(starts))
