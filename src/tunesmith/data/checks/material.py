"""What the checks look at: the examples of a training file, what they were split into, and which are copies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import Data
from tunesmith.data.checks.personal_information import masked
from tunesmith.records import Example, Finding, Severity, Split

SHOWN, CUT = 20, 80  # examples named in a finding, and characters of each text


class Copies(NamedTuple):
    """Which examples are copies: ``equal`` numbers those with the same letters and digits alike, shape (n,).

    Pairs of places, the earlier first, with their similarity: ``respelled`` have the same words but for spelling and
    order, ``similar`` are other texts that share most of their shingles. ``template`` counts texts that share so much
    with so many others that nothing follows from it.
    """

    equal: NDArray[np.int64]
    respelled: tuple[tuple[int, int, float], ...] = ()
    similar: tuple[tuple[int, int, float], ...] = ()
    template: int = 0


@dataclass(frozen=True, slots=True)
class Material:
    """What the checks look at.

    ``examples`` are all of the training file, in its order; ``split`` is what they became, or, where nothing was split
    off, all of them as train; ``copies`` are those among ``examples``.
    """

    data: Data
    task_kind: str
    examples: tuple[Example, ...]
    split: Split
    copies: Copies


def parts(example: Example) -> list[str]:
    """The texts of an example: its text, or its messages but the system's, which are often the same in all."""
    if example.text is not None:
        return [example.text]
    return [m.content for m in (*example.messages, *example.rejected) if m.role != "system"]


def rows_of(examples: Iterable[Example]) -> tuple[int, ...]:
    """Line numbers, where the sources have them, in the order given."""
    lines = (example.source.rpartition(":")[2] for example in examples)
    return tuple(int(line) for line in lines if line.isdecimal())


def shown(text: str) -> str:
    """A text on one line, cut, without personal information and what a terminal would act on."""
    plain = " ".join(masked(text[: 4 * CUT]).split())
    words = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain)
    return words if len(words) <= CUT else words[: CUT - 1] + "…"


def finding(
    check: str,
    severity: Severity,
    examples: Sequence[Example],
    message: str,
    fix: str,
    notes: Sequence[str] = (),
    pairs: tuple[tuple[str, str, float], ...] = (),
) -> list[Finding]:
    """One finding of these examples, or none where there are none; ``notes`` say of each what to show instead of it."""
    if not examples:
        return []
    named = [f"{e.source} “{shown(notes[i] if notes else ' '.join(parts(e)))}”" for i, e in enumerate(examples[:SHOWN])]
    rows = rows_of(examples)
    return [Finding(check, severity, len(examples), message, rows=rows, examples=tuple(named), fix=fix, pairs=pairs)]
