"""tunesmith compare: two runs on what they share, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from tunesmith.cli.compare import command
from tunesmith.cli.main import main
from tunesmith.report.write import write_report
from tunesmith.run import read_json, read_predictions, write_json, write_predictions
from unit.report.synthetic_run import build_run

LORA = "tune/smollm2-135m-instruct/lora"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with the same data; the second has a better LoRA, another seed, and 20 test examples fewer."""
    folder = tmp_path_factory.mktemp("runs")
    first = build_run(folder / "first", shares={"prompt/zero-shot": 0.4, LORA: 0.6}, test=200)
    second = build_run(folder / "second", shares={"prompt/zero-shot": 0.4, LORA: 0.9}, test=200)
    for name in ("prompt/zero-shot", LORA):
        path = second.candidate(name) / "predictions.parquet"
        write_predictions(path, read_predictions(path)[20:])
    text = second.settings_file.read_text().replace("rank: 16", "rank: 32")
    second.settings_file.write_text(text)
    for run in (first, second):
        write_report(run)
    return first, second


def invoke(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_the_choices_are_compared_on_shared_examples(runs):
    result = json.loads(invoke(runs[0].folder, runs[1].folder, "--json").stdout)
    assert result["shared"] == 180
    assert [side["candidate"] for side in result["runs"]] == [LORA, LORA]
    assert [side["not_shared"] for side in result["runs"]] == [20, 0]
    a = {p.example_id: p.score for p in read_predictions(runs[0].candidate(LORA) / "predictions.parquet")}
    b = {p.example_id: p.score for p in read_predictions(runs[1].candidate(LORA) / "predictions.parquet")}
    expected = sum(a[i] - b[i] for i in b) / 180
    assert result["comparison"]["difference"] == pytest.approx(expected)
    assert result["comparison"]["high"] < 0
    assert result["sentence"].startswith("The second is better")
    assert result["settings"] == [{"setting": "method.0.rank", "first": 16, "second": 32}]


def test_a_named_candidate_without_a_difference_is_no_evidence(runs):
    said = invoke(runs[0].folder, runs[0].folder, "--candidate", "prompt/zero-shot").stdout
    assert "no evidence of a difference (could detect ≥ " in said
    assert "settings: the same" in said
    assert said.count("prompt/zero-shot") == 2


def test_the_text_shows_both_sides_and_the_settings(runs):
    said = invoke(runs[0].folder, runs[1].folder).stdout
    assert "20 test examples not shared" in said
    assert "method.0.rank: 16 → 32" in said


def failing(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    return stop.value.code, capsys.readouterr().err


def test_runs_without_a_shared_example_are_refused(runs, tmp_path, capsys):
    other = build_run(tmp_path / "other", shares={LORA: 0.9}, test=30, labels=("x", "y"))
    write_report(other)
    code, said = failing(capsys, runs[0].folder, other.folder)
    assert code == 1
    assert "share no test example" in said


def test_runs_of_different_metrics_are_refused(runs, tmp_path, capsys):
    other = build_run(tmp_path / "other", shares={LORA: 0.9}, test=30, kind="generation")
    write_report(other)
    code, said = failing(capsys, runs[0].folder, other.folder)
    assert code == 1
    assert "is judged by accuracy" in said
    assert "token_f1" in said


def test_what_is_not_there_is_named(runs, tmp_path, capsys):
    code, said = failing(capsys, runs[0].folder, tmp_path)
    assert code == 4
    assert "not a run directory" in said
    code, said = failing(capsys, *(run.folder for run in runs), "--candidate", "prompt/few-shot")
    assert code == 4
    assert "no predictions of candidate 'prompt/few-shot'. It has: prompt/zero-shot" in said


def test_a_run_that_chose_nothing_needs_a_candidate(runs, tmp_path, capsys):
    other = build_run(tmp_path / "other", shares={LORA: 0.9}, test=30)
    report = write_report(other)
    write_json(other.report_file, report | {"verdict": report["verdict"] | {"choice": None}})
    assert read_json(other.report_file)["verdict"]["choice"] is None
    code, said = failing(capsys, other.folder, runs[0].folder)
    assert code == 1
    assert "Name one with --candidate" in said
