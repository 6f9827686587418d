from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith.cli.data import command
from tunesmith.cli.main import main


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(60)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_preview_marks_what_is_trained(chats: Path, tiny_model_path: Path) -> None:
    result = CliRunner().invoke(command, ["preview", str(chats), "--model", str(tiny_model_path), "-n", "2"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("⟦answer ") == 2
    assert result.stdout.count("<|im_end|>⟧") == 2
    assert result.stdout.count("<|im_start|>assistant\n⟦answer") == 2
    assert "prompt_completion layout" in result.stderr


def test_preview_as_json_says_the_same_tokens(chats: Path, tiny_model_path: Path) -> None:
    arguments = ["preview", str(chats), "--model", str(tiny_model_path), "--json", "--split", "validation"]
    shown = json.loads(CliRunner().invoke(command, arguments).stdout)
    assert sum(shown["splits"].values()) == 60
    assert len(shown["examples"]) == 3
    for example in shown["examples"]:
        assert example["tokens"] == len(example["input_ids"])
        kept = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label >= 0]
        assert len(kept) == example["trained_tokens"] > 0
        assert [span["trained"] for span in example["spans"]] == [False, True]


def test_preview_of_a_classification_project(tmp_path: Path, tiny_model_path: Path) -> None:
    rows = "".join(f"headline {i},{'sincere' if i % 2 else 'sarcastic'}\n" for i in range(60))
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}")
    config = tmp_path / "project.yaml"
    config.write_text(f"task: classification\nmodel: {tiny_model_path}\ndata: {{train: data.csv}}\n")
    result = CliRunner().invoke(command, ["preview", str(config), "-n", "1"])
    assert result.exit_code == 0, result.output
    assert "headline" in result.stdout
    assert any(f"⟦{label}<|im_end|>⟧" in result.stdout for label in ("sincere", "sarcastic"))


def test_control_characters_of_the_data_do_not_reach_the_terminal(tmp_path: Path, tiny_model_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"prompt": f"\x1b[31m {i}", "completion": "ok"} for i in range(60)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    result = CliRunner().invoke(command, ["preview", str(path), "--model", str(tiny_model_path)])
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert r"\x1b[31m" in result.stdout


def test_the_test_split_is_not_shown(chats: Path) -> None:
    result = CliRunner().invoke(command, ["preview", str(chats), "--split", "test"])
    assert result.exit_code == 2


@pytest.mark.parametrize(("name", "code"), [("nowhere.jsonl", 4), ("bad.jsonl", 3)])
def test_bad_files_end_with_their_exit_code(
    tmp_path: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(SystemExit) as stop:
        main(["data", "preview", str(tmp_path / name)])
    assert stop.value.code == code
    assert capsys.readouterr().err.startswith("error: ")
