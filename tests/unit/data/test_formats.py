from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.read import ReadResult, read_examples
from tunesmith.data.read.cells import RowError
from tunesmith.data.read.formats import Layout, parse_row, recognise
from tunesmith.errors import DataError
from tunesmith.records import Message

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def messages(row: dict[str, Any], format: str) -> tuple[Message, ...]:
    return parse_row(row, Layout(format, "generation"), "x:1").example.messages


def reason(row: dict[str, Any], format: str = "chat", kind: str = "generation", **columns: str) -> str:
    with pytest.raises(RowError) as caught:
        parse_row(row, Layout(format, kind, **columns), "x:1")
    return str(caught.value)


def read(tmp_path: Path, items: list[dict[str, Any]], kind: str, **settings: Any) -> ReadResult:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items))
    return read_examples(path, kind, **settings)


HI = (Message("user", "hi"), Message("assistant", "hello"))


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("chat", {"messages": [USER, ANSWER]}),
        ("chat", {"messages": json.dumps([USER, ANSWER])}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, ANSWER]}),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        ),
        ("prompt_completion", {"prompt": "hi", "completion": "hello"}),
        ("prompt_completion", {"prompt": [USER], "completion": [ANSWER]}),
        ("prompt_completion", {"prompt": [USER], "completion": "hello"}),
        ("alpaca", {"instruction": "hi", "output": "hello"}),
        ("alpaca", {"instruction": "hi", "input": "", "output": "hello"}),
        ("evals", {"input": "hi", "ideal": "hello"}),
        ("evals", {"input": [USER], "ideal": ["hello", "hey"]}),
        ("columns", {"question": "hi", "answer": "hello"}),
    ],
)
def test_every_layout_is_recognised_and_says_the_same(format: str, row: dict[str, Any]) -> None:
    layout = recognise([row], "x", "generation")
    assert layout.format == format
    assert parse_row(row, layout, "x:1").example.messages == HI


def test_alpaca_input_follows_the_instruction() -> None:
    row = {"instruction": "Translate.", "input": "hi", "output": "hello"}
    assert messages(row, "alpaca")[0] == Message("user", "Translate.\n\nhi")
    parsed = parse_row(row, Layout("alpaca", "classification"), "x:1")
    assert (parsed.example.text, parsed.example.label, parsed.instruction) == ("hi", "hello", "Translate.")


def test_weights_and_system_messages_are_kept() -> None:
    system = {"role": "system", "content": "be brief"}
    row = {"messages": [system, USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}
    found = messages(row, "chat")
    assert [m.weight for m in found if m.role == "assistant"] == [0.0, 1.0]
    assert found[0] == Message("system", "be brief")
    assert messages({"messages": [{**system, "role": "developer"}, USER, ANSWER]}, "chat")[0].role == "system"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"messages": [USER, USER, {"role": "bot", "content": "x"}]},
            "message 3 has role 'bot'. Roles are system, user",
        ),
        ({"messages": [USER]}, "no assistant message"),
        ({"messages": [USER, ANSWER, USER]}, "last message has role 'user'"),
        ({"messages": [ANSWER]}, "an assistant message alone"),
        ({"messages": [{"role": "user", "content": " "}, ANSWER]}, "message 1 (user) is empty"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "message 2 (assistant) is empty"),
        ({"messages": [USER, {"role": "assistant"}]}, "content of type NoneType"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "weight 0.5; expected 0 or 1"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "every assistant message has weight 0"),
        ({"messages": [USER, {**ANSWER, "content": "\ud800"}]}, "lone surrogate"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "part 'image_url'"),
        ({"messages": "hi"}, "expected a list of messages"),
        ({"messages": ["hi"]}, "message 1 is of type str"),
        ({}, "missing or null"),
    ],
)
def test_bad_conversations_say_why(row: dict[str, Any], expected: str) -> None:
    assert expected in reason(row)


def test_other_layouts_say_why_too() -> None:
    assert "turn 1 is from 'bot'" in reason({"conversations": [{"from": "bot", "value": "x"}]}, "sharegpt")
    assert "'completion' is empty" in reason({"prompt": "a", "completion": ""}, "prompt_completion")
    assert "'ideal' is missing" in reason({"input": "a", "ideal": []}, "evals")
    columns = {"text": "text", "label": "label"}
    assert "'text' is of type int" in reason({"text": 3, "label": "a"}, "columns", "classification", **columns)
    assert "'label' is missing or null" in reason({"text": "a"}, "columns", "classification", **columns)


