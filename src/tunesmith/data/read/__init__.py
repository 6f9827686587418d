"""Reads examples from a file: one reader per kind of file, every bad row reported, and counts that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from tunesmith.data.read import arrow, delimited, excel, jsonl, parquet, po
from tunesmith.data.read.cells import RowError
from tunesmith.data.read.formats import LABELLED, Layout, Parsed, parse_row, recognise
from tunesmith.data.read.rows import BadRow, LeftOut, Row
from tunesmith.errors import DataError, NotFoundError
from tunesmith.records import LABEL_SEPARATOR, Example, Finding

__all__ = ["BadRow", "ReadResult", "read_examples", "read_rows"]

READERS = {
    ".jsonl": jsonl.read_rows,
    ".ndjson": jsonl.read_rows,
    ".json": jsonl.read_list_rows,
    ".csv": delimited.read_csv_rows,
    ".tsv": delimited.read_tsv_rows,
}
NAMED_READERS = {  # of files whose columns always have names
    ".parquet": parquet.read_rows,
    ".arrow": arrow.read_rows,
    ".feather": arrow.read_rows,
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), excel.read_rows),
    ".po": po.read_rows,
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
    "separated": (
        "info",
        "labels_separated",
        "labels stand in one text, told apart by ';' or else ','; give lists if a label holds such a sign.",
    ),
    "ideals": ("info", "further_answers_ignored", "several right answers are given; the first one is used."),
}


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What one source held: ``rows == len(examples) + len(bad)``, always.

    What a file itself sets aside, such as fuzzy translations, is no row; a finding counts it. ``instruction`` is the
    system message of a classification file, where all rows bring the same one.
    """

    examples: tuple[Example, ...]
    rows: int
    bad: tuple[BadRow, ...]
    findings: tuple[Finding, ...]
    format: str
    file: str
    instruction: str | None = None


def read_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield (line, columns or BadRow) of a file, by its extension; ``.gz`` is unpacked on the way.

    ``columns`` name the values of rows that bring no names: JSON lists, and CSV without a header line.

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
    if kind not in READERS and kind not in NAMED_READERS:
        raise DataError(
            f"{path}: the extension '{kind}' is not known. Known are {', '.join([*READERS, *NAMED_READERS])}, "
            "each also with .gz. Rename the file to what it holds."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if kind in READERS:
        return READERS[kind](path, columns)
    if columns:
        raise DataError(f"{path}: data.columns is given, but a {kind} file names its own. Remove data.columns.")
    return NAMED_READERS[kind](path)


def read_examples(
    path: Path | Mapping[str, Path],
    task_kind: str,
    *,
    format: str = "auto",
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    image: str | None = None,
    sensitive: Sequence[str] = (),
    columns: Sequence[str] = (),
    template: str = "names",
    policy: str = "strict",
    name: str | None = None,
    part: Literal["train", "validation", "test"] = "train",
) -> ReadResult:
    """Read a file of examples, or several files of one layout as if they were one.

    Args:
        path: A file of one of the kinds in ``READERS`` or ``NAMED_READERS``, also with .gz; or several by name.
        task_kind: ``classification``, ``multi_label`` and ``regression`` make examples with text and label, any
            other with messages.
        format: How a row is laid out, or ``auto``.
        text: Column with the input.
        label: Column with the label or the answer.
        group: Column naming what rows share.
        image: Column with an image's path, or such a path with {column}s; relative to the file's folder.
        sensitive: Columns with the group of each example, of which none is shown to a model; classification only.
        columns: Names for rows that bring none.
        template: How a row of a table becomes text: ``names``, ``sentence`` or a text with {column}s.
        policy: ``strict`` refuses a source with bad rows; ``skip`` leaves them out and says so in a finding.
        name: How the source is called in messages, and one file in ``Example.source``; its own name if left out.
        part: In ``train`` a class must occur at least twice, and at least two labels must occur.

    Raises:
        NotFoundError: If a file is not there.
        DataError: If a file is empty, of unknown kind or damaged; if a column cannot be told; under
            ``strict`` if any row is bad, all of them counted and the first 50 listed; if no row is usable.
        MissingExtraError: If the rows name images and Pillow is not installed.
    """
    files = {name or path.name: path} if isinstance(path, Path) else dict(path)
    name = name or next(iter(files))
    rows = _rows_of(files, columns)
    first = list(islice(rows, FIRST_ROWS))
    if not first:
        raise DataError(f"{name}: no rows. Expected one example per line.")
    layout = Layout("unknown", task_kind)
    parsed: list[tuple[int, Parsed]] = []
    bad: list[BadRow] = []
    aside: list[BadRow] = []
    usable = [row for _, _, row in first if not isinstance(row, BadRow)]
    for file, line, row in chain(first, rows):
        if isinstance(row, BadRow):
            (aside if isinstance(row, LeftOut) else bad).append(replace(row, file=file))
            continue
        if layout.format == "unknown":
            layout = recognise(usable or [row], name, task_kind, format, text, label, group, image, template, sensitive)
        try:
            parsed.append((line, parse_row(row, layout, f"{file}:{line}", files[file].parent)))
        except RowError as error:
            bad.append(BadRow(line, str(error), error.column, file))
    total = len(parsed) + len(bad)
    if task_kind == "classification" and part == "train":
        parsed, lonely = _without_lonely_labels(parsed)
        order = {file: i for i, file in enumerate(files)}
        bad = sorted(bad + lonely, key=lambda b: (order[b.file], b.line))
    if bad and policy == "strict":
        raise DataError(f"{_listed(bad, total, name)}\nMend them, or leave them out with 'data.policy: skip'.")
    if not parsed:
        raise DataError(f"{_listed(bad, total, name)}\nNo row is left to use.")
    examples = tuple(item.example for _, item in parsed)
    if task_kind in LABELLED and part == "train":
        _refuse_one_label(examples, task_kind, name)
        _refuse_one_group(examples, sensitive, name)
    instructions = {item.instruction for _, item in parsed}
    findings = [*_skipped(bad, total, name), *_set_aside(aside, name), *_noted(parsed, name)]
    if len(instructions) > 1:
        findings.append(_mixed_instructions(parsed, name))
    instruction = instructions.pop() if len(instructions) == 1 else None
    return ReadResult(examples, total, tuple(bad), tuple(findings), layout.format, name, instruction)


def _rows_of(files: Mapping[str, Path], columns: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any] | BadRow]]:
    for file, path in files.items():
        for line, row in read_rows(path, columns):
            yield file, line, row


