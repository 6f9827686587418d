"""The metric followed in training is that of the weights; steps are selected by it only where it can be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tunesmith.candidates import FAMILIES
from tunesmith.candidates.candidate import Context
from tunesmith.candidates.follow import how_many, require_metric
from tunesmith.config import parse_any_config, parse_config
from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.measures.calibration import calibration_error_statistic
from tunesmith.records import Example
from tunesmith.tasks import build_task
from tunesmith.train.events import read_metrics
from tunesmith.workflow import silent

WORDS = {"up": ("rise", "climb", "soar"), "down": ("fall", "drop", "sink")}
EXAMPLES = [
    Example(f"f:{i}", text=f"{WORDS[label][i % 3]} {i}", label=label)
    for i, label in enumerate(["up", "down", "up", "up", "down", "down", "up"] * 6)
]


def tuned(path: Path, folder: Path, method: str, **train: Any) -> Any:
    config = parse_config({
        "task": {"kind": "classification", "metric": "macro_f1"}, "data": {"train": "x"}, "model": str(path),
        "method": method, "forgetting": "off", "memorization": "off", "train": train,
    })  # fmt: skip
    settings = {
        "epochs": 8,
        "patience": 0,
        "learning_rate": 2e-2,
        "global_batch_size": 8,
        "select": config.train.select,
    }
    context = Context(config, build_task(config.task, ["up", "down"]), str(path), {method: settings}, 200, silent)
    return FAMILIES["tune"].build(context, f"tune/tiny_llama/{method}", folder)


@pytest.mark.parametrize("method", ["lora", "head"])
def test_the_followed_metric_is_that_of_the_weights_of_its_step(
    tiny_model_path: Path, tmp_path: Path, method: str
) -> None:
    candidate = tuned(tiny_model_path, tmp_path, method, select="metric")
    learned, held = EXAMPLES[:30], EXAMPLES[30:]
    fit = candidate.fit(learned, held)
    course = fit.measured["overfitting"]["course"]
    lines = {line["step"]: line for line in read_metrics(tmp_path / "validations.jsonl")}
    best = max(line["macro_f1"] for line in lines.values())
    kept = lines[course["selected_step"]]
    assert kept["macro_f1"] == best
    assert course["best_steps"]["macro_f1"] <= course["selected_step"]
    # the same from the weights that were kept, by scikit-learn
    found = candidate.predict(held)
    answers, right = [p.prediction for p in found], [p.target for p in found]
    assert kept["macro_f1"] == pytest.approx(f1_score(right, answers, average="macro", zero_division=0))
    sure = np.array([[max(p.probabilities), p.prediction == p.target] for p in found])
    error = calibration_error_statistic(sure, np.ones((1, len(sure))))[0]
    assert kept["expected_calibration_error"] == pytest.approx(error, abs=1e-5)
    assert course["regret"]["macro_f1"]["value"] == pytest.approx(best - lines[max(lines)]["macro_f1"])
    shown = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["validation_loss"] is not None]
    assert all(line["validation_metrics"]["macro_f1"] == lines[line["step"]]["macro_f1"] for line in shown)


def test_following_the_metric_changes_no_weight(tiny_model_path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    kept = []
    for name in ("followed", "alone"):
        if name == "alone":
            monkeypatch.setattr("tunesmith.candidates.tuned.how_many", refuse)
        candidate = tuned(tiny_model_path, tmp_path / name, "lora")
        fit = candidate.fit(EXAMPLES[:30], EXAMPLES[30:])
        kept.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert kept[0] == kept[1]
    assert fit.measured["overfitting"]["course"]["metric_not_followed"] == "asked not to"
    assert set(fit.measured["overfitting"]["course"]["regret"]) == {"loss"}


def refuse(*_: Any) -> int:
    raise EvaluationError("asked not to")


def test_many_labels_are_followed_on_fewer_examples_and_written_answers_on_none() -> None:
    def task(kind: str, labels: int) -> Any:
        config = parse_config({"task": kind, "data": {"train": "x"}})
        return build_task(config.task, [f"l{i}" for i in range(labels)])

    assert how_many(task("classification", 2), "causal", 500, "loss") == 128
    assert how_many(task("classification", 2), "causal", 20, "loss") == 20
    assert how_many(task("classification", 40), "causal", 500, "loss") == 51
    assert how_many(task("classification", 77), "head", 500, "loss") == 128
    assert how_many(task("classification", 77), "causal", 500, "metric") == 128
    with pytest.raises(EvaluationError, match="77 labels"):
        how_many(task("classification", 77), "causal", 500, "loss")
    with pytest.raises(EvaluationError, match="written answers"):
        how_many(task("generation", 0), "causal", 500, "loss")
    require_metric(task("generation", 0), "loss")
    with pytest.raises(ConfigError, match=r"train.select: metric.*set train.select: loss"):
        require_metric(task("generation", 0), "metric")


def test_what_works_for_one_task_alone_is_refused_for_several() -> None:
    part = {"kind": "classification", "data": {"train": "x"}}
    with pytest.raises(ConfigError, match=r"temperature_scaling, train.select: metric"):
        parse_any_config({
            "tasks": {"a": {**part, "temperature_scaling": True}, "b": part}, "train": {"select": "metric"},
        })  # fmt: skip
    stage = {"task": "classification", "data": {"train": "x"}}
    with pytest.raises(ConfigError, match="stages"):
        parse_any_config({"stages": [{"name": "a", **stage, "train": {"select": "metric"}}, {"name": "b", **stage}]})
