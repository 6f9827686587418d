"""Words that name a group of people: which groups a text names, and the text with the group swapped for another.

A lexicon is a table, one column for each group: ``he`` and ``she`` stand in one row, so each is the other's
counterpart. Rows of one ``set`` are interchangeable within a group, which gives the *placebo* swap: John becomes
Robert, and the group stays. Shipped are ``pronouns`` (with nouns such as father and actress), ``names`` and
``nationalities``, all English; a file of one's own has the same form. Nobody's group is inferred unless the user names
a lexicon.

Three things a table cannot know: ``her`` is ``his`` before a noun and ``him`` elsewhere, which the word after decides
(rows of the set ``determiner``); ``she married her husband`` becomes ``he married his wife``, which is right as
English and may be wrong of the case; and a name that is also a word (``Mark the page``) is swapped as a name, so the
shipped lists have none of these.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from tunesmith.data.read import read_rows
from tunesmith.data.read.rows import BadRow
from tunesmith.errors import DataError
from tunesmith.records import Example

SHIPPED = ("pronouns", "names", "nationalities")
DETERMINER = "determiner"  # the set whose rows hold only before a noun
# Words after ``her`` or ``his`` that begin no noun phrase of its own.
_NO_NOUN = (
    "a about after again all an and any are as at be because been before but by can could did do does down each for "
    "from had has have he her hers here him his how i if in into is it its my not now of off on or our out over said "
    "she should so some than that the their then there these they this those to today tomorrow too up us was we were "
    "what when where which while who why will with would yesterday you your"
)

Term = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Lexicon:
    """``rows`` hold the set's name, or "", and each group's term, or "" where a group has none there."""

    name: str
    groups: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]

    def group_of(self, text: str) -> str | None:
        """The only group that a text names; None where it names none, or several."""
        found = {column for _, terms in self._found(text) for _, column in terms}
        return self.groups[found.pop()] if len(found) == 1 else None

    def swapped(self, text: str) -> str | None:
        """The text with every term's group swapped; None where it has no term with a counterpart.

        Of several other groups, which one is a matter of the text's hash, and the same for all of its terms.
        """
        shift = 1 + int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4]) % (
            len(self.groups) - 1
        )
        return self._changed(text, lambda row, column: self.rows[row][1][(column + shift) % len(self.groups)])

    def placebo(self, text: str) -> str | None:
        """The text with terms replaced by others of the same group and set; None where there are none."""

        def another(row: int, column: int) -> str:
            kind = self.rows[row][0]
            alike = [i for i, (name, terms) in enumerate(self.rows) if name == kind and terms[column]]
            if kind in ("", DETERMINER) or len(alike) < 2:
                return ""
            return self.rows[alike[(alike.index(row) + 1) % len(alike)]][1][column]

        return self._changed(text, another)

    def neutral(self, text: str) -> str:
        """The text with its terms taken out: equal for a text and its counterparts."""
        return self._pattern.sub("\0", text)

    # ── terms in a text ──────────────────────────────────────────────────────────────────────────────────
    @functools.cached_property
    def _terms(self) -> dict[str, list[Term]]:
        found: dict[str, list[Term]] = {}
        for row, (_, terms) in enumerate(self.rows):
            for column, term in enumerate(terms):
                if term:
                    found.setdefault(term.lower(), []).append((row, column))
        return found

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        """A term with the article before it; no part of a longer word, hyphens among it."""
        longest_first = "|".join(re.escape(term) for term in sorted(self._terms, key=lambda term: (-len(term), term)))
        return re.compile(rf"(?<![\w-])(?:(an?)(\s+))?({longest_first})(?![\w-])", re.IGNORECASE)

    def _found(self, text: str) -> list[tuple[re.Match[str], list[Term]]]:
        """Every term that stands in the text as it is spelled; in a text without capitals, however spelled."""
        found = []
        for match in self._pattern.finditer(text):
            places = [
                (row, column)
                for row, column in self._terms[match[3].lower()]
                if not self.rows[row][1][column][0].isupper() or match[3][0].isupper() or text.islower()
            ]
            if places:
                found.append((match, places))
        return found

    def _changed(self, text: str, other: Callable[[int, int], str]) -> str | None:
        parts, at = [], 0
        for match, places in self._found(text):
            new = other(*self._meant(places, text[match.end() :]))
            if not new or new.lower() == match[3].lower():
                continue
            new = _cased(new, match[3], text)
            article = match[1] or ""
            if article and (match[3][0] in "aeiouAEIOU") != (new[0] in "aeiouAEIOU"):
                article = article[0] if len(article) == 2 else f"{article}n"
            parts += [text[at : match.start()], article, match[2] or "", new]
            at = match.end()
        return "".join([*parts, text[at:]]) if parts else None

    def _meant(self, places: Sequence[Term], following: str) -> Term:
        """Which row a spelling stands for: of several, the determiner's before a noun, else another."""
        word = re.match(r"\s+([^\W\d_]+)", following)
        before_noun = word is not None and word[1].lower() not in _NO_NOUN.split()
        return next((place for place in places if (self.rows[place[0]][0] == DETERMINER) == before_noun), places[0])


