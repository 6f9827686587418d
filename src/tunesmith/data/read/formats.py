"""How a row is laid out: recognised from its columns, and turned into messages or into text and label.

chat               {"messages": [{"role", "content", "weight"?}, …]}          OpenAI's fine-tuning files
sharegpt           {"conversations": [{"from", "value"}, …]}
prompt_completion  {"prompt", "completion"}: strings, or lists of messages
alpaca             {"instruction", "input"?, "output"}
evals              {"input": string or messages, "ideal": string or list}
preference         {"prompt"?, "chosen", "rejected"}, or OpenAI's: see preference.py
columns            any other: one column with the text, one with the label (or the answer)
table              each column but the label's, the group's and sensitive ones is a feature, or those of the template:
                   see table.py
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config import BY_LEXICON
from tunesmith.data.read import preference
from tunesmith.data.read.cells import (
    RowError,
    number_text,
    read_labels,
    read_messages,
    read_number,
    read_scalar,
    read_text,
    shown,
)
from tunesmith.data.read.images import locate_image
from tunesmith.data.read.table import read_cell, render, template_columns
from tunesmith.errors import DataError
from tunesmith.records import Example, Message

if TYPE_CHECKING:
    from tunesmith.data.lexicon import Lexicon

LABELLED = ("classification", "multi_label", "regression")  # tasks of a text (or an image) and a label
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
FURTHER_TEXT_NAMES = {"translation": ("source", "src", "source_text")}
FURTHER_LABEL_NAMES = {
    "multi_label": ("tags", "categories", "topics"),
    "regression": ("score", "value", "rating", "y"),
    "translation": ("tgt", "target_text"),
}
IMAGE_NAMES = ("image", "image_path", "file_name", "filename")
LANGUAGE = re.compile(r"(?!id\b)[a-z]{2}([-_][a-z]{2,4})?", re.IGNORECASE)  # 'id' is a column of another kind


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one file are read.

    ``text`` is set for the format ``columns``, ``label`` for that and for ``table``, ``features`` and ``template``
    for ``table`` only. ``image`` is a column, or a path with {column}s.
    """

    format: str
    task_kind: str
    text: str | None = None
    label: str | None = None
    group: str | None = None
    features: tuple[str, ...] = ()
    template: str = "names"
    image: str | None = None
    sensitive: tuple[str, ...] = ()


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
    image: str | None = None,
    template: str = "names",
    sensitive: Sequence[str] = (),
) -> Layout:
    """Say how a file is laid out from its first rows; a named text or label column means plain columns.

    Raises:
        DataError: If a named column is not there, which column is which cannot be told, or the layout is of another
            task.
    """
    rows = [_flat(row, task_kind) for row in rows]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    problems = [
        f"{name}: data.{setting} is '{column}', but the columns are {_names(columns)}.{_nearest(column, columns)}"
        for setting, column in (
            ("text", text),
            ("label", label),
            ("group", group),
            ("image", image),
            *(("sensitive", s) for s in sensitive if not s.startswith(BY_LEXICON)),
        )
        if column is not None and column not in columns and not (setting == "image" and "{" in column)
    ]
    if sensitive:
        problems += _unfit_as_sensitive(sensitive, name, task_kind, label, group)
    if image is not None and "{" in image:
        template_columns(image, "data.image", columns, name)
    if problems:
        raise DataError("\n".join(problems))
    if task_kind == "image_text" and image is None:
        image = _find_image(columns, name)
    if task_kind == "preference" or format == "preference":
        _check_preference(columns, name, task_kind, format, text, label)
        return Layout("preference", task_kind, group=group, image=image)
    if format == "table":
        return _table(columns, name, task_kind, text, label, group, template, tuple(sensitive))
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
        return Layout(format, task_kind, group=group, image=image, sensitive=tuple(sensitive))
    if task_kind == "translation" and not text and not label:
        text, label = _find_languages(columns) or (None, None)
    try:
        label = label or _find_label(columns, name, task_kind, {text, group, image, *sensitive})
    except DataError as error:
        problems.append(str(error))
    try:
        if not text and not (image and task_kind in LABELLED):  # an image with a label needs no text
            text = _find_text(rows, columns, name, task_kind, {label, group, image, *sensitive})
    except DataError as error:
        problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    if text == label:
        raise DataError(f"{name}: '{text}' cannot be both the text and the label. Set data.text and data.label.")
    return Layout("columns", task_kind, text, label, group, image=image, sensitive=tuple(sensitive))


