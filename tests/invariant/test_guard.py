"""A guard ends training at its budget, keeps what it says, and changes nothing else, also where a run resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from invariant.test_training import OBJECTIVE, SETTINGS, Stop, examples, load, weights
from tunesmith.errors import TrainingError
from tunesmith.evaluate.forgetting import answer_log_probabilities, divergences
from tunesmith.model.load import load_model
from tunesmith.train.events import read_metrics
from tunesmith.train.loop import Guard, TrainResult, train
from tunesmith.train.methods import Attached

ASKED = dataclasses.replace(SETTINGS, epochs=4, evals_per_epoch=3)


def trained(
    tiny: Path, folder: Path, method: str, budget: float | None, roll_back: bool = True, listener: Any = None
) -> tuple[Attached, TrainResult]:
    """Train on twelve examples, validated after every step, with the guard that a candidate has."""
    lm = load_model(str(tiny))
    data = examples(12)
    base = answer_log_probabilities(lm, data[:4])
    attached = load(tiny, method)
    lm.model = attached.model

    def divergence() -> float:
        return float(divergences(base, answer_log_probabilities(lm, data[:4])).mean())

    guard = None if budget is None else Guard(divergence, budget, roll_back)
    result = train(
        attached.model, attached.trainable, OBJECTIVE, data, data[:4], ASKED, folder, guard=guard, listener=listener
    )
    return attached, result


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_ends_over_the_budget_and_keeps_a_step_within(
    tiny_model_path: Path, tmp_path: Path, method: str
) -> None:
    free, _ = trained(tiny_model_path, tmp_path / "free", method, None)
    watched, result = trained(tiny_model_path, tmp_path / "watched", method, 1e9)
    assert result.over_budget is None
    for name, parameter in weights(watched).items():
        assert torch.equal(parameter, free.trainable[name]), name  # looking changes nothing
    curve = {line["step"]: line["kl_to_base"] for line in read_metrics(tmp_path / "watched" / "metrics.jsonl")}
    assert list(curve) == list(range(1, 13))
    budget = (curve[5] + curve[6]) / 2 if curve[6] > max(list(curve.values())[:5]) else max(list(curve.values())[:5])
    first = next(step for step, kl in curve.items() if kl > budget)

    for roll_back in (True, False):
        folder = tmp_path / f"{roll_back}"
        kept, result = trained(tiny_model_path, folder, method, budget, roll_back)
        assert result.over_budget == {"step": first, "kl": curve[first]}
        assert (result.last_step, result.stopped_early) == (first, True)
        losses = {line["step"]: line["validation_loss"] for line in read_metrics(folder / "metrics.jsonl")}
        allowed = [step for step in losses if not roll_back or curve[step] <= budget]
        assert result.best_step == min(allowed, key=losses.__getitem__)
        again, _ = trained(tiny_model_path, folder, method, budget, roll_back)  # resumed where it had ended
        for name, parameter in weights(kept).items():
            assert torch.equal(parameter, again.trainable[name]), name


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_guarded_run_that_resumes_equals_one_that_was_never_stopped(
    tiny_model_path: Path, tmp_path: Path, stop_at: int
) -> None:
    _, watched = trained(tiny_model_path, tmp_path / "watched", "lora", 1e9)
    curve = [line["kl_to_base"] for line in read_metrics(tmp_path / "watched" / "metrics.jsonl")]
    budget = max(curve[:4])  # passed at step 5 at the earliest
    whole, expected = trained(tiny_model_path, tmp_path / "whole", "lora", budget)
    assert expected.over_budget is not None and watched.over_budget is None

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == stop_at:
            raise Stop

    with pytest.raises(Stop):
        trained(tiny_model_path, tmp_path / "broken", "lora", budget, listener=kill)
    torch.manual_seed(999)
    again, result = trained(tiny_model_path, tmp_path / "broken", "lora", budget)
    assert (result.over_budget, result.best_step) == (expected.over_budget, expected.best_step)
    for name, parameter in weights(again).items():
        assert torch.equal(parameter, whole.trainable[name]), name
    kls = [
        [line["kl_to_base"] for line in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "broken")
    ]
    assert kls[0] == kls[1]


def test_a_divergence_that_is_no_number_ends_training(tiny_model_path: Path, tmp_path: Path) -> None:
    attached, data = load(tiny_model_path, "lora"), examples(8)
    guard = Guard(lambda: float("nan"), 1.0, True)
    with pytest.raises(TrainingError, match="the divergence from the base is nan"):
        train(attached.model, attached.trainable, OBJECTIVE, data, data[:4], ASKED, tmp_path, guard=guard)