def _cased(new: str, old: str, text: str) -> str:
    """A term in the case of the one it replaces."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    if old[0].isupper():
        return new[0].upper() + new[1:]
    return new.lower() if text.islower() else new


def changed_example(example: Example, change: Callable[[str], str | None]) -> Example | None:
    """An example with its text, and a table's cells, changed; None where nothing is."""
    text = change(example.text or "")
    if text is None:
        return None
    columns = tuple(
        (name, (change(value) or value) if isinstance(value, str) else value) for name, value in example.columns
    )
    return replace(example, text=text, columns=columns)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────
def read_lexica(names: Sequence[str]) -> list[Lexicon]:
    """Lexica by name or file; those of the same groups become one, so that a name and its pronouns change together.

    Raises:
        NotFoundError: If a file is not there.
        DataError: If a file is no lexicon; all problems of all files in one message.
    """
    problems: list[str] = []
    merged: dict[frozenset[str], Lexicon] = {}
    for name in names:
        try:
            lexicon = read_lexicon(name)
        except DataError as error:
            problems.append(str(error))
            continue
        key = frozenset(lexicon.groups)
        if key in merged:
            one = merged[key]
            order = [lexicon.groups.index(group) for group in one.groups]
            rows = tuple((kind, tuple(terms[i] for i in order)) for kind, terms in lexicon.rows)
            lexicon = Lexicon(f"{one.name}+{lexicon.name}", one.groups, (*one.rows, *rows))
        problems += _problems(lexicon)
        merged[key] = lexicon
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))
    return list(merged.values())


def read_lexicon(name: str) -> Lexicon:
    """A shipped lexicon, or a CSV or TSV file: a column for each group, and ``set`` if terms are interchangeable.

    Raises:
        NotFoundError: If the file is not there.
        DataError: If it has not at least two groups, a bad row, or a term in two groups.
    """
    path = Path(name).expanduser()
    if name in SHIPPED:
        path = Path(str(resources.files("tunesmith.data") / "lexica" / f"{name}.csv"))
    elif path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(f"lexicon '{name}': there is none of that name. Known: {', '.join(SHIPPED)}, or a .csv file.")
    groups: tuple[str, ...] = ()
    rows, problems = [], []
    for line, row in read_rows(path):
        if isinstance(row, BadRow):
            problems.append(f"{path.name} line {row.line}: {row.reason}.")
            continue
        groups = groups or tuple(column for column in row if column != "set")
        terms = tuple(str(row.get(group) or "").strip() for group in groups)
        if not any(terms):
            problems.append(f"{path.name} line {line}: no term. Remove the line.")
        rows.append((str(row.get("set") or "").strip(), terms))
    if len(groups) < 2:
        problems.append(f"{path.name}: {len(groups)} columns of terms; expected one for each of at least two groups.")
    lexicon = Lexicon(path.stem, groups, tuple(rows))
    problems += _problems(lexicon)
    if problems:
        raise DataError("\n".join(problems))
    return lexicon


def _problems(lexicon: Lexicon) -> list[str]:
    return [
        f"lexicon {lexicon.name}: '{term}' stands for {' and '.join(lexicon.groups[c] for c in sorted(columns))}. A "
        "term names one group; remove it from the others."
        for term, places in lexicon._terms.items()
        if len(columns := {column for _, column in places}) > 1
    ]
