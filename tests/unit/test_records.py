"""Examples are known by what they hold, and come back from a run directory as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tunesmith.records import Example, Message
from tunesmith.run import read_examples, read_table, write_examples, write_table

TURNS = (Message("user", "hi"), Message("assistant", "hello"))
ALL = Example(
    "x:1",
    TURNS,
    "text",
    "label",
    "group",
    rejected=(Message("assistant", "go away"),),
    image="/a/0.png",
    columns=(("age", 0.1 + 0.2), ("job", "none, “so far”"), ("pay", None)),
    image_hash="0123456789abcdef",
    sensitive=(("gender", "female"), ("born", "“before” 1970")),
)


def test_ids_of_examples_without_the_new_fields_are_those_they_always_had() -> None:
    assert Example("x:1", text="a", label="b").id == "aab09c37b722e23c"
    assert Example("x:1", messages=TURNS).id == "b1f984ebdf8aadc2"
    assert Example("x:1", messages=TURNS).prompt_key == "897be8e1f0370e7f"


def test_each_field_that_is_content_changes_the_id_and_what_is_shown_the_prompt_key() -> None:
    others = {
        "rejected": replace(ALL, rejected=(Message("assistant", "shoo"),)),
        "image": replace(ALL, image_hash="f" * 16),
        "columns": replace(ALL, columns=(*ALL.columns[:2], ("pay", 1.0))),
        "no columns": replace(ALL, columns=()),
    }
    assert len({ALL.id, *(other.id for other in others.values())}) == 5
    shown = {name: other.prompt_key != ALL.prompt_key for name, other in others.items()}
    assert shown == {"rejected": False, "image": True, "columns": True, "no columns": True}


def test_a_sensitive_group_is_no_content() -> None:
    """Whoever measures bias splits the data as before."""
    unknown = replace(ALL, sensitive=())
    assert (unknown.id, unknown.prompt_key) == (ALL.id, ALL.prompt_key)


def test_where_an_image_lies_changes_nothing() -> None:
    moved = replace(ALL, image="/b/1.png")
    assert (moved.id, moved.prompt_key) == (ALL.id, ALL.prompt_key)
    assert replace(ALL, image_hash=None).id != replace(moved, image_hash=None).id  # all there is to know it by


def test_a_split_keeps_examples_as_they_are(tmp_path: Path) -> None:
    examples = (ALL, Example("x:2", text="a", label="b"), Example("x:3", messages=TURNS))
    write_examples(tmp_path / "a.parquet", examples)
    assert read_examples(tmp_path / "a.parquet") == examples


def test_a_split_from_before_these_fields_can_be_read(tmp_path: Path) -> None:
    example = Example("x:2", TURNS, group="g")
    write_examples(tmp_path / "new.parquet", [example])
    new = ("rejected", "image", "image_hash", "columns", "sensitive")
    rows = [{key: row[key] for key in row if key not in new} for row in read_table(tmp_path / "new.parquet")]
    assert json.loads(rows[0]["messages"])[0]["content"] == "hi"
    write_table(tmp_path / "old.parquet", rows)
    assert read_examples(tmp_path / "old.parquet") == (example,)