def test_answers_inside_a_prompt_are_not_learned() -> None:
    shots = [USER, ANSWER, USER]
    for format, row in (
        ("prompt_completion", {"prompt": shots, "completion": "x"}),
        ("evals", {"input": shots, "ideal": "x"}),
    ):
        assert [m.weight for m in messages(row, format) if m.role == "assistant"] == [0.0, 1.0]


@pytest.mark.parametrize(("value", "label"), [(1, "1"), (True, "true"), (2.0, "2"), (0.5, "0.5"), (" spam ", "spam")])
def test_labels_become_text(value: Any, label: str) -> None:
    layout = Layout("columns", "classification", "text", "label")
    assert parse_row({"text": "a", "label": value}, layout, "x:1").example.label == label


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("text", "category"), ("text", "category")),
        (("id", "headline", "label"), ("headline", "label")),
        (("body_of_mail", "label"), ("body_of_mail", "label")),
        (("text", "team"), ("text", "team")),
    ],
)
def test_columns_are_found_by_name_or_because_only_one_is_left(columns: Any, found: tuple[str, str]) -> None:
    row: dict[str, Any] = dict.fromkeys(columns, "1")
    if "id" in row:
        row["id"] = 7
    layout = recognise([row], "x", "classification")
    assert (layout.text, layout.label) == found


def test_columns_that_cannot_be_told_apart_are_asked_for() -> None:
    rows = [{"text": "a", "sentence": "b", "label": "c"}]
    with pytest.raises(DataError, match=r"'text', 'sentence' could each be it.*data\.text"):
        recognise(rows, "x", "classification")
    assert recognise(rows, "x", "classification", text="sentence").text == "sentence"
    with pytest.raises(DataError, match=r"which column holds the label.*data\.label"):
        recognise([{"a": "b", "c": "d", "e": "f"}], "x", "classification")
    with pytest.raises(DataError, match=r"data\.label is 'lable'.*Did you mean 'label'"):
        recognise(rows, "x", "classification", label="lable")
    with pytest.raises(DataError, match="needs 'messages'"):
        recognise(rows, "x", "generation", format="chat")


def test_a_named_column_overrides_what_is_recognised() -> None:
    row = {"input": "hi", "ideal": "1", "team": "a"}
    layout = recognise([row], "x", "classification", text="input", label="team")
    assert (layout.format, layout.label) == ("columns", "team")


def test_classification_takes_text_label_and_shared_instruction_from_chats(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {
            "input": [{"role": "system", "content": "Say 1 or 0"}, {"role": "user", "content": f"t{i}"}],
            "ideal": str(i % 2),
        }
        for i in range(4)
    ]
    result = read(tmp_path, items, "classification")
    assert [(e.text, e.label) for e in result.examples] == [
        ("t0", "0"),
        ("t1", "1"),
        ("t2", "0"),
        ("t3", "1"),
    ]
    assert (result.instruction, result.format, result.findings) == ("Say 1 or 0", "evals", ())
    items[3]["input"][0]["content"] = "Other"
    mixed = read(tmp_path, items, "classification")
    assert mixed.instruction is None
    assert [(f.check, f.rows) for f in mixed.findings] == [("mixed_instructions", (4,))]


def test_tools_and_earlier_turns_are_noted(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    items: list[dict[str, Any]] = [
        {"messages": [USER, ANSWER]},
        {"messages": [USER, call, {"role": "tool", "content": "5"}, ANSWER], "tools": [{}]},
    ]
    result = read(tmp_path, items, "generation")
    assert [(f.check, f.rows) for f in result.findings] == [("tools_ignored", (2,))]
    assert [m.weight for m in result.examples[1].messages if m.role == "assistant"] == [0.0, 1.0]
    result = read(tmp_path, [{"messages": [USER, ANSWER, USER, ANSWER]}], "classification", part="test")
    assert [f.check for f in result.findings] == ["context_ignored"]


def test_groups_are_read_from_any_layout(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [{"messages": [USER, ANSWER], "customer": 7}, {"messages": [USER, ANSWER]}]
    assert [e.group for e in read(tmp_path, items, "generation", group="customer").examples] == ["7", None]


# ── several labels, numbers, translations ────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("value", "joined"),
    [
        (["b", "a", "b"], "a|b"),
        ([], ""),
        ("", ""),
        ("  ", ""),
        ("b|a; c", "a; c|b"),
        ("b; a,c", "a,c|b"),
        ("b, a,", "a|b"),
        ('["x, y", "a"]', "a|x, y"),
        ([1, 2.0, True], "1|2|true"),
        (3, "3"),
        ("one", "one"),
    ],
)
def test_several_labels_are_sorted_and_joined(value: Any, joined: str) -> None:
    layout = Layout("columns", "multi_label", "text", "labels")
    assert parse_row({"text": "a", "labels": value}, layout, "x:1").example.label == joined


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a|b"], "'labels' holds 'a|b'; a label cannot hold '|'"),
        (["a", " "], "'labels' holds an empty label"),
        (["a", ["b"]], "'labels' is of type list"),
        (None, "'labels' is missing or null; expected a list of labels, empty for none"),
        ({"a": 1}, "'labels' is of type dict"),
        ("[1", "looks like a list of labels but is broken JSON"),
        (float("nan"), "not a number"),
    ],
)
def test_what_is_no_list_of_labels_says_why(value: Any, expected: str) -> None:
    columns = {"text": "text", "label": "labels"}
    assert expected in reason({"text": "a", "labels": value}, "columns", "multi_label", **columns)


