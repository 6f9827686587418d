"""How a row is laid out: recognised from its columns, and turned into messages or into text and label.

chat               {"messages": [{"role", "content", "weight"?}, …]}          OpenAI's fine-tuning files
sharegpt           {"conversations": [{"from", "value"}, …]}
prompt_completion  {"prompt", "completion"}: strings, or lists of messages
alpaca             {"instruction", "input"?, "output"}
evals              {"input": string or messages, "ideal": string or list}
columns            any other: one column with the text, one with the label (or the answer)
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import ROLES, Example, Message

REQUIRED = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "evals": ("input", "ideal"),
}
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "system": "system", "tool": "tool", "observation": "tool",
}  # fmt: skip
TEXT_NAMES = (
    "text", "sentence", "content", "message", "review", "question", "headline", "input", "utterance", "query",
    "prompt", "comment", "tweet", "document", "instruction",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "category", "class", "target", "intent", "ideal", "sentiment")
ANSWER_NAMES = (
    "answer",
    "output",
    "completion",
    "response",
    "target",
    "ideal",
    "label",
    "summary",
    "translation",
)


class RowError(ValueError):
    """Why one row cannot be used; ``column`` is where, if one column is to blame."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one file are read. ``text`` and ``label`` are set for the format ``columns`` only."""

    format: str
    task_kind: str
    text: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """One example, and what reading it left out or changed: names of notes, see ``NOTES`` in the reader."""

    example: Example
    instruction: str | None = None
    notes: tuple[str, ...] = ()