def _unfit_as_sensitive(
    sensitive: Sequence[str], name: str, task_kind: str, label: str | None, group: str | None
) -> list[str]:
    if task_kind != "classification":
        return [f"{name}: data.sensitive is for classification; the task is {task_kind}. Remove it."]
    why = {label: "holds the label", group: "is data.group, whose rows never straddle splits"}
    return [
        f"{name}: data.sensitive is '{column}', which {why[column]}. Name another column."
        for column in sensitive
        if column in why
    ]


def _flat(row: dict[str, Any], task_kind: str) -> dict[str, Any]:
    """A translation as the hub's data sets have it, {"translation": {"en": …, "fr": …}}, as columns."""
    inner = row.get("translation")
    if task_kind == "translation" and isinstance(inner, dict):
        return {**{key: value for key, value in row.items() if key != "translation"}, **inner}
    return row


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"'{column}'" for column in columns) or "none"


def _nearest(column: str, columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, columns, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _find_image(columns: list[str], name: str) -> str:
    found = [column for column in columns if column.lower() in IMAGE_NAMES]
    if len(found) == 1:
        return found[0]
    which = f"{_names(found)} could each be it" if found else f"none of {_names(columns)} is known as one"
    raise DataError(
        f"{name}: which column holds the image's path? {which}. Say so with 'data.image: COLUMN', or give "
        "a path with a column in it, such as 'data.image: images/{id}.png'."
    )


def _check_preference(
    columns: list[str], name: str, task_kind: str, format: str, text: str | None, label: str | None
) -> None:
    problems = []
    if task_kind != "preference":
        problems.append(f"{name}: data.format is 'preference', but the task is {task_kind}. Set 'task: preference'.")
    if format not in ("auto", "preference"):
        problems.append(f"{name}: data.format is '{format}'; the task preference needs pairs of answers. Leave it out.")
    if text or label:
        problems.append(f"{name}: data.text and data.label name no pair of answers; remove them.")
    if not any(all(column in columns for column in layout) for layout in preference.LAYOUTS):
        known = "; or ".join(_names(layout) for layout in preference.LAYOUTS)
        problems.append(f"{name}: the columns are {_names(columns)}; for preferences expected {known}. Rename them.")
    if problems:
        raise DataError("\n".join(problems))


def _table(
    columns: list[str],
    name: str,
    task_kind: str,
    text: str | None,
    label: str | None,
    group: str | None,
    template: str,
    sensitive: tuple[str, ...],
) -> Layout:
    problems = []
    if task_kind not in LABELLED:
        problems.append(f"{name}: data.format is 'table', which is for {', '.join(LABELLED)}; the task is {task_kind}.")
    if text:
        problems.append(f"{name}: data.text belongs to format 'columns'; a table's text is made by data.template.")
    try:
        label = label or _find_label(columns, name, task_kind, {group, *sensitive})
    except DataError as error:
        problems.append(str(error))
    # a sensitive column is one only where the user's own template shows it
    hidden = (label, group, *(sensitive if template in ("names", "sentence") else ()))
    features = tuple(column for column in columns if column not in hidden)
    if not features:
        problems.append(f"{name}: no column is left as a feature. Give the table some.")
    elif template not in ("names", "sentence"):
        try:
            named = template_columns(template, "data.template", features, name)
            features = tuple(column for column in features if column in named)  # what the model is not shown is none
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return Layout(
        "table", task_kind, label=label, group=group, features=features, template=template, sensitive=sensitive
    )


def _find_languages(columns: list[str]) -> tuple[str, str] | None:
    """Two columns named by languages: from the first into the second, as they stand."""
    found = [column for column in columns if LANGUAGE.fullmatch(column)]
    return (found[0], found[1]) if len(found) == 2 else None


def _find_label(columns: list[str], name: str, task_kind: str, taken: set[str | None]) -> str:
    usual = LABEL_NAMES if task_kind in LABELLED else ANSWER_NAMES
    known = (*usual, *FURTHER_LABEL_NAMES.get(task_kind, ()))
    free = [column for column in columns if column not in taken]
    found = [column for column in free if column.lower() in known]
    if not found and len(columns) == 2:  # with one column known, the other is the label
        texts = [column for column in columns if column in taken or column.lower() in TEXT_NAMES]
        found = [column for column in free if len(texts) == 1 and column != texts[0]]
    if len(found) == 1:
        return found[0]
    what = {"regression": "number", "multi_label": "labels", "classification": "label"}.get(task_kind, "answer")
    which = f"{_names(found)} could each be it" if found else f"none of {_names(columns)} is known as one"
    raise DataError(f"{name}: which column holds the {what}? {which}. Say so with 'data.label: COLUMN'.")


def _find_text(
    rows: Sequence[dict[str, Any]], columns: list[str], name: str, task_kind: str, taken: set[str | None]
) -> str:
    free = [column for column in columns if column not in taken]
    found = [column for column in free if column.lower() in FURTHER_TEXT_NAMES.get(task_kind, ())]
    if not found:
        found = [column for column in free if column.lower() in TEXT_NAMES]
    if not found:
        found = [c for c in free if any(row.get(c) for row in rows) and all(_is_text(row.get(c)) for row in rows)]
    if len(found) == 1:
        return found[0]
    which = f"{_names(found)} could each be it" if found else f"none of {_names(columns)} holds text"
    say = "Say so with 'data.text: COLUMN'"
    if task_kind in LABELLED and free:
        say += "; or make every column a feature with 'data.format: table'"
    if task_kind in LABELLED and any(column.lower() in IMAGE_NAMES for column in free):
        say += "; or say which names an image with 'data.image: COLUMN'"
    raise DataError(f"{name}: which column holds the text? {which}. {say}.")


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


# ── one row ──────────────────────────────────────────────────────────────────────────────────────────────
def parse_row(row: dict[str, Any], layout: Layout, source: str, folder: Path = Path()) -> Parsed:
    """Turn a row into an example; an image's relative path begins at ``folder``.

    Raises:
        RowError: If it cannot be one, with the reason.
    """
    row = _flat(row, layout.task_kind)
    parsed = _parse(row, layout, source)
    group = row.get(layout.group) if layout.group else None
    group = None if group is None or group == "" else read_scalar(group, layout.group or "")
    example = replace(parsed.example, group=group, sensitive=_sensitive(row, layout.sensitive, parsed.example.text))
    if layout.image:
        image, digest = locate_image(row, layout.image, folder)
        example = replace(example, image=image, image_hash=digest)
        if layout.task_kind == "image_text" and group is None:  # questions about one image are not independent
            example = replace(example, group=f"image {digest}")
    return replace(parsed, example=example)


def _sensitive(row: dict[str, Any], columns: Sequence[str], text: str | None) -> tuple[tuple[str, str], ...]:
    """Column and group, of those that the row says, or its text by a lexicon; nothing is guessed for the rest."""
    said = {column: row.get(column) for column in columns}
    said |= {name: _lexicon(name).group_of(text or "") for name in columns if name.startswith(BY_LEXICON)}
    known = {c: v for c, v in said.items() if v is not None and v == v and not (isinstance(v, str) and not v.strip())}
    return tuple((column, read_scalar(value, column).strip()) for column, value in known.items())


@functools.cache
def _lexicon(name: str) -> Lexicon:
    """The lexicon of an entry such as ``lexicon:pronouns``, or of several of the same groups, joined by ``+``."""
    from tunesmith.data.lexicon import read_lexica

    found = read_lexica(name.removeprefix(BY_LEXICON).split("+"))
    if len(found) > 1:
        raise DataError(f"data.sensitive '{name}': these lexica have different groups. Name each by itself.")
    return found[0]


def _parse(row: dict[str, Any], layout: Layout, source: str) -> Parsed:
    notes: list[str] = []
    if layout.format == "columns":
        return _from_columns(row, layout, source)
    if layout.format == "table":
        columns = tuple((name, read_cell(row.get(name), name)) for name in layout.features)
        label = _label(row.get(layout.label or ""), layout.label or "", layout.task_kind, notes)
        return Parsed(
            Example(source, text=render(columns, layout.template), label=label, columns=columns), None, _set(notes)
        )
    if row.get("tools") or row.get("functions"):
        notes.append("tools")
    if layout.format == "preference":
        messages, rejected = preference.parse_pair(row, notes)
        return Parsed(Example(source, messages=messages, rejected=rejected), notes=_set(notes))
    messages = _MAKERS[layout.format](row, notes)
    if layout.format == "alpaca" and layout.task_kind in LABELLED and len(messages) == 2 and row.get("input"):
        messages = (Message("system", row["instruction"]), Message("user", row["input"]), messages[1])
    _check_conversation(messages)
    if layout.task_kind not in LABELLED:
        return Parsed(Example(source, messages=messages), notes=_set(notes))
    *asked_with, answer = messages
    asked = [m for m in asked_with if m.role == "user"]
    if not asked:
        raise RowError("no user message to classify")
    if len([m for m in asked_with if m.role != "system"]) > 1:
        notes.append("context")
    system = [m.content for m in asked_with if m.role == "system"]
    label = _label(answer.content, "the answer", layout.task_kind, notes)
    return Parsed(Example(source, text=asked[-1].content, label=label), "\n\n".join(system) or None, _set(notes))


def _set(notes: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notes))


