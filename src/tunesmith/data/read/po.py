"""Translation catalogs of gettext (.po): one row for each translated entry, with its line.

A row is ``{"source", "target", "context"}``. Of plural forms the first is taken, for the singular. The header and
what the catalog itself sets aside, obsolete, fuzzy or untranslated entries, are no rows; the latter are counted.
Written here because polib, the usual library, refuses a whole file where one entry is broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.read.rows import BadRow, LeftOut, Row, not_utf8, open_bytes, read_lines, too_long

_KEYWORD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*(".*")', re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class _Entry:
    """What was read of one entry; ``fields`` are its texts by keyword, the singular's translation as ``msgstr``."""

    def __init__(self) -> None:
        self.line = 0  # of msgid
        self.fields: dict[str, str] = {}
        self.last = ""
        self.fuzzy = self.obsolete = False
        self.problem: BadRow | None = None

    def add(self, line: int, text: str) -> None:
        """Take a keyword with its text, or a further line of the text before."""
        keyword = _KEYWORD.fullmatch(text)
        quoted = _QUOTED.fullmatch(keyword[2] if keyword else text)
        if quoted is None or (keyword is None and not self.last):
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            self.fail(BadRow(line, f"{shown!r}; expected msgid, msgstr or msgctxt, each with a text in quotes"))
            return
        if keyword:
            self.last = "msgstr" if keyword[1] == "msgstr[0]" else keyword[1]
            if self.last in self.fields:
                self.fail(
                    BadRow(line, f"{keyword[1]} stands twice in one entry; an entry begins with msgctxt or msgid")
                )
            if self.last == "msgid":
                self.line = line
        self.fields[self.last] = self.fields.get(self.last, "") + _ESCAPE.sub(_unescaped, quoted[1])

    def fail(self, problem: BadRow) -> None:
        self.problem = self.problem or problem

    def row(self) -> Row | None:
        """The entry as a row; None for the header and where there is none."""
        if self.problem:
            return self.problem.line, self.problem
        if not self.fields or (self.fields.get("msgid") == "" and "msgctxt" not in self.fields):
            return None
        for keyword in ("msgid", "msgstr"):
            if keyword not in self.fields:
                line = self.line or 1
                return line, BadRow(line, f"an entry without {keyword}; expected msgid and msgstr")
        aside = "obsolete" if self.obsolete else "fuzzy" if self.fuzzy else ""
        if aside or not self.fields["msgstr"]:
            return self.line, LeftOut(self.line, aside or "untranslated")
        source, target = self.fields["msgid"], self.fields["msgstr"]
        return self.line, {"source": source, "target": target, "context": self.fields.get("msgctxt")}


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (line of msgid, columns, BadRow or LeftOut)."""
    entry = _Entry()
    with open_bytes(path) as file:
        for line, offset, data in read_lines(file):
            text, problem = "", too_long(line) if data is None else None
            if data is not None:
                try:
                    text = data.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    problem = not_utf8(line, offset + error.start + 1)
            obsolete = text.startswith("#~")
            text = text.removeprefix("#~").lstrip() if obsolete else text
            if obsolete and text.startswith("|"):
                continue  # what the entry was before
            begins = text.startswith(("#", "msgctxt", "msgid ", 'msgid"'))
            if problem is None and (not text or (begins and any(f.startswith("msgstr") for f in entry.fields))):
                if (row := entry.row()) is not None:
                    yield row
                entry = _Entry()
            if problem is not None:
                entry.fail(problem)
            elif text.startswith("#,"):
                entry.fuzzy = entry.fuzzy or "fuzzy" in re.split(r"[\s,]+", text)
            elif text and not text.startswith("#"):
                entry.obsolete = entry.obsolete or obsolete
                entry.add(line, text)
    if (row := entry.row()) is not None:
        yield row


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "x" and len(code) == 3:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _CONTROLS.get(code, code)