def recognise(
    rows: Sequence[dict[str, Any]],
    name: str,
    task_kind: str,
    format: str = "auto",
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
) -> Layout:
    """Say how a file is laid out from its first rows; a named text or label column means plain columns.

    Raises:
        DataError: If a named column is not there, or which column is which cannot be told.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for setting, column in (("text", text), ("label", label), ("group", group)):
        if column is not None and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise DataError(f"{name}: data.{setting} is '{column}', but the columns are {_names(columns)}.{hint}")
    if format == "auto":
        fitting = (kind for kind, required in REQUIRED.items() if all(column in columns for column in required))
        format = "columns" if text or label else next(fitting, "columns")
    elif format in REQUIRED:
        missing = [column for column in REQUIRED[format] if column not in columns]
        if missing:
            raise DataError(
                f"{name}: data.format is '{format}', which needs {_names(REQUIRED[format])}; "
                f"the columns are {_names(columns)}. Leave data.format out to have it recognised."
            )
        if text or label:
            raise DataError(f"{name}: data.text and data.label belong to format 'columns', not to '{format}'.")
    if format != "columns":
        return Layout(format, task_kind, group=group)
    label = label or _find_label(columns, name, task_kind, {text, group})
    text = text or _find_text(rows, columns, name, {label, group})
    if text == label:
        raise DataError(f"{name}: '{text}' cannot be both the text and the label. Set data.text and data.label.")
    return Layout("columns", task_kind, text, label, group)


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"'{column}'" for column in columns) or "none"


def _find_label(columns: list[str], name: str, task_kind: str, taken: set[str | None]) -> str:
    known = LABEL_NAMES if task_kind == "classification" else ANSWER_NAMES
    free = [column for column in columns if column not in taken]
    found = [column for column in free if column.lower() in known]
    if not found and len(columns) == 2:  # with one column known, the other is the label
        texts = [column for column in columns if column in taken or column.lower() in TEXT_NAMES]
        found = [column for column in free if len(texts) == 1 and column != texts[0]]
    if len(found) == 1:
        return found[0]
    what = "label" if task_kind == "classification" else "answer"
    which = f"{_names(found)} could each be it" if found else f"none of {_names(columns)} is known as one"
    raise DataError(f"{name}: which column holds the {what}? {which}. Say so with 'data.label: COLUMN'.")


def _find_text(rows: Sequence[dict[str, Any]], columns: list[str], name: str, taken: set[str | None]) -> str:
    free = [column for column in columns if column not in taken]
    found = [column for column in free if column.lower() in TEXT_NAMES]
    if not found:
        found = [c for c in free if any(row.get(c) for row in rows) and all(_is_text(row.get(c)) for row in rows)]
    if len(found) == 1:
        return found[0]
    which = f"{_names(found)} could each be it" if found else f"none of {_names(columns)} holds text"
    raise DataError(f"{name}: which column holds the text? {which}. Say so with 'data.text: COLUMN'.")


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


# ── one row ──────────────────────────────────────────────────────────────────────────────────────────────
def parse_row(row: dict[str, Any], layout: Layout, source: str) -> Parsed:
    """Turn a row into an example.

    Raises:
        RowError: If it cannot be one, with the reason.
    """
    group = row.get(layout.group) if layout.group else None
    group = None if group is None or group == "" else _scalar(group, layout.group or "")
    if layout.format == "columns":
        return _from_columns(row, layout, source, group)
    notes: list[str] = []
    if row.get("tools") or row.get("functions"):
        notes.append("tools")
    messages = _MAKERS[layout.format](row, notes)
    if layout.format == "alpaca" and layout.task_kind == "classification" and len(messages) == 2 and row.get("input"):
        messages = (Message("system", row["instruction"]), Message("user", row["input"]), messages[1])
    _check_conversation(messages)
    if layout.task_kind != "classification":
        return Parsed(Example(source, messages=messages, group=group), notes=tuple(notes))
    *shown, answer = messages
    asked = [m for m in shown if m.role == "user"]
    if not asked:
        raise RowError("no user message to classify")
    if len([m for m in shown if m.role != "system"]) > 1:
        notes.append("context")
    system = [m.content for m in shown if m.role == "system"]
    example = Example(source, text=asked[-1].content, label=answer.content.strip(), group=group)
    return Parsed(example, "\n\n".join(system) or None, tuple(notes))


def _from_columns(row: dict[str, Any], layout: Layout, source: str, group: str | None) -> Parsed:
    text_column, label_column = layout.text or "", layout.label or ""
    text = _text(row.get(text_column), text_column)
    if layout.task_kind == "classification":
        label = _scalar(row.get(label_column), label_column).strip()
        if not label:
            raise RowError(f"'{label_column}' is empty; expected a label", label_column)
        return Parsed(Example(source, text=text, label=label, group=group))
    answer = _text(row.get(label_column), label_column)
    return Parsed(Example(source, messages=(Message("user", text), Message("assistant", answer)), group=group))


def _text(value: Any, column: str) -> str:
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


def _scalar(value: Any, column: str) -> str:
    """A label or group as text: 1 → '1', 1.0 → '1', true → 'true'."""
    if isinstance(value, str):
        return _whole(value, column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            raise RowError(f"'{column}' is not a number (NaN); expected a label", column)
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    kind = "missing or null" if value is None else f"of type {type(value).__name__}"
    raise RowError(f"'{column}' is {kind}; expected a label", column)


def _message(value: Any, number: int, notes: list[str]) -> Message:
    where = f"message {number}"
    if not isinstance(value, dict):
        raise RowError(f"{where} is of type {type(value).__name__}; expected an object with role and content")
    role = value.get("role")
    if role == "developer":  # the newer name of the same role
        role = "system"
    if role not in ROLES:
        raise RowError(f"{where} has role {_shown(role)}. Roles are {', '.join(ROLES)}.")
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
        raise RowError(f"{where} has weight {_shown(weight)}; expected 0 or 1")
    if calls and not content.strip():
        weight = 0  # only text is trained
    if not content.strip() and (role == "user" or (role == "assistant" and weight)):
        raise RowError(f"{where} ({role}) is empty; expected text")
    return Message(role, _whole(content, where), float(weight))


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RowError(f"{where} has a content part {_shown(kind)}; only parts of type 'text' can be used")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def _messages(value: Any, column: str, notes: list[str]) -> tuple[Message, ...]:
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


def _check_conversation(messages: tuple[Message, ...]) -> None:
    if not any(m.role == "assistant" for m in messages):
        raise RowError("no assistant message; there is nothing to learn")
    if messages[-1].role != "assistant":
        raise RowError(f"the last message has role '{messages[-1].role}'; expected the assistant's answer last")
    if not messages[-1].content.strip():
        raise RowError("the last assistant message holds no text")
    if not any(m.weight for m in messages if m.role == "assistant"):
        raise RowError("every assistant message has weight 0; there is nothing to learn")
    if len(messages) == 1:
        raise RowError("an assistant message alone; expected a message before it")


def _chat(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    return _messages(row.get("messages"), "messages", notes)


def _sharegpt(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise RowError(f"'conversations' is of type {type(turns).__name__}; expected a list", "conversations")
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise RowError(f"turn {number} is of type {type(turn).__name__}; expected an object with from and value")
        sender = turn.get("from")
        role = SHAREGPT_ROLES.get(sender) if isinstance(sender, str) else None
        if role is None:
            raise RowError(f"turn {number} is from {_shown(sender)}. Known are {', '.join(SHAREGPT_ROLES)}.")
        messages.append({"role": role, "content": turn.get("value"), "weight": turn.get("weight")})
    return _messages(messages, "conversations", notes)


def _prompt_completion(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list | dict):
        shown = _shown_only(_messages(prompt, "prompt", notes))
    else:
        shown = (Message("user", _text(prompt, "prompt")),)
    if isinstance(completion, list | dict):
        return shown + _messages(completion, "completion", notes)
    return (*shown, Message("assistant", _text(completion, "completion")))


def _shown_only(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Assistant turns inside a prompt are examples to look at, not answers to learn."""
    return tuple(replace(m, weight=0.0) if m.role == "assistant" else m for m in messages)


def _alpaca(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    asked = _text(row.get("instruction"), "instruction")
    if row.get("input") not in (None, ""):
        asked = f"{asked}\n\n{_text(row['input'], 'input')}"
    return (Message("user", asked), Message("assistant", _text(row.get("output"), "output")))


def _evals(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    asked, ideal = row.get("input"), row.get("ideal")
    if isinstance(ideal, list):
        if len(ideal) > 1:
            notes.append("ideals")
        ideal = ideal[0] if ideal else None
    answer = Message("assistant", _text(ideal if _is_text(ideal) else _scalar(ideal, "ideal"), "ideal"))
    if isinstance(asked, list | dict):
        return (*_shown_only(_messages(asked, "input", notes)), answer)
    return (Message("user", _text(asked, "input")), answer)


_MAKERS = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "evals": _evals,
}