def _from_columns(row: dict[str, Any], layout: Layout, source: str) -> Parsed:
    notes: list[str] = []
    label_column = layout.label or ""
    text = read_text(row.get(layout.text), layout.text) if layout.text else None
    if layout.task_kind in LABELLED:
        label = _label(row.get(label_column), label_column, layout.task_kind, notes)
        return Parsed(Example(source, text=text, label=label), notes=_set(notes))
    answer = read_text(row.get(label_column), label_column)
    return Parsed(Example(source, messages=(Message("user", text or ""), Message("assistant", answer))))


def _label(value: Any, column: str, task_kind: str, notes: list[str]) -> str:
    if task_kind == "multi_label":
        return read_labels(value, column, notes)
    if task_kind == "regression":
        return number_text(read_number(value, column))
    label = read_scalar(value, column).strip()
    if not label:
        raise RowError(f"'{column}' is empty; expected a label", column)
    return label


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
    return read_messages(row.get("messages"), "messages", notes)


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
            raise RowError(f"turn {number} is from {shown(sender)}. Known are {', '.join(SHAREGPT_ROLES)}.")
        messages.append({"role": role, "content": turn.get("value"), "weight": turn.get("weight")})
    return read_messages(messages, "conversations", notes)


def _prompt_completion(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list | dict):
        asked = _shown_only(read_messages(prompt, "prompt", notes))
    else:
        asked = (Message("user", read_text(prompt, "prompt")),)
    if isinstance(completion, list | dict):
        return asked + read_messages(completion, "completion", notes)
    return (*asked, Message("assistant", read_text(completion, "completion")))


def _shown_only(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Assistant turns inside a prompt are examples to look at, not answers to learn."""
    return tuple(replace(m, weight=0.0) if m.role == "assistant" else m for m in messages)


def _alpaca(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    asked = read_text(row.get("instruction"), "instruction")
    if row.get("input") not in (None, ""):
        asked = f"{asked}\n\n{read_text(row['input'], 'input')}"
    return (Message("user", asked), Message("assistant", read_text(row.get("output"), "output")))


def _evals(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    asked, ideal = row.get("input"), row.get("ideal")
    if isinstance(ideal, list):
        if len(ideal) > 1:
            notes.append("ideals")
        ideal = ideal[0] if ideal else None
    answer = Message("assistant", read_text(ideal if _is_text(ideal) else read_scalar(ideal, "ideal"), "ideal"))
    if isinstance(asked, list | dict):
        return (*_shown_only(read_messages(asked, "input", notes)), answer)
    return (Message("user", read_text(asked, "input")), answer)


_MAKERS = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "evals": _evals,
}
