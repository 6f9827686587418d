"""Cuts a document's text into chunks: slices of it that keep headings, paragraphs and sentences together."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tunesmith.records import content_hash

# A word is what stands between spaces, in pieces of 20 characters where it is longer (a web address, a key); a Chinese,
# Japanese or Korean character is a word by itself, since those scripts put no spaces.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]{{1,20}}")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?]['\"”’)\]]*(?=\s)|[。！？]|\n(?=[ \t]*[-*•])")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes:
        id: Content hash of document, position and text: 16 hexadecimal digits.
        document: Name of the document.
        heading: The headings it stands under, outermost first, joined by `` > ``; empty if there is none.
        position: 0-based number of the chunk in its document.
        start: Offset of ``text`` in the document's text, in characters.
        text: The slice itself.
        metadata: What is known of the document, such as its file.
    """

    id: str
    document: str
    heading: str
    position: int
    start: int
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def chunk_text(
    document: str, text: str, size: int, overlap: int = 0, metadata: Mapping[str, str] | None = None
) -> list[Chunk]:
    """Cut ``text`` into chunks of at most ``size`` words.

    A chunk never crosses a Markdown heading. A section that is too long is cut where a paragraph ends, if one ends in
    the second half of the chunk; else where a sentence ends there; else between words. The next chunk then begins up
    to ``overlap`` words earlier, at the start of a sentence. Headings in fenced code are none. Headings that no text
    follows go with the section after them.

    Args:
        document: Name of the document.
        text: Its text.
        size: Words in a chunk, at least 1. A word is up to 20 characters between spaces, or one Chinese, Japanese or
            Korean character.
        overlap: Words that a chunk may repeat of the one before, 0 ≤ overlap ≤ size / 2.
        metadata: Given to every chunk.

    Returns:
        Chunks in order; each word of ``text`` is in at least one. Empty only if there is no word.

    Raises:
        ValueError: If ``size`` or ``overlap`` is out of range.
    """
    if size < 1 or not 0 <= overlap <= size / 2:
        raise ValueError(f"chunks of {size} words with {overlap} repeated; expected size ≥ 1, 0 ≤ overlap ≤ size / 2")
    chunks: list[Chunk] = []
    for heading, start, stop in _sections(text):
        for first, last in _spans(text, start, stop, size, overlap):
            piece = text[first:last]
            position = len(chunks)
            chunks.append(
                Chunk(
                    content_hash([document, position, piece]),
                    document,
                    heading,
                    position,
                    first,
                    piece,
                    metadata or {},
                )
            )
    return chunks


def _sections(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (headings above, start, end) of each stretch of text under one heading, the heading's line included."""
    fences = [match.span() for match in _FENCE.finditer(text)]
    starts = [start for start, _ in fences]
    above: list[tuple[int, str]] = []
    begin, written = 0, 0  # where the section begins, and where the last heading's line ends
    for match in _HEADING.finditer(text):
        fence = bisect_right(starts, match.start()) - 1
        if fence >= 0 and match.start() < fences[fence][1]:
            continue
        if text[written : match.start()].strip():
            yield " > ".join(title for _, title in above), begin, match.start()
            begin = match.start()
        level, title = len(match[1]), match[2].rstrip(" \t#")
        above = [outer for outer in above if outer[0] < level]
        if title:
            above.append((level, title))
        written = match.end()
    yield " > ".join(title for _, title in above), begin, len(text)


def _spans(text: str, start: int, stop: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) in characters of the chunks of one section."""
    words = [match.span() for match in _WORD.finditer(text, start, stop)]
    ends = [end for _, end in words]
    # as numbers of words: a break after n words
    paragraphs = sorted({bisect_right(ends, m.start()) for m in _PARAGRAPH_END.finditer(text, start, stop)})
    sentences = sorted({bisect_right(ends, m.end()) for m in _SENTENCE_END.finditer(text, start, stop)})
    again = sorted({*paragraphs, *sentences}) if overlap else []
    first = 0
    while first < len(words):
        last = len(words)
        if last - first > size:
            last = first + size
            for breaks in (paragraphs, sentences):
                at = bisect_right(breaks, last) - 1
                if at >= 0 and breaks[at] > first + size // 2:
                    last = breaks[at]
                    break
        yield words[first][0], words[last - 1][1]
        if last == len(words):
            return
        at = bisect_left(again, max(last - overlap, first + 1))
        first = again[at] if at < len(again) and again[at] < last else last
