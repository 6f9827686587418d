"""Pairs of answers, in every layout they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.read import read_examples
from tunesmith.data.read.cells import RowError
from tunesmith.data.read.formats import Layout, parse_row, recognise
from tunesmith.errors import DataError
from tunesmith.records import Message

SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "hi"}
GOOD, BAD = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "go away"}
LAYOUT = Layout("preference", "preference")


def openai(ending: str) -> dict[str, Any]:
    return {"input": {"messages": [USER], "tools": []}, f"preferred_{ending}": [GOOD], f"non_preferred_{ending}": [BAD]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": json.dumps([USER]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
        {"prompt": [USER], "chosen": "hello", "rejected": "go away"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        openai("output"),
        openai("completion"),
    ],
)
def test_every_layout_says_the_same(row: dict[str, Any]) -> None:
    assert recognise([row], "x", "preference") == LAYOUT
    example = parse_row(row, LAYOUT, "x:1").example
    assert example.messages == (Message("user", "hi"), Message("assistant", "hello"))
    assert example.rejected == (Message("assistant", "go away"),)


def test_the_longest_common_start_is_the_prompt_and_nothing_in_it_is_learned() -> None:
    again = {"role": "user", "content": "and now?"}
    row = {"chosen": [SYSTEM, USER, GOOD, again, GOOD], "rejected": [SYSTEM, USER, GOOD, again, BAD]}
    example = parse_row(row, LAYOUT, "x:1").example
    assert [(m.role, m.weight) for m in example.messages] == [
        ("system", 1.0),
        ("user", 1.0),
        ("assistant", 0.0),
        ("user", 1.0),
        ("assistant", 1.0),
    ]
    assert example.rejected == (Message("assistant", "go away"),)


def test_a_system_message_of_the_prompt_or_of_the_conversations_is_kept() -> None:
    for prompt, start in (([SYSTEM, USER], [USER]), ("hi", [SYSTEM, USER])):
        row = {"prompt": prompt, "chosen": [*start, GOOD], "rejected": [*start, BAD]}
        assert [m.role for m in parse_row(row, LAYOUT, "x:1").example.prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are the same; expected a better"),
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing; expected one, or whole conversations"),
        ({"prompt": "hi", "chosen": "a"}, "'rejected' is missing or null"),
        ({"prompt": "hi", "chosen": "a", "rejected": " "}, "'rejected' is empty"),
        ({"prompt": "no", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "'chosen' is a whole conversation that"),
        (
            {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]},
            "'chosen' has assistant, user, assistant after",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "'rejected' has nothing after"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "no user message before the answers"),
        ({"input": "hi", "preferred_output": [GOOD], "non_preferred_output": [BAD]}, "'input' holds no 'messages'"),
        ({**openai("output"), "non_preferred_output": [GOOD]}, "'preferred_output' and 'non_preferred_output' are the"),
    ],
)
def test_what_is_no_pair_says_why(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(row, LAYOUT, "x:1")
    assert expected in str(caught.value)


def test_a_prompt_that_begins_with_a_bracket_is_a_text() -> None:
    row = {"prompt": "[INST] hi", "chosen": "[1]", "rejected": "[2]"}
    assert parse_row(row, LAYOUT, "x:1").example.messages[0].content == "[INST] hi"


def test_columns_of_another_kind_and_settings_that_do_not_fit_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        recognise([{"prompt": "a", "completion": "b"}], "x", "preference", format="chat", text="prompt")
    for part in ("data.format is 'chat'", "data.text and data.label", "expected 'chosen', 'rejected'; or 'input'"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="Set 'task: preference'"):
        recognise([{"chosen": "a", "rejected": "b"}], "x", "generation", format="preference")
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "chosen": "a", "rejected": "a"}\n'
    )
    with pytest.raises(DataError, match=r"x\.jsonl line 2: 'chosen' and 'rejected' are the same"):
        read_examples(path, "preference")
