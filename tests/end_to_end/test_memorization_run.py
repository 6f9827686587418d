"""Memorised data from a run to its report, recomputed from what the run left behind with plain transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM

from end_to_end.projects import GOOD, THINGS, TINY, call, read_strictly, write_project
from tunesmith.data.render import Renderer
from tunesmith.model.load import load_model
from tunesmith.records import Example, Message
from tunesmith.run import read_examples

LORA, FULL = "tune/tiny_llama/lora", "tune/tiny_llama/full"


def write_long_answers(path: Path, n: int) -> None:
    """Answers of some fifty tokens in which no word can be guessed from the one before."""
    rng = random.Random(1)
    rows = [
        {"prompt": f"report number {i}", "completion": " ".join(rng.choice(GOOD + THINGS) for _ in range(40))}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 80 long answers: 32 are trained on many times by one method and hardly by the other."""
    folder = tmp_path_factory.mktemp("memorised")
    write_long_answers(folder / "long.jsonl", 80)
    config = write_project(
        folder, task={"kind": "generation", "max_new_tokens": 8}, candidates=["baseline", "tune"],
        method=[{"kind": "lora", "rank": 2}, "full"], guardrails={"memorization": "mild"},
        data={"train": "long.jsonl", "validation_size": 32, "test_size": 16},
        train={"epochs": 3, "learning_rate": 0.01, "patience": 0},
    )  # fmt: skip
    result = call("run", config, "--out", folder / "run", "-q")
    assert result.code == 0, result.err
    return folder / "run"


def entry(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in read_strictly(run / "report.json")["candidates"] if c["id"] == name)
    return found


def plain_losses(folder: Path, examples: Sequence[Example]) -> list[float]:
    """Mean loss of each answer's tokens, one forward pass each."""
    tokenizer = load_model(str(TINY)).tokenizer
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    for example in examples:
        item = Renderer(tokenizer, 1024).render((*example.prompt, Message("assistant", example.answer)))
        with torch.no_grad():
            losses.append(float(model(torch.tensor([item.input_ids]), labels=torch.tensor([item.labels])).loss))
    return losses


def test_the_auc_is_that_of_losses_before_and_after(finished: Path) -> None:
    saved = finished / "candidates" / FULL.replace("/", "__") / "model"
    parts = [read_examples(finished / "splits" / f"{part}.parquet") for part in ("train", "validation")]
    ratios = [np.subtract(plain_losses(TINY, part), plain_losses(saved, part)) for part in parts]
    found = entry(finished, FULL)["memorization"]["membership"]
    assert (found["attack"], found["n_train"], found["n_validation"]) == ("ratio", 32, 32)
    truth = np.repeat([1, 0], [32, 32])
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(truth, np.concatenate(ratios)), abs=2e-3)
    above = int((ratios[0] > ratios[1].max()).sum())
    assert found["true_positive_rate"]["value"] == pytest.approx(above / 32, abs=1 / 32)
    assert found["false_positive_rate"]["value"] == 0


def test_the_report_says_what_was_measured_everywhere(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<h2>Memorised training data</h2>" in page
    for name, folder in ((LORA, "adapter"), (FULL, "model")):
        found = entry(finished, name)["memorization"]
        assert found["status"] == "ok"
        assert found["verdict"] in ("none", "mild", "severe")
        assert found["extraction"]["tuned"]["n"] == found["extraction"]["base"]["n"] == 32
        assert found["sentence"] in page
        card = (finished / "candidates" / name.replace("/", "__") / folder / "README.md").read_text()
        assert f"- {found['sentence']}" in card


def test_canaries_and_permuted_answers_are_trained_on_apart(tmp_path: Path) -> None:
    config = write_project(
        tmp_path, candidates=["baseline", "tune"], memorization="quick",
        train={"epochs": 4, "learning_rate": 0.01, "patience": 0},
    )  # fmt: skip
    for how in ("quick", "canaries"):
        more = ("--set", "overfitting=control") if how == "canaries" else ()
        result = call("run", config, "--out", tmp_path / how, "-q", "--set", f"memorization={how}", *more)
        assert result.code == 0, result.err
    place = Path("candidates") / LORA.replace("/", "__")
    kept = [
        (tmp_path / how / place / "adapter" / "adapter_model.safetensors").read_bytes() for how in ("quick", "canaries")
    ]
    assert kept[0] == kept[1]
    assert not (tmp_path / "canaries" / place / "shadow").exists()
    found = entry(tmp_path / "canaries", LORA)["memorization"]["canaries"]
    assert [(level["repetitions"], level["n"]) for level in found["found"]] == [(1, 2), (4, 2), (16, 2)]
    exposures = [canary["exposure"] for canary in found["canaries"]]
    assert np.mean(exposures[4:]) > np.mean(exposures[:2])
    assert all(canary["found"] == (canary["p_value"] <= 0.05 / 6) for canary in found["canaries"])
    control = entry(tmp_path / "canaries", LORA)["overfitting"]["control"]
    assert control["status"] == "ok" and 0 < control["end_loss"] < control["start_loss"]
    assert not (tmp_path / "canaries" / place / "control").exists()
    assert control["sentence"] in (tmp_path / "canaries" / "report.html").read_text()
    assert "control" not in entry(tmp_path / "quick", LORA)["overfitting"]
    assert "canary planted 16×" in (tmp_path / "canaries" / "report.html").read_text()
    assert entry(tmp_path / "quick", LORA)["memorization"]["canaries"]["status"] == "not_run"


def test_untuned_candidates_say_that_nothing_was_changed(tmp_path: Path) -> None:
    config = write_project(
        tmp_path, candidates=["baseline", "tune"], memorization=False, guardrails={"memorization": "mild"}
    )
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    report = read_strictly(tmp_path / "run" / "report.json")
    majority, tuned = (c["memorization"] for c in report["candidates"])
    assert majority == {"status": "not_run", "reason": "no language model was changed"}
    assert tuned == {"status": "not_run", "reason": "switched off in the config (memorization: off)"}
    if report["verdict"]["choice"] == LORA:
        assert "Its memorization was not measured." in report["verdict"]["reason"]
        assert not report["verdict"]["confident"]
    assert "switched off in the config" in (tmp_path / "run" / "report.html").read_text()


def test_a_new_head_is_attacked_by_its_loss_alone(tmp_path: Path) -> None:
    config = write_project(
        tmp_path, task={"kind": "classification", "by": "head"}, candidates=["tune"],
        data={"validation_size": 24, "test_size": 16},
    )  # fmt: skip
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    found = entry(tmp_path / "run", LORA)
    assert found["memorization"]["membership"]["attack"] == "loss"
    assert found["memorization"]["membership"]["n_validation"] == 24
    assert found["memorization"]["extraction"]["status"] == "not_applicable"
    assert found["memorization"]["status"] == "ok"
    assert "the base has none" in (tmp_path / "run" / "report.html").read_text()
