from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from end_to_end.projects import TINY, call, write_project
from tunesmith.cli import chat
from tunesmith.cli.chat import answer, in_words
from tunesmith.config import Classification
from tunesmith.data.render import Renderer
from tunesmith.errors import DataError
from tunesmith.model.generate import generate
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.records import Message, Prediction
from tunesmith.run import Run, write_json
from tunesmith.tasks.classification import build_classification


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    loaded = load_model(str(TINY))
    loaded.model.set_attn_implementation("sdpa")  # as the command does before it answers
    return loaded


@pytest.fixture(scope="module")
def renderer(lm: LanguageModel) -> Renderer:
    return Renderer(lm.tokenizer, lm.max_length)


def test_streamed_is_what_evaluation_would_generate(lm: LanguageModel, renderer: Renderer) -> None:
    turns = [Message("user", "the day is cold")]
    (expected,) = generate(lm, [renderer.prompt(tuple(turns))], 20)
    pieces: list[str] = []
    reply = answer(lm, renderer, turns, 20, pieces.append)
    assert reply["answer"] == expected.text.strip() == "".join(pieces).strip()
    assert reply["prompt_tokens"] == expected.prompt_tokens
    assert reply["truncated"] == expected.truncated
    assert not reply["stopped"]


def test_ctrl_c_keeps_what_was_said(lm: LanguageModel, renderer: Renderer) -> None:
    pieces: list[str] = []

    def show(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    reply = answer(lm, renderer, [Message("user", "go on")], 200, show)
    assert reply["stopped"]
    assert reply["answer"] == "".join(pieces).strip()


def test_a_conversation_without_room_is_refused(lm: LanguageModel, renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"the model takes 1,024. Use /reset"):
        answer(lm, renderer, [Message("user", "word " * 1500)], 10, lambda text: None)


def talk(monkeypatch: pytest.MonkeyPatch, said: str, *arguments: object) -> tuple[Any, list[list[Message]]]:
    asked: list[list[Message]] = []

    def reply(lm: Any, renderer: Any, turns: list[Message], n: int, show: Any) -> dict[str, Any]:
        asked.append(list(turns))
        text = f"answer {len(asked)}"
        show(text + "\x1b[31m")
        return {"answer": text, "stopped": False, "truncated": False}

    monkeypatch.setattr(chat, "answer", reply)
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    return call("chat", TINY, *arguments), asked


def test_a_conversation_is_remembered_until_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "one\n\ntwo\n/reset\nthree\n/what\n/exit\nnever\n"
    result, asked = talk(monkeypatch, said, "--system", "Be short.")
    assert result.code == 0
    spoken = [[(m.role, m.content) for m in turns] for turns in asked]
    system = ("system", "Be short.")
    assert spoken == [
        [system, ("user", "one")],
        [system, ("user", "one"), ("assistant", "answer 1"), ("user", "two")],
        [system, ("user", "three")],
    ]
    assert result.out.startswith("answer 1\\x1b[31m\n")  # no escapes reach the terminal
    assert "no command '/what'" in result.err


def test_the_end_of_input_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = talk(monkeypatch, "one\n")
    assert result.code == 0
    assert len(asked) == 1


def test_one_message_for_a_script() -> None:
    plain = call("chat", TINY, "--message", "the day", "--max-new-tokens", "5")
    found = json.loads(call("chat", TINY, "--message", "the day", "--max-new-tokens", "5", "--json").out)
    assert plain.code == 0
    assert plain.out.strip() == "".join(c if c.isprintable() else repr(c)[1:-1] for c in found["answer"])
    assert found["completion_tokens"] <= 5
    refused = call("chat", TINY, "--message", "end <|im_end|> here")
    assert refused.code == 3
    assert "control token" in refused.err


def test_a_base_model_without_template_says_so(tmp_path: Path) -> None:
    for file in TINY.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    result = call("chat", tmp_path, "--message", "the day", "--max-new-tokens", "3")
    assert result.code == 0, result.err
    assert "without chat template" in result.err


def test_a_run_stands_for_the_model_it_chose_and_its_instruction(tmp_path: Path) -> None:
    task = {"kind": "classification", "instruction": "Is it good?"}
    config = write_project(tmp_path, candidates=["baseline", "tune"], task=task)
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    run = Run.open(tmp_path / "run")
    report = json.loads(run.report_file.read_text())
    adapter = run.saved_model("tune/tiny_llama/lora")
    write_json(run.report_file, report | {"verdict": report["verdict"] | {"choice": "tune/tiny_llama/lora"}})
    said = json.loads(call("chat", run.folder, "--message", "the day is good", "--json").out)
    assert said["model"] == str(adapter)
    lm = load_model(str(adapter))
    renderer = Renderer(lm.tokenizer, lm.max_length)
    turns = (Message("system", "Is it good?"), Message("user", "the day is good"))
    assert said["prompt_tokens"] == len(renderer.prompt(turns))
    write_json(run.report_file, report | {"verdict": report["verdict"] | {"choice": "baseline/majority"}})
    only = call("chat", run.folder, "--message", "hi", "--json")
    assert json.loads(only.out)["model"] == str(adapter)  # the only one that was fine-tuned
    second = run.candidate("tune/tiny_llama/full") / "model"
    second.mkdir(parents=True)
    several = {"candidates": [*report["candidates"], {"id": "tune/tiny_llama/full"}]}
    write_json(run.report_file, report | several | {"verdict": report["verdict"] | {"choice": "baseline/majority"}})
    refused = call("chat", run.folder, "--message", "hi")
    assert refused.code == 4
    assert str(adapter) in refused.err
    assert str(second) in refused.err


@pytest.mark.parametrize(
    ("words", "labels", "shown"),
    [
        ({"0": "sincere", "1": "sarcastic"}, ("0", "1"), "1, sarcastic  (1 0.750, 0 0.250)"),
        (None, ("card_arrival", "lost_card"), "lost_card  (lost_card 0.750, card_arrival 0.250)"),
    ],
)
def test_a_label_is_shown_with_the_word_that_the_project_file_gives_it(
    words: dict[str, str] | None, labels: tuple[str, str], shown: str
) -> None:
    task = build_classification(Classification(labels=words), labels, None)
    found = Prediction("f:1", "tune", labels[1], labels[1], 1.0, probabilities=(0.25, 0.75))
    assert in_words(found, task) == shown
