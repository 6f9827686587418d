from __future__ import annotations

import json
from pathlib import Path

import pytest

from end_to_end.projects import call, write_project


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


def test_without_a_family_to_train_it_is_refused(tmp_path: Path) -> None:
    result = call("train", write_project(tmp_path, candidates=["prompt"]), "--out", tmp_path / "run")
    assert result.code == 3
    assert "has no 'tune'" in result.err
    assert not (tmp_path / "run").exists()


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
