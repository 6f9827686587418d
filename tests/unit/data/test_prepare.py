"""From settings to splits, over several files and kinds of data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tunesmith.config import Data, parse_config, read_config
from tunesmith.data.prepare import prepare_data, read_source
from tunesmith.errors import ConfigError, DataError


def test_a_wildcard_reads_its_files_in_order_and_names_each_row(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{name}{i},{i % 2}\n" for i in range(4)))
    (tmp_path / "project.yaml").write_text("task: classification\ndata: {train: '*.csv'}\n")
    data = read_config(tmp_path / "project.yaml").data
    result = read_source(data.train, data, "classification")
    assert [e.source for e in result.examples] == [f"{tmp_path}/{name}.csv:{i + 2}" for name in "ab" for i in range(4)]
    (tmp_path / "a.csv").write_text("text,label\n,1\nx,lonely\n")
    (tmp_path / "b.csv").write_text("text,label\n" + "".join(f"{i},{i % 2}\n" for i in range(8)) + ",0\n")
    with pytest.raises(DataError) as caught:
        read_source(data.train, data, "classification")
    places = ["a.csv line 2: 'text' is empty", "a.csv line 3: the label 'lonely' occurs", "b.csv line 10: 'text' is"]
    found = [str(caught.value).find(place) for place in places]
    assert min(found) > 0
    assert found == sorted(found)


def test_labels_are_each_label_or_none_for_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t{i}", "label": ["", "b", "a|b"][i % 3]}) for i in range(60)))
    assert prepare_data(Data(train=str(path)), "multi_label", 0).labels == ("a", "b")
    path.write_text("\n".join(json.dumps({"text": f"t{i}", "label": i / 7}) for i in range(60)))
    prepared = prepare_data(Data(train=str(path), train_limit=20), "regression", 0)
    assert (prepared.labels, len(prepared.split.train)) == ((), 20)


def test_the_problems_of_all_files_come_together(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("text,score\na,1\nb,n/a\n")
    data = Data(train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    with pytest.raises(DataError) as caught:
        prepare_data(data, "regression", 0)
    assert str(caught.value).count("'score' is 'n/a'") == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"columns": ["a", "a"]}, "'data.columns' is ['a', 'a']: expected each name once"),
        (
            {"format": "table", "template": "x"},
            "'data.template' is 'x': expected names, sentence, or text with {column}",
        ),
        ({"template": "{a}"}, "'data.template' is '{a}': a template needs 'data.format: table'"),
        ({"format": "table", "image": "x"}, "'data.image' is 'x': a table has no images"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"task": "classification", "data": {"train": "a.csv", **settings}})
    assert expected in str(caught.value)


def test_a_table_of_thirty_thousand_rows(shared_data: Path) -> None:
    data = Data(train=str(shared_data / "uci_tabular" / "adult.csv.gz"), format="table", label="income-per-year")
    split = prepare_data(data, "classification", 0).split
    with gzip.open(data.train, "rt") as file:
        lines = file.read().splitlines()
    assert len(split.train) + len(split.validation) + len(split.test) == len(lines) - 1
    example = split.test[0]
    cells = lines[int(example.source.rpartition(":")[2]) - 1].split(",")
    assert [*(line.partition(": ")[2] for line in (example.text or "").split("\n")), example.label] == cells


def test_quotes_in_a_scored_tsv_swallow_no_rows(shared_data: Path) -> None:
    path = shared_data / "complex_regression" / "lcp_single_train.tsv"
    data = Data(train=str(path), format="table", template="{token}: {sentence}", label="complexity")
    assert len(read_source(data.train, data, "regression").examples) == 7662