def test_a_guessed_separator_is_told_and_a_file_without_labels_refused(tmp_path: Path) -> None:
    result = read(tmp_path, [{"text": "a", "tags": "x;y"}, {"text": "b", "tags": "x|y"}], "multi_label")
    assert [(f.check, f.rows) for f in result.findings] == [("labels_separated", (1,))]
    with pytest.raises(DataError, match="no row has a label"):
        read(tmp_path, [{"text": "a", "tags": ""}], "multi_label")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), ("2.50", "2.5"), (" -3e-2 ", "-0.03"), (0.1 + 0.2, "0.30000000000000004"), (".5", "0.5"), ("-0", "0")],
)
def test_numbers_become_the_shortest_text_that_reads_back(value: Any, text: str) -> None:
    layout = Layout("columns", "regression", "text", "score")
    label = parse_row({"text": "a", "score": value}, layout, "x:1").example.label
    assert label == text
    assert float(label or "nan") == float(value)


@pytest.mark.parametrize(
    "value", ["n/a", "nan", float("nan"), "inf", float("-inf"), "1e999", "1,5", "1_000", "", True, [1], "١", 10**400]
)
def test_what_is_no_finite_number_is_refused_with_line_column_and_value(tmp_path: Path, value: Any) -> None:
    layout = Layout("columns", "regression", "text", "score")
    with pytest.raises(RowError) as caught:
        parse_row({"text": "a", "score": value}, layout, "x:1")
    assert caught.value.column == "score"
    assert f"'score' is {repr(value)[:40]}" in str(caught.value)
    assert "expected a finite number" in str(caught.value)
    path = tmp_path / "x.csv"
    path.write_text('text,score\na,1\nb,n/a\nc,"1,5"\nd,2\n')
    with pytest.raises(DataError) as refused:
        read_examples(path, "regression")
    assert "x.csv line 3: 'score' is 'n/a'; expected a finite number, such as 1.5" in str(refused.value)
    assert "x.csv line 4: 'score' is '1,5'; expected a finite number with a decimal point" in str(refused.value)


def test_one_number_everywhere_is_no_regression(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row has the number '3'; expected at least two numbers"):
        read(tmp_path, [{"text": "a", "score": 3}, {"text": "b", "score": 3.0}], "regression")


@pytest.mark.parametrize(
    "row",
    [
        {"source": "hi", "target": "salut"},
        {"en": "hi", "fr": "salut"},
        {"id": "7", "en": "hi", "fr_CA": "salut"},
        {"translation": {"en": "hi", "fr": "salut"}},
        {"src": "hi", "tgt": "salut", "domain": "greeting"},
        {"text": "hi", "translation": "salut"},
        {"prompt": "hi", "completion": "salut"},
    ],
)
def test_translations_are_recognised(row: dict[str, Any]) -> None:
    example = parse_row(row, recognise([row], "x", "translation"), "x:1").example
    assert example.messages == (Message("user", "hi"), Message("assistant", "salut"))


def test_the_direction_of_a_translation_can_be_named() -> None:
    row = {"translation": {"en": "hi", "fr": "salut"}}
    layout = recognise([row], "x", "translation", text="fr", label="en")
    assert parse_row(row, layout, "x:1").example.answer == "hi"
    with pytest.raises(DataError, match="which column holds the answer"):
        recognise([{"en": "a", "fr": "b", "de": "c"}], "x", "translation")
