"""What bad input gets: one clear message, the documented exit code, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from end_to_end.projects import Result, call, sentences, write_labelled, write_project
from tunesmith.run import Run


def refused(result: Result, code: int, *said: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "unexpected" not in result.err
    for words in said:
        assert words in result.err


def nothing_to_take_for_whole(run: Path) -> None:
    assert not (run / "report.json").exists()
    assert not (run / "candidates").exists()
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]


@pytest.fixture(params=["run", "train", "plan"])
def verb(request: pytest.FixtureRequest, tmp_path: Path) -> list[object]:
    """The start of a command line, and its end."""
    return [request.param, *([] if request.param == "plan" else ["--out", tmp_path / "run"]), "-q"]


def test_a_config_that_is_not_there(verb: list[object], tmp_path: Path) -> None:
    refused(call(*verb, tmp_path / "nothing.yaml"), 4, "nothing.yaml: no such config file")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trian": {"epochs": 1}}, "unknown setting 'trian'. Did you mean 'train'?"),
        ({"train": {"learning_rte": 1}}, "unknown setting 'train.learning_rte'. Did you mean 'learning_rate'?"),
        ({"method": {"kind": "lroa"}}, "Did you mean 'lora'?"),
        ({"candidates": ["tunes"]}, "candidates.0"),
        ({"train": {"epochs": -1}}, "'train.epochs' is -1"),
    ],
)
def test_settings_that_nobody_can_write(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    refused(call("run", write_project(tmp_path, **changes), "--out", tmp_path / "run"), 3, said)
    assert not (tmp_path / "run").exists()


def test_several_problems_are_said_at_once(tmp_path: Path) -> None:
    config = write_project(tmp_path, sede=1, train={"epoch": 2})
    result = call("run", config, "--out", tmp_path / "run")
    refused(result, 3, "'sede'. Did you mean 'seed'?", "'train.epoch'. Did you mean 'epochs'?")
    assert len(result.err.splitlines()) == 2


@pytest.mark.parametrize("text", ["task: [classification", "just words", "", "\tx: 1", "a: &a [*a, *a"])
def test_a_config_that_is_not_yaml_or_no_settings(tmp_path: Path, text: str) -> None:
    config = tmp_path / "project.yaml"
    config.write_text(text)
    refused(call("run", config, "--out", tmp_path / "run"), 3, "project.yaml: ")


@pytest.mark.parametrize("override", ["epochs", "=1", "task.kind.x=1", "train.epochs=[", "train.epochs=many"])
def test_overrides_that_cannot_be_read(tmp_path: Path, override: str) -> None:
    refused(call("run", write_project(tmp_path), "--out", tmp_path / "run", "--set", override), 3)


def test_a_model_that_is_not_there(verb: list[object], tmp_path: Path) -> None:
    config = write_project(tmp_path, model="smollm2-135m-instrct")
    refused(call(*verb, config), 4, "smollm2-135m-instruct")
    if (tmp_path / "run").exists():
        nothing_to_take_for_whole(tmp_path / "run")


def test_an_encoder_that_is_not_there_fails_alone(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline", "embedding"], encoder="no-such-encoder")
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 1
    assert "embedding/no-such-encoder  failed: no model 'no-such-encoder'" in result.out


def test_a_data_file_that_is_not_there(verb: list[object], tmp_path: Path) -> None:
    config = write_project(tmp_path, data={"train": "nowhere.csv"})
    refused(call(*verb, config), 4, "nowhere.csv: no such file")
    if (tmp_path / "run").exists():
        nothing_to_take_for_whole(tmp_path / "run")


def test_broken_rows_are_all_listed_with_their_lines(verb: list[object], tmp_path: Path) -> None:
    rows = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in sentences(40)]
    rows[4], rows[17], rows[30] = '{"text": "cut', '{"text": "", "label": "no"}', '{"text": 7, "label": "yes"}'
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = write_project(tmp_path, data={"train": "rows.jsonl"})
    refused(call(*verb, config), 3, "3 of 40 rows", "line 5:", "line 18:", "line 31:", "data.policy: skip")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["the day,yes"] * 1 + [f"day {i},yes" for i in range(30)], "every row has the label 'yes'"),
        ([f"day {i},{'yes' if i % 2 else 'no'}" for i in range(9)], "are needed"),
        ([f"day {i},{i}" for i in range(30)], "occurs once"),
        ([], "no rows"),
    ],
    ids=["one class", "too few", "every label once", "only a header"],
)
def test_data_that_says_nothing(verb: list[object], tmp_path: Path, rows: list[str], said: str) -> None:
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    refused(call(*verb, write_project(tmp_path)), 3, said)


def test_a_test_split_too_small_to_say_anything(verb: list[object], tmp_path: Path) -> None:
    config = write_project(tmp_path, data={"test_size": 3})
    refused(call(*verb, config), 3, "test has 3 examples; at least 5 are needed")


def test_an_example_longer_than_allowed(verb: list[object], tmp_path: Path) -> None:
    """Found before anything is trained, with every example named."""
    config = write_project(tmp_path, train={"max_length": 40}, candidates=["tune"])
    refused(call(*verb, config), 3, "longer than 40 tokens")


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("do not lose me")
    refused(call("run", write_project(tmp_path), "--out", tmp_path / "run"), 1, "not empty, and not a run")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "do not lose me"


def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(call("run", write_project(tmp_path), "--out", tmp_path / "file" / "run"), 1, "file/run")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    with Run(tmp_path / "run").lock():
        for verb in ("run", "train"):
            refused(call(verb, config, "--out", tmp_path / "run"), 1, "another process is writing this run")


def test_a_run_of_another_format(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline"])
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    file = tmp_path / "run" / "run.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("format_version: 1", "format_version: 99"))
    refused(call("run", config, "--out", tmp_path / "run"), 1, "format 99")
    file.write_text("][")
    refused(call("run", config, "--out", tmp_path / "run"), 1, "run.yaml: damaged")


def test_a_changed_split_is_noticed(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline"])
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    splits = tmp_path / "run" / "splits"
    (splits / "test.parquet").write_bytes((splits / "validation.parquet").read_bytes())
    refused(call("run", config, "--out", tmp_path / "run", "-q"), 1, "not the split of this run")


def test_a_mistyped_command_and_a_missing_argument() -> None:
    refused(call("evalute"), 2, "no command 'evalute'. Did you mean 'evaluate'?")
    refused(call("run"), 2, "CONFIG")
    refused(call("run", "x.yaml", "--epochs", "3"), 2, "--epochs")
    refused(call("chat", "x", "--json"), 2, "--message")


@pytest.mark.parametrize("name", ["nowhere", "hf:only-one-part", "pypi:x"])
def test_evaluating_and_chatting_with_models_that_are_not_there(tmp_path: Path, name: str) -> None:
    data = write_labelled(tmp_path / "x.csv")
    for arguments in (["evaluate", name, data, "-q"], ["chat", name, "--message", "hi"]):
        result = call(*arguments)
        assert result.code in (3, 4)
        assert "Traceback" not in result.err
        assert name in result.err
