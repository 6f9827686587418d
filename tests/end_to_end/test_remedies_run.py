"""Remedies in a run: texts of the base or of a file, a scale that validation chose, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from end_to_end.projects import call, read_strictly, write_project
from tunesmith.config import Config, Remedies, parse_config
from tunesmith.errors import ConfigError, DataError
from tunesmith.model.load import load_model
from tunesmith.run import Run, read_examples
from tunesmith.train.remedies import gather_texts
from tunesmith.train.remedies.replay import read_texts
from tunesmith.workflow import silent

TUNE = "tune/tiny_llama/lora"


def write_chats(path: Path, n: int) -> Path:
    chats = [
        [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"it is {i} then"}] for i in range(n)
    ]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


def test_all_remedies_in_one_run(tmp_path: Path) -> None:
    write_chats(tmp_path / "chats.jsonl", 110)
    remedies = {"replay": 0.1, "replay_from": "chats.jsonl", "scale": [0.5, 1], "exchange": 0.5, "kl": 0.1,
                "l2_sp": 0.01, "ewc": 0.1, "averaging": 0.2}  # fmt: skip
    config = write_project(tmp_path, candidates=["tune"], remedies=remedies)
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    (candidate,) = read_strictly(tmp_path / "run" / "report.json")["candidates"]
    told, tried = candidate["details"]["remedies"], candidate["details"]["scales"]
    n = len(read_examples(tmp_path / "run" / "splits" / "train.parquet"))
    assert (told["replayed"], told["held"], told["compared"]) == (round(0.1 * n), 64, 32)
    assert [row["scale"] for row in tried] == [0.5, 1.0]
    best = min(tried, key=lambda row: row["validation_loss"] + 0.5 * row["kl_to_base"])
    assert told["scale"] == best["scale"]
    adapter = read_strictly(Run(tmp_path / "run").candidate(TUNE) / "adapter" / "adapter_config.json")
    assert adapter["lora_alpha"] == 32.0 * told["scale"]
    assert "not drawn" not in candidate["memorization"].get("reason", "")  # general texts are no part of the data
    assert "0.5" in (tmp_path / "run" / "report.html").read_text()


def test_the_base_writes_once_what_is_replayed(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["tune"], remedies={"replay": 0.05}, train={"epochs": 1})
    assert call("train", config, "--out", tmp_path / "run", "-q").code == 0
    texts = read_examples(Run(tmp_path / "run").candidate(TUNE) / "replay.parquet")
    n = len(read_examples(tmp_path / "run" / "splits" / "train.parquet"))
    assert len(texts) == round(0.05 * n) == 3
    assert all(e.source.startswith("base:") for e in texts)


def test_texts_are_never_shared_between_uses(tmp_path: Path, tiny_model_path: Path) -> None:
    source = str(write_chats(tmp_path / "chats.jsonl", 110))
    settings = Remedies(replay=0.1, replay_from=source, kl=1, scale="auto")
    lm = load_model(str(tiny_model_path))
    found = gather_texts(settings, lm, 100, tmp_path / "x", 0, silent)
    assert {use: len(texts) for use, texts in found.items()} == {"replayed": 10, "held": 64, "compared": 32}
    assert len({e.id for texts in found.values() for e in texts}) == 106
    assert gather_texts(settings, lm, 100, tmp_path / "x", 0, silent) == found
    with pytest.raises(DataError, match=r"110 texts .* 146 are needed \(50 replayed, 64 held, 32 compared\)"):
        gather_texts(settings, lm, 500, tmp_path / "x", 0, silent)


def test_texts_that_do_not_fit_are_told_or_refused(tmp_path: Path) -> None:
    write_chats(tmp_path / "chats.jsonl", 70)
    long = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "long " * 60}]
    with (tmp_path / "chats.jsonl").open("a") as file:
        file.write(json.dumps({"messages": long}) + "\n")
    remedies = {"kl": 1, "replay_from": "chats.jsonl"}
    config = write_project(tmp_path, candidates=["tune"], remedies=remedies, train={"max_length": 120})
    found = json.loads(call("plan", config, "--json").out)
    assert [f["count"] for f in found["findings"] if f["check"] == "overlong"] == [1]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": long}) + "\n") * 64)
    result = call("plan", config)
    assert result.code == 3
    assert "No example is left. Raise train.max_length." in result.err


def test_texts_may_be_plain(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "One."}\n{"text": "Two."}\n')
    assert [[(m.role, m.content) for m in e.messages] for e in read_texts(str(plain))] == [
        [("assistant", "One.")], [("assistant", "Two.")]
    ]  # fmt: skip
    plain.write_text('{"text": "One."}\n{"text": " "}\n')
    with pytest.raises(DataError, match=r"1 rows have no text: .*plain.jsonl:2"):
        read_texts(str(plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"remedies": {"ewc": 1}, "method": "qlora"}, "ewc: not with qlora"),
        ({"remedies": {"scale": 0.5}, "method": {"kind": "lora", "dora": True}}, "scale: not with dora"),
        ({"remedies": {"l2_sp": 1, "kl": 1}, "method": {"kind": "lora", "init": "pissa"}}, "l2_sp: not with init: pis"),
        ({"remedies": {"kl": 1}, "method": "gradual"}, "method gradual trains a head"),
        ({"remedies": {"kl": 1}, "task": "regression"}, "not for task regression"),
        ({"remedies": {"kl": 1}, "candidates": ["prompt"]}, "nothing is fine-tuned"),
        ({"remedies": {"replay_from": "x"}}, "nothing uses texts"),
        ({"remedies": {"scale": 0.5, "exchange": 2}}, "nothing is chosen"),
        ({"remedies": {"scale": [0.5, 0.5]}}, "each may stand once"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"task": "classification", "data": {"train": "x.csv"}} | changes)
    assert isinstance(parse_config({"task": "classification", "data": {"train": "x.csv"}}), Config)


def test_models_with_a_head_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    from end_to_end.projects import build_encoder

    encoder = build_encoder(tmp_path / "encoder")
    config = write_project(tmp_path, model=str(encoder), candidates=["tune"], remedies={"kl": 1})
    result = call("plan", config)
    assert result.code == 3
    assert "remedies are for decoders that learn next tokens" in result.err
