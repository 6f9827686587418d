"""Rows of a table: typed cells, and their rendering as text by a template.

Each cell is typed by itself, never by its column: then a row is the same example whatever other rows are there.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.read.cells import RowError, number_text, read_scalar
from tunesmith.errors import DataError
from tunesmith.records import Example

Cell = str | float | None
MISSING = "missing"  # how a cell without a value reads in a text
EXACT = 2**53  # integers from here on are not all floats; such digits are a name, not an amount
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


def read_cell(value: Any, column: str) -> Cell:
    """A number, a text, or None where there is none.

    Text that reads as a decimal number is one, but '007', '1,5' and '+1' stay text. Missing are null, NaN, and text
    of nothing but white space; any other sign for it, such as '?', is text like the rest.

    Raises:
        RowError: If it is an infinity, a list or an object.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return read_scalar(value.strip(), column)
    if isinstance(value, bool):
        return read_scalar(value, column)
    if isinstance(value, str | int | float):
        number = float(value) if not isinstance(value, int) or abs(value) < EXACT else float("inf")
        if abs(number) < EXACT:
            return number
        if not isinstance(value, float):
            return str(value).strip()
        if abs(number) != float("inf"):
            return number
        raise RowError(f"'{column}' is infinite; expected a finite number, a text, or nothing", column)
    raise RowError(f"'{column}' is of type {type(value).__name__}; expected a number or a text", column)


def cell_text(value: Cell) -> str:
    """A cell as it stands in a text: 39.0 → '39'; what is missing, in a word."""
    if value is None:
        return MISSING
    return number_text(value) if isinstance(value, float) else value


def render(columns: Sequence[tuple[str, Cell]], template: str) -> str:
    """A row as text: ``names`` ('age: 39', a line each), ``sentence`` ('The age is 39.'), or a text with {column}s."""
    if template == "names":
        return "\n".join(f"{name}: {cell_text(value)}" for name, value in columns)
    if template == "sentence":
        return " ".join(f"The {name} is {cell_text(value)}." for name, value in columns)
    return fill(template, {name: cell_text(value) for name, value in columns})


def arranged(example: Example, columns: Sequence[str], template: str) -> Example:
    """A row of another file with these columns in this order, as a model was trained on them; more are left out.

    Raises:
        DataError: If it lacks one.
    """
    cells = dict(example.columns)
    missing = [column for column in columns if column not in cells]
    if missing:
        raise DataError(
            f"{example.source}: the model was trained on columns that are not there: {', '.join(missing)}. Found are "
            f"{', '.join(cells) or 'none'}. Rename them."
        )
    chosen = tuple((column, cells[column]) for column in columns)
    return replace(example, columns=chosen, text=render(chosen, template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values where the template has their names in braces; ``{{`` stands for a brace. Each name must be there."""
    parts = string.Formatter().parse(template)
    return "".join(text + (values[name] if name is not None else "") for text, name, _, _ in parts)


def template_columns(template: str, setting: str, columns: Sequence[str], name: str) -> list[str]:
    """The columns that a template names.

    Raises:
        DataError: If it is no template, or names what ``columns`` of the file ``name`` do not have.
    """
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise DataError(
            f"{name}: {setting} is '{template}', whose braces do not pair ({error}). Write {{{{ for one that is meant."
        ) from error
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise DataError(f"{name}: {setting} is '{template}'; expected just a column's name between braces.")
    named = [str(field) for _, field, _, _ in parts]
    unknown = [f"'{field}'" for field in dict.fromkeys(named) if field not in columns]
    if unknown:
        known = ", ".join(f"'{column}'" for column in columns)
        raise DataError(f"{name}: {setting} names {', '.join(unknown)}, but the columns are {known}. Correct the name.")
    return named
