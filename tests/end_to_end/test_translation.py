"""From a file of sentence pairs to a report, by a decoder and by an encoder–decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assets.seq2seq import build_seq2seq
from end_to_end.projects import TINY, call, read_strictly, sentences, write_project
from tunesmith.measures.translation import bleu, chrf
from tunesmith.run import Run, read_predictions


def project(folder: Path, model: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"source": text, "target": f"{text.replace('the', 'le')} {label}"} for text, label in sentences(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "translation", "instruction": "to French:", "max_new_tokens": 24}
    data = {"train": "pairs.jsonl", "text": "source", "label": "target", "validation_size": 8, "test_size": 12}
    return write_project(folder, task=task, data=data, model=str(model), **changes)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seq2seq("t5", tmp_path_factory.mktemp("models") / "tiny_t5")


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_a_run_from_pairs_to_a_report(tmp_path: Path, t5: Path, family: str) -> None:
    model = TINY if family == "decoder" else t5
    config = project(tmp_path, model)
    out = tmp_path / "run"
    result = call("run", str(config), "--out", str(out))
    assert result.code == 0, result.err
    report = read_strictly(out / "report.json")
    shots = ["prompt/few-shot"] if family == "decoder" else []
    tuned = f"tune/{model.name}/lora"
    assert [c["id"] for c in report["candidates"]] == ["baseline/copy", "prompt/zero-shot", *shots, tuned]
    assert report["task"] == {"kind": "translation", "metric": "chrf"}
    for candidate in report["candidates"]:
        assert candidate["status"] == "ok", candidate["reason"]
        stored = read_predictions(Run(out).candidate(candidate["id"]) / "predictions.parquet")
        texts = [p.prediction for p in stored], [p.target for p in stored]
        assert candidate["metrics"]["chrf"]["value"] == pytest.approx(chrf(*texts))
        assert candidate["metrics"]["bleu"]["value"] == pytest.approx(bleu(*texts))
    assert report["candidates"][0]["metrics"]["chrf"]["value"] > 50
    adapter, pairs = Run(out).candidate(tuned) / "adapter", tmp_path / "pairs.jsonl"
    again = call("evaluate", str(adapter), str(pairs), "--text", "source", "--label", "target", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["n"] == 60
    if family == "encoder-decoder":
        refused = call("chat", str(t5), "--message", "the card")
        assert refused.code == 3
        assert "holds no conversation" in refused.err


def test_an_untuned_encoder_decoder_is_asked_as_one(tmp_path: Path, t5: Path) -> None:
    config = project(tmp_path, t5)
    result = call("evaluate", str(t5), str(tmp_path / "pairs.jsonl"), "--config", str(config), "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["n"] == 60


def test_what_an_encoder_decoder_cannot_do_is_refused_before_it_is_loaded(tmp_path: Path, t5: Path) -> None:
    config = project(tmp_path, t5, method=["qlora", "head"])
    result = call("run", str(config), "--out", str(tmp_path / "run"))
    assert result.code == 3
    assert "method qlora" in result.err
    assert "method head" in result.err
    pairs = tmp_path / "pairs.jsonl"
    other = write_project(tmp_path, task="generation", data={"train": str(pairs), "text": "source", "label": "target"},
                          model=str(t5))  # fmt: skip
    result = call("run", str(other), "--out", str(tmp_path / "run2"))
    assert result.code == 3
    assert "use task translation" in result.err


def test_an_empty_translation_is_refused_with_its_line(tmp_path: Path) -> None:
    config = project(tmp_path, TINY)
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write('{"source": "the card", "target": " "}\n')
    result = call("run", str(config), "--out", str(tmp_path / "run"))
    assert result.code == 3
    assert "61" in result.err
    assert "'target' is empty" in result.err
