"""What one cell of a row may hold: a text, a label, several labels, a number, or a list of messages."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

from tunesmith.records import LABEL_SEPARATOR, ROLES, Message

SEPARATORS = (LABEL_SEPARATOR, ";", ",")  # between labels in one text; the first of them that occurs in it counts
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class RowError(ValueError):
    """Why one row cannot be used; ``column`` is where, if one column is to blame."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.column = column


def read_text(value: Any, column: str) -> str:
    """A text that is there and can be encoded."""
    if value is None:
        raise RowError(f"'{column}' is missing or null; expected text", column)
    if not isinstance(value, str):
        raise RowError(f"'{column}' is of type {type(value).__name__}; expected text", column)
    if not value.strip():
        raise RowError(f"'{column}' is empty; expected text", column)
    return _whole(value, column)


def _whole(value: str, column: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"'{column}' holds half a character (a lone surrogate) at {error.start + 1}", column) from error
    return value


def read_scalar(value: Any, column: str) -> str:
    """A label or group as text: 1 → '1', 1.0 → '1', true → 'true'."""
    if isinstance(value, str):
        return _whole(value, column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            raise RowError(f"'{column}' is not a number (NaN); expected a label", column)
        return number_text(value)
    if isinstance(value, int):
        return str(value)
    kind = "missing or null" if value is None else f"of type {type(value).__name__}"
    raise RowError(f"'{column}' is {kind}; expected a label", column)


def number_text(value: float) -> str:
    """A number as text that ``float`` reads back as the same: 39.0 → '39', 0.5 → '0.5'."""
    return str(int(value)) if value.is_integer() else repr(value)


def read_number(value: Any, column: str) -> float:
    """A finite number, or the text of one with a decimal point."""
    if value is None:
        raise RowError(f"'{column}' is missing or null; expected a number", column)
    number = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= sys.float_info.max:
        point = " with a decimal point" if isinstance(value, str) and "," in value else ""
        raise RowError(f"'{column}' is {shown(value)}; expected a finite number{point}, such as 1.5", column)
    return float(number)


def read_labels(value: Any, column: str, notes: list[str]) -> str:
    """Several labels, sorted and joined by ``LABEL_SEPARATOR``; '' for none.

    A list holds a label each, also as JSON in a text. Any other text is divided at the first of ``SEPARATORS`` that
    occurs in it.
    """
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise RowError(f"'{column}' looks like a list of labels but is broken JSON", column) from error
        else:
            sign = next((sign for sign in SEPARATORS if sign in value), LABEL_SEPARATOR)
            if sign in value and sign != LABEL_SEPARATOR:
                notes.append("separated")
            value = [part for part in value.split(sign) if part.strip()]
    elif isinstance(value, bool | int | float):
        value = [value]
    if not isinstance(value, list):
        kind = "missing or null" if value is None else f"of type {type(value).__name__}"
        raise RowError(f"'{column}' is {kind}; expected a list of labels, empty for none", column)
    labels = {read_scalar(item, column).strip() for item in value}
    if "" in labels:
        raise RowError(f"'{column}' holds an empty label; expected [] for none", column)
    for label in sorted(labels):
        if LABEL_SEPARATOR in label:
            raise RowError(f"'{column}' holds {shown(label)}; a label cannot hold '{LABEL_SEPARATOR}'", column)
    return LABEL_SEPARATOR.join(sorted(labels))


def _message(value: Any, number: int, notes: list[str]) -> Message:
    where = f"message {number}"
    if not isinstance(value, dict):
        raise RowError(f"{where} is of type {type(value).__name__}; expected an object with role and content")
    role = value.get("role")
    if role == "developer":  # the newer name of the same role
        role = "system"
    if role not in ROLES:
        raise RowError(f"{where} has role {shown(role)}. Roles are {', '.join(ROLES)}.")
    content = value.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    calls = bool(value.get("tool_calls") or value.get("function_call"))
    if calls:
        notes.append("tools")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise RowError(f"{where} has content of type {type(content).__name__}; expected text")
    weight = value.get("weight")
    if weight is None or role != "assistant":
        weight = 1
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError(f"{where} has weight {shown(weight)}; expected 0 or 1")
    if calls and not content.strip():
        weight = 0  # only text is trained
    if not content.strip() and (role == "user" or (role == "assistant" and weight)):
        raise RowError(f"{where} ({role}) is empty; expected text")
    return Message(role, _whole(content, where), float(weight))


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RowError(f"{where} has a content part {shown(kind)}; only parts of type 'text' can be used")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def read_messages(value: Any, column: str, notes: list[str]) -> tuple[Message, ...]:
    """A list of messages, one message, or a list as JSON in a text. ``notes`` gets what was left out."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list inside a CSV or Parquet cell
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"'{column}' looks like a list of messages but is broken JSON", column) from error
    if not isinstance(value, list):
        kind = "missing or null" if value is None else f"of type {type(value).__name__}"
        raise RowError(f"'{column}' is {kind}; expected a list of messages", column)
    return tuple(_message(item, i, notes) for i, item in enumerate(value, 1))
