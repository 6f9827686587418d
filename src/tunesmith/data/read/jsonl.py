"""JSON Lines: one object per line; and a .json file with one list of objects, bare or under one key."""

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
    """Yield (line, object or BadRow) of a .json file that holds one list, bare or under a key of one object.

    Any other is read as JSON Lines. What stands beside the list is passed over. ``columns`` name the values of rows
    that are lists themselves.

    Raises:
        DataError: If the list is broken: where one item ends and the next begins is then not known; or if several
            keys hold lists of objects.
    """
    with open_bytes(path) as file:
        start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
        is_list = start.startswith(b"[")
        data = file.read(LIST_LIMIT_BYTES + 1) if is_list or (start.startswith(b"{") and not _is_lines(path)) else b""
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
    if is_list:
        yield from _items(text, text.index("["), path.name, columns)
        return
    place = _nested(text, path.name, columns)
    if place is not None:
        yield from _items(text, place, path.name, columns)
    else:
        yield 1, parse_object(text, 1, columns)


def _is_lines(path: Path) -> bool:
    """Whether a file that begins with an object is JSON Lines: one line ends like an object, the next begins so."""
    with open_bytes(path) as file:
        filled = (data or b"{}" for _, _, data in read_lines(file) if data is None or data.strip())
        return next(filled, b"").rstrip().endswith(b"}") and next(filled, b"").lstrip().startswith((b"{", b"["))


def _nested(text: str, name: str, columns: Sequence[str]) -> int | None:
    """Where the list of rows under a key begins; None if the object is a row itself.

    Raises:
        DataError: If the object is broken, or several keys hold lists of rows.
    """
    found: list[int] = []
    counts: list[str] = []
    try:
        for key, place, value in _members(text):
            if _holds_rows(value, columns):
                found.append(place)
                counts.append(f"'{key}' ({len(value):,})")
    except (ValueError, RecursionError) as error:
        raise _broken(name, error) from error
    if len(counts) > 1:
        raise DataError(
            f"{name}: several keys hold lists of rows: {', '.join(counts)}; expected one. Write the list that is "
            "meant to a file of its own."
        )
    return found[0] if found else None


def _broken(place: str, error: ValueError | RecursionError) -> DataError:
    """Why a value cannot be read; a syntax error knows its own line and column."""
    if isinstance(error, json.JSONDecodeError):
        return DataError(
            f"{place} line {error.lineno} column {error.colno}: broken JSON: {error.msg}. "
            "Mend it, or write one object per line as .jsonl, so that the other rows can be read."
        )
    why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{place}: broken JSON: {why}.")


def _members(text: str) -> Iterator[tuple[str, int, Any]]:
    """Each key of the object that the text is, where its value begins, and the value."""
    at = _skip(text, text.index("{") + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("expected a key in double quotes", text, at)
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("expected ':' after a key", text, at)
        place = _skip(text, at + 1)
        value, at = _DECODER.raw_decode(text, place)
        yield key, place, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise json.JSONDecodeError("expected ',' or '}' after a value", text, at)
    if _skip(text, at + 1) < len(text):
        raise json.JSONDecodeError("more after the object's end", text, _skip(text, at + 1))


def _holds_rows(value: Any, columns: Sequence[str]) -> bool:
    """Whether a value is a list of rows; a list of turns is a conversation, which is part of one row."""
    if not isinstance(value, list) or not value:
        return False
    if columns and isinstance(value[0], list):
        return True
    return isinstance(value[0], dict) and not ({"role", "content"} <= value[0].keys() or "from" in value[0])


def _skip(text: str, at: int) -> int:
    """The next place that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _items(text: str, start: int, name: str, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of the list that begins at ``start``."""
    position, line, counted = _skip(text, start + 1), 1, 0
    while position < len(text) and text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            row, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _broken(name, error) from error
        except (ValueError, RecursionError) as error:
            raise _broken(f"{name} line {line}", error) from error
        yield line, _named(row, line, columns)
        position = _skip(text, end)
        if position < len(text) and text[position] == ",":
            position = _skip(text, position + 1)
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
