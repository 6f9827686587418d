"""Tables: typed cells and their rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.read import read_examples
from tunesmith.data.read.cells import RowError
from tunesmith.data.read.formats import recognise
from tunesmith.data.read.table import cell_text, read_cell, render
from tunesmith.errors import DataError


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("39", 39.0), (" -0.5 ", -0.5), ("1e3", 1000.0), (39, 39.0), (0.25, 0.25),
        ("007", "007"), ("1,5", "1,5"), ("+1", "+1"), ("nan", "nan"), ("1e999", "1e999"), ("?", "?"), (True, "true"),
        ("12345678901234567890", "12345678901234567890"), (2**53 + 1, str(2**53 + 1)),
        ("", None), ("  ", None), (None, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_cell_is_a_number_a_text_or_missing(value: Any, cell: Any) -> None:
    found = read_cell(value, "c")
    assert (found, type(found)) == (cell, type(cell))


@pytest.mark.parametrize("value", [float("inf"), [1], {"a": 1}])
def test_what_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(RowError, match="'c' is"):
        read_cell(value, "c")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_from_its_text(value: float) -> None:
    assert float(cell_text(value)) == value


ROW = (("age", 39.0), ("workclass", "State-gov"), ("capital-gain", None))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("names", "age: 39\nworkclass: State-gov\ncapital-gain: missing"),
        ("sentence", "The age is 39. The workclass is State-gov. The capital-gain is missing."),
        ("{{{workclass}}} at {age}: {capital-gain}", "{State-gov} at 39: missing"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(ROW, template) == text


TABLE = "age,job,team,label\n39,cook,a,yes\n,baker,b,no\n40,cook,a,yes\n41.5,baker,b,no\n"


def test_every_column_but_label_and_group_is_a_feature(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(TABLE)
    found = read_examples(path, "classification", format="table", group="team").examples
    assert [e.columns for e in found[:2]] == [(("age", 39.0), ("job", "cook")), (("age", None), ("job", "baker"))]
    assert [(e.text, e.label, e.group) for e in found[:1]] == [("age: 39\njob: cook", "yes", "a")]
    own = read_examples(path, "classification", format="table", template="A {job}.").examples
    assert (own[0].text, own[0].columns) == ("A cook.", (("job", "cook"),))
    number = read_examples(path, "regression", format="table", label="age", policy="skip")
    assert [e.label for e in number.examples] == ["39", "40", "41.5"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{aeg} {label}", "data.template names 'aeg', 'label', but the columns are 'age', 'job'"),
        ("{age", "braces do not pair"),
        ("{age:.1f}", "expected just a column's name"),
        ("{age.real}", "names 'age.real'"),
    ],
)
def test_a_template_that_names_no_columns_is_refused(template: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        recognise([{"age": "1", "job": "x", "label": "y"}], "x", "classification", "table", template=template)
    assert expected in str(caught.value)


def test_what_a_table_cannot_be_is_refused_together() -> None:
    with pytest.raises(DataError) as caught:
        recognise([{"age": "1", "job": "x"}], "x", "generation", "table", text="age")
    for part in ("which is for classification", "data.text belongs to", "which column holds the answer"):
        assert part in str(caught.value)


def test_a_table_taken_for_texts_is_told_of_the_format() -> None:
    with pytest.raises(DataError) as caught:
        recognise([{"age": "1", "job": "x", "verdict": "y"}], "x", "classification")
    assert "data.label: COLUMN" in str(caught.value)
    assert "'data.format: table'" in str(caught.value)
