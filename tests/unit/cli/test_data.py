from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from assets.seq2seq import build_seq2seq
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
        assert len(kept) == example["trained_units"] > 0
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


def project(folder: Path, **settings: object) -> str:
    path = folder / "project.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return str(path)


def previewed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, ["preview", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_preview_of_pairs_shows_both_answers(tmp_path: Path, tiny_model_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = project(tmp_path, task="preference", model=str(tiny_model_path), data={"train": "pairs.jsonl"})
    spans = previewed(config, "-n", "1")["examples"][0]["spans"]
    assert [span["role"] for span in spans] == ["read", "trained", "against"]
    number = spans[0]["text"].split("question ")[1].split("<")[0]
    assert spans[1]["text"].startswith(f"good {number}<|im_end|>")
    assert spans[2]["text"].startswith(f"bad {number}<|im_end|>")
    text = CliRunner().invoke(command, ["preview", config, "-n", "1"]).stdout
    assert f"⟦good {number}<|im_end|>" in text
    assert f"⟦not: bad {number}<|im_end|>" in text
    assert "preferred to" in text


def test_preview_of_a_head_shows_its_text_and_target(tmp_path: Path, tiny_model_path: Path) -> None:
    rows = "".join(f"{i},red {i},{i / 10}\n" for i in range(60))
    (tmp_path / "table.csv").write_text(f"size,colour,price\n{rows}")
    config = project(
        tmp_path, task="regression", model=str(tiny_model_path), method="head",
        data={"train": "table.csv", "format": "table", "label": "price"},
    )  # fmt: skip
    shown = previewed(config, "-n", "2")
    assert shown["interface"] == "head"
    for example in shown["examples"]:
        read, target = example["spans"]
        assert (read["role"], target["role"]) == ("read", "target")
        assert f"red {round(float(target['text']) * 10)}" in read["text"]
        assert example["trained_units"] == 1


def test_preview_of_an_encoder_decoder_shows_source_and_target(tmp_path: Path) -> None:
    model = build_seq2seq("t5", tmp_path / "t5")
    rows = [{"prompt": f"source {i}", "completion": f"target {i}"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = project(
        tmp_path, task="translation", model=str(model),
        method="full", data={"train": "pairs.jsonl"},
    )  # fmt: skip
    shown = previewed(config, "-n", "1")
    assert shown["interface"] == "seq2seq"
    assert [span["role"] for span in shown["examples"][0]["spans"]] == ["read", "trained"]


def test_preview_of_images_names_them_and_marks_the_answer(
    tmp_path: Path, tiny_llava_path: Path, drawn: list[str]
) -> None:
    rows = [{"image": drawn[i % len(drawn)], "question": f"what is {i}?", "answer": f"it is {i}"} for i in range(60)]
    (tmp_path / "images.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = project(
        tmp_path, task="image_text", model=str(tiny_llava_path),
        data={"train": "images.jsonl", "image": "image", "text": "question", "label": "answer"},
    )  # fmt: skip
    spans = previewed(config, "-n", "1")["examples"][0]["spans"]
    assert spans[0]["text"].strip() in drawn
    (learned,) = [span["text"] for span in spans if span["role"] == "trained"]
    assert "it is" in learned


def test_preview_of_a_method_that_the_project_has_not(tmp_path: Path, tiny_model_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"headline {i},{'ab'[i % 2]}\n" for i in range(60)))
    config = project(tmp_path, task="classification", model=str(tiny_model_path), data={"train": "data.csv"})
    with pytest.raises(SystemExit) as ended:
        main(["data", "preview", config, "--method", "head"])
    assert ended.value.code == 3
