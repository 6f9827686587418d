"""Words that give the label away: those in texts of one label far oftener than in others'."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunesmith.measures.association import Association, association
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.uncertainty import holm
from tunesmith.records import Example

MOST_WORDS = 2000  # tested: the commonest
SHOWN = 20
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")

Json = dict[str, Any]


def label_words(train: Sequence[Example], columns: Sequence[str]) -> list[Json]:
    """The words most strongly tied to a label, and the group that each is most strongly tied to.

    Tested is every word that stands in 30 or more training texts and is missing from as many, with every label; shown
    are those whose correlation is not chance, by Fisher's z and Holm's adjustment for all of the tests.

    Args:
        train: Training examples.
        columns: The sensitive columns.

    Returns:
        At most ``SHOWN`` of ``word``, ``label``, ``n`` texts, ``correlation`` with interval, ``adjusted_p_value``,
        ``tests``; and ``group`` with its ``correlation`` and its column, where a group has 30 texts or more.
    """
    texts = [set(_WORD.findall((example.text or "").lower())) for example in train]
    n, independent = len(train), len({example.group or i for i, example in enumerate(train)})
    counts = Counter(word for words in texts for word in words)
    words = [w for w, count in counts.most_common(MOST_WORDS) if SMALLEST <= count <= n - SMALLEST]
    if not words or independent < 4:
        return []
    marks: dict[tuple[str, str], set[int]] = {}  # of label or group, by column ("" for the label)
    for i, example in enumerate(train):
        for mark in (("", example.label or ""), *example.sensitive):
            if mark[0] in ("", *columns):
                marks.setdefault(mark, set()).add(i)
    places = {word: {i for i, found in enumerate(texts) if word in found} for word in words}

    def tied(word: str, mark: tuple[str, str]) -> Association:
        of_mark = marks[mark]
        return association(len(places[word] & of_mark), counts[word], len(of_mark), n, independent)

    usable = [mark for mark, of in marks.items() if len(of) < n and (not mark[0] or len(of) >= SMALLEST)]
    tests = [(word, mark, tied(word, mark)) for word in words for mark in usable if not mark[0]]
    adjusted = holm([found.p_value for _, _, found in tests])
    strong = [(word, mark[1], found, p) for (word, mark, found), p in zip(tests, adjusted, strict=True) if p < 0.05]
    strong.sort(key=lambda row: (-row[2].value, row[0], row[1]))
    groups = [mark for mark in usable if mark[0]]
    rows = []
    for word, label, found, p in [row for row in strong if row[2].value > 0][:SHOWN]:
        near = max(groups, key=lambda mark, word=word: tied(word, mark).value, default=None)  # type: ignore[misc]
        rows.append({
            "word": word, "label": label, "n": counts[word], "correlation": _json(found),
            "adjusted_p_value": p, "tests": len(tests),
            "group": None if near is None else {"column": near[0], "group": near[1], **_json(tied(word, near))},
        })  # fmt: skip
    return rows


def _json(found: Association) -> Json:
    return {"value": found.value, "low": found.low, "high": found.high}
