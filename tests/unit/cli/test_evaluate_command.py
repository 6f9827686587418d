from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from end_to_end.projects import TINY, call, settings, write_labelled, write_project
from tunesmith.run import Run, read_json, read_predictions, write_json, write_predictions, write_table

LORA = "candidates/tune__tiny_llama__lora"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    config = write_project(folder, task={"kind": "classification", "instruction": "Is it good?"})
    assert call("run", config, "--out", folder / "run", "-q").code == 0
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(made, tmp_path / "run"))


# ── a run alone ──────────────────────────────────────────────────────────────────────────────────────────
def test_a_run_whose_numbers_hold(run: Path) -> None:
    (run / "report.html").unlink()
    before = read_json(run / "report.json")
    result = call("evaluate", run)
    assert result.code == 0, result.err
    assert "equal those computed again" in result.out
    assert (run / "report.html").is_file()
    assert read_json(run / "report.json") == before
    found = json.loads(call("evaluate", run, "--json").out)
    assert found["equal"] is True and found["differences"] == [] and found["numbers"] > 100
    assert Run.open(run).test_looks() == 1


def change_report(run: Path) -> str:
    report = read_json(run / "report.json")
    report["candidates"][-1]["metrics"]["accuracy"]["value"] += 0.01
    write_json(run / "report.json", report)
    return "tune/tiny_llama/lora.metrics.accuracy.value"


def change_verdict(run: Path) -> str:
    report = read_json(run / "report.json")
    report["verdict"]["choice"] = "prompt/few-shot"
    write_json(run / "report.json", report)
    return "verdict.choice"


def change_comparison(run: Path) -> str:
    report = read_json(run / "report.json")
    report["comparisons"][0]["p_value"] /= 2
    write_json(run / "report.json", report)
    return "comparisons[0].p_value"


def change_prediction(run: Path) -> str:
    path = run / LORA / "predictions.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["prediction"] = {"yes": "no", "no": "yes"}[rows[0]["prediction"]]
    write_table(path, rows)
    return "tune/tiny_llama/lora.metrics.accuracy.value"


@pytest.mark.parametrize("change", [change_report, change_verdict, change_comparison, change_prediction])
def test_a_changed_number_is_found_and_nothing_is_overwritten(run: Path, change: Any) -> None:
    where = change(run)
    report, page = (run / "report.json").read_bytes(), (run / "report.html").read_bytes()
    result = call("evaluate", run)
    assert result.code == 1
    assert result.out == ""
    assert where in result.err
    assert (run / "report.json").read_bytes() == report
    assert (run / "report.html").read_bytes() == page
    assert json.loads(call("evaluate", run, "--json").out)["equal"] is False


def test_predictions_of_something_else_are_found(run: Path) -> None:
    for name in Run(run).folder.glob("candidates/*/predictions.parquet"):
        write_predictions(name, read_predictions(name)[1:])
    result = call("evaluate", run)
    assert result.code == 1
    assert "test examples answered, with their targets: reported 16" in result.err


def test_what_is_no_finished_run(tmp_path: Path, made: Path) -> None:
    assert call("evaluate", tmp_path).code == 4
    result = call("evaluate", made, "--label", "x")
    assert result.code == 2
    assert "--label: only with DATA" in result.err


# ── a model and a file ───────────────────────────────────────────────────────────────────────────────────
def test_on_the_runs_own_test_split_it_says_what_the_report_does_and_counts_the_look(run: Path) -> None:
    reported = read_json(run / "report.json")["candidates"][-1]
    for place in (LORA, f"{LORA}/adapter"):
        found = json.loads(call("evaluate", run / place, run / "splits" / "test.parquet", "--json", "-q").out)
        assert found["metrics"] == reported["metrics"]
        assert found["tokens_per_example"] == reported["tokens_per_example"]  # the instruction was kept
    assert Run.open(run).test_looks() == 3


def test_on_other_examples_no_look_is_counted(run: Path, tmp_path: Path) -> None:
    fresh = write_labelled(tmp_path / "fresh.csv", 30, seed=9)
    out = tmp_path / "answers.parquet"
    result = call("evaluate", run / LORA, fresh, "--out", out, "-q", "--json")
    found = json.loads(result.out)
    assert found["n"] == 30
    assert found["test_looks"] == {}
    assert Run.open(run).test_looks() == 1
    rows = pq.read_table(out).to_pylist()
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(
        sum(r["prediction"] == r["target"] for r in rows) / 30
    )
    said = call("evaluate", run / LORA, fresh, "-q")
    assert f"on 30 examples of {fresh}" in said.out
    assert "accuracy" in said.out


def test_a_file_that_holds_test_examples_counts_as_a_look(run: Path, made: Path) -> None:
    result = call("evaluate", run / LORA, made.parent / "data.csv", "-q")
    assert result.code == 0, result.err
    assert "looked at 2 times" in result.err


def test_columns_by_name_and_labels_that_are_not_known(made: Path, tmp_path: Path) -> None:
    data = tmp_path / "named.csv"
    data.write_text("message,team,id\n" + "".join(f"the day is good {i},yes,{i}\n" for i in range(6)))
    result = call("evaluate", made / LORA, data, "--text", "message", "--label", "team", "-q", "--json")
    assert json.loads(result.out)["n"] == 6
    wrong = call("evaluate", made / LORA, data, "--text", "message", "--label", "id", "-q")
    assert wrong.code == 3
    assert "labels that the model does not know: '0' (1)" in wrong.err
    assert "It knows no, yes" in wrong.err


def test_a_base_model_needs_to_be_told_its_task(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "data.csv", 20)
    refused = call("evaluate", TINY, data, "-q")
    assert refused.code == 3
    assert "--config" in refused.err
    config = tmp_path / "task.yaml"
    config.write_text(yaml.safe_dump(settings()))
    found = json.loads(call("evaluate", TINY, data, "--config", config, "--json", "-q").out)
    assert found["task"] == {"kind": "classification", "metric": "accuracy"}
    assert found["n"] == 20
