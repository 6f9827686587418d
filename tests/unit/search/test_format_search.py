"""Forms of a table's row: templates that show what they say, and what cannot be shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.config import parse_config
from tunesmith.data.read.table import render
from tunesmith.errors import ConfigError
from tunesmith.search.formats import forms, search_formats
from tunesmith.search.space import in_options

ROW = (("age", 39.0), ("job title", "chef"), ("pay", None))


def test_each_form_shows_the_row() -> None:
    templates = {name: template for template, name in forms(["age", "job title", "pay"], [["pay", "age"]]).items()}
    shown = {name: render(ROW, template) for name, template in templates.items()}
    assert shown["names"] == "age: 39\njob title: chef\npay: missing"
    assert json.loads(shown["json"]) == {"age": "39", "job title": "chef", "pay": "missing"}
    assert shown["markdown"] == "| age | job title | pay |\n| --- | --- | --- |\n| 39 | chef | missing |"
    assert shown["pay, age"] == "pay: missing\nage: 39"
    assert set(templates) == {"names", "sentence", "json", "markdown", "pay, age"}


def test_a_form_is_a_setting_that_the_command_line_takes() -> None:
    from tunesmith.config import _apply

    raw = {"task": "classification", "data": {"train": "x.csv", "format": "table"}}
    for template in forms(["age", "job"]):
        _, option = in_options(parse_config(raw), {"data.template": template})
        changed = {**raw, "data": dict(raw["data"])}
        _apply(changed, option)
        assert parse_config(changed).data.template == template


def test_columns_that_are_not_there_or_cannot_be_named_are_said_together() -> None:
    with pytest.raises(ConfigError) as caught:
        forms(["a:b", "age"], [["ag"], []])
    for said in ("no column 'ag'; the table has a:b, age", "no column ''", "column 'a:b'"):
        assert said in str(caught.value)


def test_only_a_table_has_forms(tmp_path: Path) -> None:
    config = parse_config({"task": "classification", "data": {"train": "x.csv"}})
    with pytest.raises(ConfigError, match=r"Set it to table"):
        search_formats(config, tmp_path, lambda *_: None)
