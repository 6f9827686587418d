"""CSV and TSV with a header line, or with names given; quotes as spreadsheets and pandas write them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from tunesmith.data.read.rows import LINE_LIMIT_BYTES, BadRow, Row, not_utf8, open_bytes, read_lines, too_long
from tunesmith.errors import DataError


def read_csv_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield (line where the row starts, columns or BadRow). A header without commas may use semicolons.

    ``columns`` are the names where the file has no header line.
    """
    with open_bytes(path) as file:
        head = file.peek(1)[: 1 << 16].split(b"\n", 1)[0]  # type: ignore[attr-defined]
        yield from _rows(file, path.name, ";" if b";" in head and b"," not in head else ",", columns)


def read_tsv_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield (line where the row starts, columns or BadRow). ``columns`` are the names where there is no header.

    Many TSV files quote nothing, and a quote at the start of a field is just one. Where quotes do not pair within
    their fields, and each line has as many fields as the first, quotes are taken as they stand.
    """
    literal = _quotes_are_literal(path)
    with open_bytes(path) as file:
        yield from _rows(file, path.name, "\t", columns, csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL)


def _quotes_are_literal(path: Path) -> bool:
    loose, width = False, 0
    with open_bytes(path) as file:
        for _, _, data in read_lines(file):
            fields = (data or b"").rstrip(b"\r\n").split(b"\t")
            if fields == [b""]:
                continue
            if len(fields) != (width := width or len(fields)):
                return False
            loose = loose or any(field.startswith(b'"') and not _QUOTED.fullmatch(field) for field in fields)
    return loose


_QUOTED = re.compile(rb'"(?:[^"]|"")*"')


class _Lines:
    """Lines as text for the csv module, which remember where the bytes were not text."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = read_lines(file)
        self.bad: list[BadRow] = []

    def __iter__(self) -> Iterator[str]:
        for number, offset, data in self._lines:
            if data is None:
                self.bad.append(too_long(number))
                yield "\n"
                continue
            try:
                yield data.decode("utf-8")
            except UnicodeDecodeError as error:
                self.bad.append(not_utf8(number, offset + error.start + 1))
                yield data.decode("utf-8", "replace")


def _rows(
    file: BinaryIO, name: str, delimiter: str, columns: Sequence[str], quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[Row]:
    csv.field_size_limit(LINE_LIMIT_BYTES)  # the module's only setting that is global; 128 KiB otherwise
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    header: list[str] | None = list(columns) or None
    where = "data.columns" if columns else "the header"
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"{name} line {line}: the header cannot be read ({error}).") from error
            lines.bad.clear()
            reason = "a quoted field is never closed" if "unexpected end" in str(error) else str(error)
            yield line, BadRow(line, f"broken quoting: {reason}; quotes inside a quoted field are doubled")
            continue
        if lines.bad:
            first = lines.bad[0]
            lines.bad.clear()
            if header is None:
                raise DataError(f"{name} line {first.line}: {first.reason}.")
            yield line, BadRow(line, first.reason)
        elif not fields:
            continue
        elif header is None:
            header = _header(fields, name, line)
        elif line == 1 and [field.strip() for field in fields] == header:
            continue  # data.columns says again what the header does
        elif len(fields) != len(header):
            yield line, BadRow(line, f"{len(fields)} fields; {where} has {len(header)}")
        else:
            yield line, dict(zip(header, fields, strict=True))


def _header(fields: list[str], name: str, line: int) -> list[str]:
    header = [field.strip() for field in fields]
    problems = [f"column {i} has no name" for i, field in enumerate(header, 1) if not field]
    problems += [f"'{field}' stands {n} times" for field, n in Counter(header).items() if n > 1 and field]
    if problems:
        raise DataError(f"{name} line {line}: in the header, {'; '.join(problems)}. Give each column its own name.")
    return header
