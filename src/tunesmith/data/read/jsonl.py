"""JSON Lines: one object per line; and a .json file with one list of objects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tunesmith.data.read.rows import BadRow, Row, not_utf8, open_bytes, read_lines, too_long
from tunesmith.errors import DataError

LIST_LIMIT_BYTES = 2**30  # a list is read whole; JSON Lines have no such limit


class _Refused(ValueError):
    """JSON that a parser takes and a training set must not."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _Refused(f"the key '{twice}' stands twice in one object; keep one")
    return row


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON; write null, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_object(text: str, line: int, columns: Sequence[str] = ()) -> dict[str, Any] | BadRow:
    """One JSON object, or a list whose values ``columns`` names, or why it is neither."""
    try:
        row = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        column = error.colno if error.lineno == 1 else 1
        return BadRow(line, f"broken JSON at column {column}: {error.msg}")
    except _Refused as error:
        return BadRow(line, str(error))
    except RecursionError:
        return BadRow(line, "broken JSON: nested too deeply")
    except ValueError as error:  # an integer of more digits than Python converts
        return BadRow(line, f"broken JSON: {error}")
    return _named(row, line, columns)


def _named(row: Any, line: int, columns: Sequence[str]) -> dict[str, Any] | BadRow:
    if isinstance(row, dict):
        return row
    if not isinstance(row, list):
        return BadRow(line, f'a JSON {_name(row)}; expected an object such as {{"messages": [...]}}')
    if not columns:
        return BadRow(line, "a JSON list; expected an object, or names for the list's values in data.columns")
    if len(row) != len(columns):
        return BadRow(line, f"a list of {len(row)} values; data.columns names {len(columns)}")
    return dict(zip(columns, row, strict=True))


def read_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield (line, object or BadRow) of JSON Lines; empty lines are passed over. ``columns`` name lists' values."""
    with open_bytes(path) as file:
        for line, offset, data in read_lines(file):
            if data is None:
                yield line, too_long(line)
                continue
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                yield line, not_utf8(line, offset + error.start + 1)
                continue
            if text.strip():
                yield line, parse_object(text.rstrip("\r\n"), line, columns)


def read_list_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield (line, object or BadRow) of a .json file that holds one list; any other is read as JSON Lines.

    ``columns`` name the values of rows that are lists themselves.

    Raises:
        DataError: If the list is broken: where one item ends and the next begins is then not known.
    """
    with open_bytes(path) as file:
        start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
        data = file.read(LIST_LIMIT_BYTES + 1) if start.startswith(b"[") else b""
    if not data:
        yield from read_rows(path, columns)
        return
    if len(data) > LIST_LIMIT_BYTES:
        raise DataError(f"{path.name}: a JSON list over 1 GiB. Write one object per line, as .jsonl.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name} line {line}: {not_utf8(line, error.start + 1).reason}.") from error
    yield from _items(text, path.name, columns)


def _items(text: str, name: str, columns: Sequence[str]) -> Iterator[Row]:
    space = " \t\r\n"
    position, line, counted = text.index("[") + 1, 1, 0

    def skip(at: int) -> int:
        while at < len(text) and text[at] in space:
            at += 1
        return at

    position = skip(position)
    while position < len(text) and text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            row, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name} line {error.lineno} column {error.colno}: broken JSON: {error.msg}. "
                "Mend it, or write one object per line as .jsonl, so that the other rows can be read."
            ) from error
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise DataError(f"{name} line {line}: broken JSON: {why}.") from error
        yield line, _named(row, line, columns)
        position = skip(end)
        if position < len(text) and text[position] == ",":
            position = skip(position + 1)
        elif position < len(text) and text[position] != "]":
            line += text.count("\n", counted, position)
            raise DataError(f"{name} line {line}: broken JSON: expected ',' or ']' after an item.")
    if position >= len(text):
        raise DataError(f"{name}: broken JSON: the list is not closed; is the file cut off?")


def _name(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (str, "string"),
        (type(None), "null"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "number")
