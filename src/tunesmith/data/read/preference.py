"""Pairs of a better and a worse answer to one prompt.

{"prompt"?, "chosen", "rejected"}                 TRL's: strings, the answers' messages, or whole conversations
{"input": {"messages"}, "preferred_output", "non_preferred_output"}   OpenAI's, as its guide and service have it
{"input": {"messages"}, "preferred_completion", "non_preferred_completion"}   OpenAI's, as its specification has it

What both conversations begin with is the prompt; after that, each has one answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.data.read.cells import RowError, read_messages, read_text
from tunesmith.records import Message

LAYOUTS = (
    ("chosen", "rejected"),
    ("input", "preferred_output", "non_preferred_output"),
    ("input", "preferred_completion", "non_preferred_completion"),
)


def parse_pair(row: dict[str, Any], notes: list[str]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Messages that end with the chosen answer, and the rejected answer.

    Raises:
        RowError: If the row holds no such pair.
    """
    names = next((layout[-2:] for layout in LAYOUTS[1:] if layout[-2] in row or layout[-1] in row), LAYOUTS[0])
    prompt = _openai_prompt(row, notes) if names != LAYOUTS[0] else _prompt(row.get("prompt"), notes)
    chosen, rejected = (_conversation(row.get(name), name, prompt, notes) for name in names)
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RowError(f"'{names[0]}' and '{names[1]}' are the same; expected a better and a worse answer")
    asked = chosen[:shared]
    for name, turns in zip(names, (chosen[shared:], rejected[shared:]), strict=True):
        if [turn.role for turn in turns] != ["assistant"]:
            roles = ", ".join(turn.role for turn in turns) or "nothing"
            raise RowError(
                f"'{name}' has {roles} after what both answers begin with; expected one assistant message", name
            )
    if not any(message.role == "user" for message in asked):
        raise RowError("no user message before the answers; expected a prompt", "prompt")
    answer, worse = (replace(turns[-1], weight=1.0) for turns in (chosen, rejected))
    # answers within the prompt are there to look at, not to learn
    shown = (replace(m, weight=0.0) if m.role == "assistant" else m for m in asked)
    return (*shown, answer), (worse,)


def _prompt(value: Any, notes: list[str]) -> tuple[Message, ...]:
    if value is None:
        return ()
    if _is_plain(value):
        return (Message("user", read_text(value, "prompt")),)
    return read_messages(value, "prompt", notes)


def _is_plain(value: Any) -> bool:
    """Text, and no list of messages in a CSV or Parquet cell."""
    return isinstance(value, str) and not value.lstrip().startswith("[{")


def _openai_prompt(row: dict[str, Any], notes: list[str]) -> tuple[Message, ...]:
    asked = row.get("input")
    if not isinstance(asked, dict) or "messages" not in asked:
        raise RowError("'input' holds no 'messages'; expected {\"messages\": [...]}", "input")
    if asked.get("tools"):
        notes.append("tools")
    return read_messages(asked["messages"], "input", notes)


def _conversation(value: Any, name: str, prompt: tuple[Message, ...], notes: list[str]) -> tuple[Message, ...]:
    """The prompt with the answer; an answer that brings the prompt along must bring the same."""
    if _is_plain(value):
        if not prompt:
            raise RowError("'prompt' is missing; expected one, or whole conversations as lists of messages", "prompt")
        return (*prompt, Message("assistant", read_text(value, name)))
    turns = read_messages(value, name, notes)
    if not turns or turns[0].role in ("assistant", "tool"):
        return prompt + turns
    if prompt and prompt[0].role == "system" and turns[0].role != "system":
        turns = (prompt[0], *turns)
    asked, said = ([m for m in messages if m.role != "system"] for messages in (prompt, turns))
    if said[: len(asked)] != asked:
        raise RowError(f"'{name}' is a whole conversation that begins otherwise than 'prompt'; leave one out", name)
    return turns
