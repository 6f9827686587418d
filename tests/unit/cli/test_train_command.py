from __future__ import annotations

import json
from pathlib import Path

import pytest

from end_to_end.projects import build_encoder, call, sentences, write_pairs, write_project


def test_it_says_where_the_model_is_and_what_to_type_next(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    result = call("train", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    model = tmp_path / "run" / "candidates" / "tune__tiny_llama__lora" / "adapter"
    assert model.is_dir()
    assert f"  {model}\n" in result.out
    assert f"tunesmith chat {model}" in result.out
    assert f"tunesmith run {config} --out {tmp_path / 'run'}" in result.out
    assert "validation loss " in result.out
    assert "not fitted here: baseline, prompt\n" in result.out


def test_without_a_family_to_train_it_is_refused(tmp_path: Path) -> None:
    result = call("train", write_project(tmp_path, candidates=["prompt"]), "--out", tmp_path / "run")
    assert result.code == 3
    assert "has no 'tune' and no 'tune+rag'" in result.err
    assert not (tmp_path / "run").exists()


def test_what_looks_answers_up_is_trained_as_well(tmp_path: Path) -> None:
    """Where the project file has documents; a later run takes both as they are."""
    write_pairs(tmp_path / "pairs.jsonl", 40)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("\n\n".join(text for text, _ in sentences(40)))
    config = write_project(
        tmp_path, task={"kind": "generation", "max_new_tokens": 4}, data={"train": str(tmp_path / "pairs.jsonl")},
        encoder=str(build_encoder(tmp_path / "encoder")), rag={"documents": "docs", "chunk_size": 20, "k": 2},
        candidates=["tune", "tune+rag", "rag"], train={"epochs": 1},
    )  # fmt: skip
    result = call("train", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    folders = [tmp_path / "run" / "candidates" / f"{name}__tiny_llama__lora" for name in ("tune", "tune+rag")]
    assert f"tunesmith chat {folders[0] / 'adapter'}\n" in result.out
    asked = (
        f"tunesmith rag ask {tmp_path / 'run' / 'index'} QUESTION --model {folders[1] / 'adapter'} --retriever hybrid"
    )
    assert asked in result.out
    assert "not fitted here: rag\n" in result.out
    answer = call(*asked.replace("QUESTION", "which?").split()[1:], "--json")
    assert answer.code == 0, answer.err
    for folder in folders:
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        assert not (folder / "predictions.parquet").exists()

    with_tune_alone = call("train", config, "--out", tmp_path / "b", "--set", "candidates=[tune+rag]", "-q", "--json")
    assert [entry["id"] for entry in json.loads(with_tune_alone.out)["candidates"]] == ["tune+rag/tiny_llama/lora"]


def test_one_method_that_fails_does_not_stop_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.candidates import tuned
    from tunesmith.errors import TrainingError

    real = tuned.Tuned.fit

    def fit(self, train, validation):
        if self.method.kind == "lora":
            raise TrainingError("step 1: the loss is nan.")
        return real(self, train, validation)

    monkeypatch.setattr(tuned.Tuned, "fit", fit)
    config = write_project(tmp_path, method=["lora", "full"])
    result = call("train", config, "--out", tmp_path / "run", "-q", "--json")
    assert result.code == 1
    failed, trained = json.loads(result.out)["candidates"]
    assert (failed["status"], failed["reason"]) == ("failed", "step 1: the loss is nan.")
    assert (trained["status"], Path(trained["model"]).name) == ("ok", "model")
