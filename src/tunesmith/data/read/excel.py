"""Excel and OpenDocument workbooks: one sheet, whose first row names the columns."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from tunesmith.data.read.rows import BadRow, Row, open_bytes
from tunesmith.errors import DataError, MissingExtraError

SIZE_LIMIT_BYTES = 2**28  # of the file, and eight times that unpacked: a workbook is read whole


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (row number in the sheet, columns or BadRow); rows without any value are passed over.

    Dates become texts as ISO 8601 writes them. Of a formula its last computed value counts.

    Raises:
        MissingExtraError: If python-calamine is not installed.
        DataError: If it is no workbook, is damaged, locked or too large; if not exactly one sheet holds rows; if the
            first row does not name the columns.
    """
    sheet, rows = _only_sheet(path, _read_whole(path))
    number, header = next((i, row) for i, row in enumerate(rows, 1) if _filled(row))
    names = [str(_plain(cell)).strip() for cell in header]
    given = [name for name in names if name]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise DataError(
            f"{path.name}: the columns {', '.join(twice)} stand twice in row {number} of '{sheet}'. Keep one."
        )
    for line, row in enumerate(rows[number:], number + 1):
        if not _filled(row):
            continue
        stray = next((i for i, cell in enumerate(row) if cell != "" and (i >= len(names) or not names[i])), None)
        if stray is not None:
            yield line, BadRow(line, f"a value in column {stray + 1}, which row {number} gives no name")
            continue
        yield line, {name: _plain(cell) for name, cell in zip(names, row, strict=False) if name}


def _read_whole(path: Path) -> bytes:
    with open_bytes(path) as file:
        data = file.read(SIZE_LIMIT_BYTES + 1)
    limit = SIZE_LIMIT_BYTES
    size = len(data)
    if size <= limit and zipfile.is_zipfile(io.BytesIO(data)):
        limit = 8 * SIZE_LIMIT_BYTES
        try:
            size = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{path.name}: not a whole workbook ({error}). Save it again.") from error
    if size > limit:
        raise DataError(f"{path.name}: more than {limit >> 20} MiB; a workbook is read whole. Save the sheet as CSV.")
    return data


def _only_sheet(path: Path, data: bytes) -> tuple[str, list[list[Any]]]:
    try:
        import python_calamine
    except ImportError as error:
        raise MissingExtraError(
            f"{path.name}: a workbook needs python-calamine. Install it with: pip install 'tunesmith[excel]'"
        ) from error
    try:
        book = python_calamine.load_workbook(io.BytesIO(data))
        sheets = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    except python_calamine.PasswordError as error:
        raise DataError(f"{path.name}: locked with a password. Save it without one.") from error
    except BaseException as error:  # a panic of the parser, on a damaged file, is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{path.name}: not a whole workbook ({why}). Save it again, or as CSV.") from error
    used = {name: rows for name, rows in sheets.items() if any(_filled(row) for row in rows)}
    if len(used) != 1:
        found = f"{len(used)} sheets hold rows ({', '.join(used)})" if used else "no sheet holds rows"
        raise DataError(f"{path.name}: {found}; expected one. Save the sheet that is meant as a file of its own.")
    return next(iter(used.items()))


def _filled(row: list[Any]) -> bool:
    return any(cell != "" for cell in row)


def _plain(cell: Any) -> Any:
    """What a cell holds, dates as text."""
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, timedelta) else cell
