"""Wordings that prompts try: each turns an example, with solved ones before it, into the conversation to show.

A new one is a function and a line of ``TEMPLATES``. The answer always stands in a turn of its own, last, so that
answers of all wordings are scored alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from tunesmith.records import Example, Message
from tunesmith.tasks.classification import LISTED_LABELS, ClassificationTask
from tunesmith.tasks.task import AskedTask

Template = Callable[[AskedTask, Example, Sequence[Example]], tuple[Message, ...]]

NAMED_LABELS = 8  # more are not named in every question, but once, before all of them
SHORT = "Answer with nothing but the answer itself, in as few words as it needs."


def plain(task: AskedTask, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """The instruction, and a turn for each text: how tuned models are asked."""
    return task.messages(example, shots)


def question(task: AskedTask, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """A question behind each text that names the labels; many labels are named once, behind the instruction."""
    words = list(cast("ClassificationTask", task).words.values())
    named = len(words) <= NAMED_LABELS
    asked = f"Which label fits this text: {_either(words)}?" if named else "Which label fits this text?"
    listed = "" if named or len(words) > LISTED_LABELS else f"\nThe labels are: {', '.join(words)}."
    behind = {"user": f"\n\n{asked}", "system": listed}
    return tuple(replace(m, content=m.content + behind.get(m.role, "")) for m in task.messages(example, shots))


def inline(task: AskedTask, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """The instruction before each text, in the same turn, for models that were trained without system messages."""
    turns = task.messages(example, shots)
    if turns[0].role != "system":
        return turns
    return tuple(replace(m, content=f"{turns[0].content}\n\n{m.content}") if m.role == "user" else m for m in turns[1:])


def completion(task: AskedTask, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """One turn that a document could continue: ``Text: … Label: …`` for each solved one, and ``Label:`` at its end."""
    first, *turns = task.messages(example, shots)
    shown = [
        f"Text: {user.content}\nLabel: {answer.content}" for user, answer in zip(turns[::2], turns[1::2], strict=True)
    ]
    asked = f"Text: {turns[-2].content}\nLabel:"
    return (first, Message("user", "\n\n".join([*shown[:-1], asked])), turns[-1])


def terse(task: AskedTask, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """The instruction, with the request to answer with the answer alone."""
    turns = task.messages(example, shots)
    if turns[0].role != "system":
        return (Message("system", SHORT), *turns)
    return (replace(turns[0], content=f"{turns[0].content}\n{SHORT}"), *turns[1:])


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


TEXT: dict[str, Template] = {"plain": plain, "terse": terse, "inline": inline}
TEMPLATES: dict[str, dict[str, Template]] = {
    "classification": {"plain": plain, "question": question, "inline": inline, "completion": completion},
    "generation": TEXT,
    "translation": TEXT,
}
