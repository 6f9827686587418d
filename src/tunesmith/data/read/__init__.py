"""Reads examples from a file: one reader per kind of file, every bad row reported, and counts that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from tunesmith.data.read import delimited, jsonl, parquet
from tunesmith.data.read.formats import Layout, Parsed, RowError, parse_row, recognise
from tunesmith.data.read.rows import BadRow, Row
from tunesmith.errors import DataError, NotFoundError
from tunesmith.records import Example, Finding

__all__ = ["BadRow", "ReadResult", "read_examples", "read_rows"]

READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": jsonl.read_rows,
    ".ndjson": jsonl.read_rows,
    ".json": jsonl.read_list_rows,
    ".csv": delimited.read_csv_rows,
    ".tsv": delimited.read_tsv_rows,
    ".parquet": parquet.read_rows,
}
FIRST_ROWS = 100  # from which the format and the columns are recognised
LISTED = 50  # bad rows printed; all of them are counted

NOTES: dict[str, tuple[Literal["warning", "info"], str, str]] = {
    "tools": (
        "warning",
        "tools_ignored",
        "tool definitions or calls are left out: only text is learned; a mere call carries no loss.",
    ),
    "context": (
        "warning",
        "context_ignored",
        "a conversation has turns before the last user message; classification uses that message only.",
    ),
    "ideals": ("info", "further_answers_ignored", "several right answers are given; the first one is used."),
}


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What one file held: ``rows == len(examples) + len(bad)``, always.

    ``instruction`` is the system message of a classification file, where all rows bring the same one.
    """

    examples: tuple[Example, ...]
    rows: int
    bad: tuple[BadRow, ...]
    findings: tuple[Finding, ...]
    format: str
    file: str
    instruction: str | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (line, columns or BadRow) of a file, by its extension; ``.gz`` is unpacked on the way.

    Raises:
        NotFoundError: If the file is not there.
        DataError: If its kind is not known, or it is damaged as a whole.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file. Check the path, relative to the project file or to this folder.")
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected one file. Name the file inside it.")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else "".join(suffixes[-1:])
    if kind not in READERS:
        raise DataError(
            f"{path}: the extension '{kind}' is not known. Known are {', '.join(READERS)}, "
            "each also with .gz. Rename the file to what it holds."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    return READERS[kind](path)


def read_examples(
    path: Path,
    task_kind: str,
    *,
    format: str = "auto",
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    policy: str = "strict",
    name: str | None = None,
    part: Literal["train", "validation", "test"] = "train",
) -> ReadResult:
    """Read a file of examples.

    Args:
        path: A .jsonl, .json, .csv, .tsv or .parquet file, also with .gz.
        task_kind: ``classification`` makes examples with text and label, any other with messages.
        format: How a row is laid out, or ``auto``.
        text: Column with the input.
        label: Column with the label or the answer.
        group: Column naming what rows share.
        policy: ``strict`` refuses a file with bad rows; ``skip`` leaves them out and says so in a finding.
        name: How the file is called in messages and in ``Example.source``; its own name if left out.
        part: In ``train`` a label must occur at least twice, and at least two labels must occur.

    Raises:
        NotFoundError: If the file is not there.
        DataError: If the file is empty, of unknown kind or damaged; if a column cannot be told; under
            ``strict`` if any row is bad, all of them counted and the first 50 listed; if no row is usable.
    """
    name = name or path.name
    rows = read_rows(path)
    first = list(islice(rows, FIRST_ROWS))
    if not first:
        raise DataError(f"{name}: no rows. Expected one example per line.")
    layout = Layout("unknown", task_kind)
    if usable := [row for _, row in first if not isinstance(row, BadRow)]:
        layout = recognise(usable, name, task_kind, format, text, label, group)
    parsed: list[tuple[int, Parsed]] = []
    bad: list[BadRow] = []
    for line, row in chain(first, rows):
        if not isinstance(row, BadRow) and layout.format == "unknown":
            layout = recognise([row], name, task_kind, format, text, label, group)
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            parsed.append((line, parse_row(row, layout, f"{name}:{line}")))
        except RowError as error:
            bad.append(BadRow(line, str(error), error.column))
    total = len(parsed) + len(bad)
    if task_kind == "classification" and part == "train":
        parsed, lonely = _without_lonely_labels(parsed)
        bad = sorted(bad + lonely, key=lambda b: b.line)
    if bad and policy == "strict":
        raise DataError(f"{_listed(bad, total, name)}\nMend them, or leave them out with 'data.policy: skip'.")
    if not parsed:
        raise DataError(f"{_listed(bad, total, name)}\nNo row is left to use.")
    examples = tuple(item.example for _, item in parsed)
    labels = {example.label for example in examples}
    if task_kind == "classification" and part == "train" and len(labels) < 2:
        raise DataError(
            f"{name}: every row has the label '{labels.pop()}'; expected at least two labels. "
            "Is data.label the right column?"
        )
    instructions = {item.instruction for _, item in parsed}
    findings = [*_skipped(bad, total, name), *_noted(parsed, name)]
    if len(instructions) > 1:
        findings.append(_mixed_instructions(parsed, name))
    instruction = instructions.pop() if len(instructions) == 1 else None
    return ReadResult(examples, total, tuple(bad), tuple(findings), layout.format, name, instruction)


def _without_lonely_labels(parsed: list[tuple[int, Parsed]]) -> tuple[list[tuple[int, Parsed]], list[BadRow]]:
    counts = Counter(item.example.label for _, item in parsed)
    lonely = [
        BadRow(line, f"the label '{item.example.label}' occurs once; expected two or more rows of each label")
        for line, item in parsed
        if counts[item.example.label] == 1
    ]
    return [(line, item) for line, item in parsed if counts[item.example.label] > 1], lonely


def _listed(bad: list[BadRow], total: int, name: str) -> str:
    lines = [f"{name}: {len(bad):,} of {total:,} rows cannot be used."]
    lines += [f"  {name} line {b.line}: {b.reason}" for b in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  … and {len(bad) - LISTED:,} more")
    return "\n".join(lines)


def _skipped(bad: list[BadRow], total: int, name: str) -> list[Finding]:
    if not bad:
        return []
    return [
        Finding(
            "bad_rows",
            "warning",
            len(bad),
            f"{name}: {len(bad):,} of {total:,} rows cannot be used and were left out.",
            rows=tuple(b.line for b in bad),
            examples=tuple(f"line {b.line}: {b.reason}" for b in bad[:LISTED]),
            fix="Mend the rows; with 'data.policy: strict' nothing is left out.",
        )
    ]


def _noted(parsed: list[tuple[int, Parsed]], name: str) -> list[Finding]:
    findings = []
    for note, (severity, check, sentence) in NOTES.items():
        rows = tuple(line for line, item in parsed if note in item.notes)
        if rows:
            findings.append(Finding(check, severity, len(rows), f"{name}: in {len(rows):,} rows {sentence}", rows=rows))
    return findings


def _mixed_instructions(parsed: list[tuple[int, Parsed]], name: str) -> Finding:
    (usual, times), *_ = Counter(item.instruction for _, item in parsed).most_common(1)
    rows = tuple(line for line, item in parsed if item.instruction != usual)
    return Finding(
        "mixed_instructions",
        "warning",
        len(rows),
        f"{name}: the system message is not the same in all rows ({times:,} of {len(parsed):,} share one); "
        "for classification none of them is used.",
        rows=rows,
        fix="Set task.instruction to the one that is meant.",
    )