def _refuse_one_label(examples: Sequence[Example], task_kind: str, name: str) -> None:
    labels = {example.label or "" for example in examples}
    what = "label"
    if task_kind == "multi_label":
        labels = {label for joined in labels for label in joined.split(LABEL_SEPARATOR) if label}
        if labels:  # one label is enough: a row has it or has it not
            return
        raise DataError(f"{name}: no row has a label; expected at least one. Is data.label the right column?")
    if task_kind == "regression":
        what = "number"
    if len(labels) < 2:
        raise DataError(
            f"{name}: every row has the {what} '{labels.pop()}'; expected at least two {what}s. "
            "Is data.label the right column?"
        )


def _refuse_one_group(examples: Sequence[Example], sensitive: Sequence[str], name: str) -> None:
    problems = []
    for column in sensitive:
        groups = {dict(example.sensitive).get(column) for example in examples} - {None}
        if len(groups) < 2:
            found = f"the one group '{groups.pop()}'" if groups else "no group in any row"
            problems.append(
                f"{name}: data.sensitive '{column}' holds {found}; expected at least two. Is it the right column?"
            )
    if problems:
        raise DataError("\n".join(problems))


def _without_lonely_labels(parsed: list[tuple[int, Parsed]]) -> tuple[list[tuple[int, Parsed]], list[BadRow]]:
    counts = Counter(item.example.label for _, item in parsed)
    lonely = [
        BadRow(
            line,
            f"the label '{item.example.label}' occurs once; expected two or more rows of each label",
            file=item.example.source.rpartition(":")[0],
        )
        for line, item in parsed
        if counts[item.example.label] == 1
    ]
    return [(line, item) for line, item in parsed if counts[item.example.label] > 1], lonely


def _listed(bad: list[BadRow], total: int, name: str) -> str:
    lines = [f"{name}: {len(bad):,} of {total:,} rows cannot be used."]
    lines += [f"  {b.file or name} line {b.line}: {b.reason}" for b in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  … and {len(bad) - LISTED:,} more")
    return "\n".join(lines)


def _skipped(bad: list[BadRow], total: int, name: str) -> list[Finding]:
    """Rows without a text, and rows that cannot be used for another reason."""
    empty = [
        row for row in bad if row.reason.endswith(("is empty; expected text", "is missing or null; expected text"))
    ]
    other = [row for row in bad if row not in empty]
    kinds = (("empty_text", empty, "have no text"), ("bad_rows", other, "cannot be used"))
    return [
        Finding(
            check,
            "warning",
            len(rows),
            f"{name}: {len(rows):,} of {total:,} rows {what} and were left out.",
            rows=tuple(row.line for row in rows),
            examples=tuple(f"{_place(row, name)}: {row.reason}" for row in rows[:LISTED]),
            fix="Mend the rows; with 'data.policy: strict' nothing is left out.",
        )
        for check, rows, what in kinds
        if rows
    ]


def _place(row: BadRow, name: str) -> str:
    return f"line {row.line}" if row.file in ("", name) else f"{row.file} line {row.line}"


def _set_aside(aside: list[BadRow], name: str) -> list[Finding]:
    if not aside:
        return []
    counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(Counter(row.reason for row in aside).items()))
    return [
        Finding(
            "entries_set_aside",
            "info",
            len(aside),
            f"{name}: {len(aside):,} entries are no rows, as the file itself says: {counts}.",
            rows=tuple(row.line for row in aside),
            examples=tuple(f"{_place(row, name)}: {row.reason}" for row in aside[:LISTED]),
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
