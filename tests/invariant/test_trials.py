"""A trial at a rung is, to the last bit, the training of that length; so is the next, gone on from its stem."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from end_to_end.projects import TINY, build_encoder, write_labelled
from tunesmith import workflow
from tunesmith.config import Config, parse_config
from tunesmith.errors import ConfigError
from tunesmith.run import Run
from tunesmith.search.trials import Trainer, forget
from tunesmith.train.events import read_metrics

RUNGS = [60.0, 180.0]


def trainer(folder: Path, monkeypatch: pytest.MonkeyPatch, model: Path, method: object) -> tuple[Trainer, Config]:
    monkeypatch.setattr(workflow, "measure_sgemm", lambda: 5e10)
    config = parse_config({
        "task": "classification", "model": str(model), "candidates": ["tune"], "method": method, "forgetting": "off",
        "data": {"train": str(write_labelled(folder / "data.csv", 90)), "validation_size": 20},
        "train": {"epochs": 3, "learning_rate": 0.01, "global_batch_size": 4, "warmup_ratio": 0.1},
    })  # fmt: skip
    run = Run(folder / "run")
    run.folder.mkdir()
    task = workflow.prepare(config, run, workflow.silent)
    return Trainer(config, run, task, workflow.make_plan(config, run, workflow.silent), workflow.silent), config


@pytest.mark.parametrize(
    ("encoder", "method"),
    [(False, {"kind": "lora", "rank": 4, "dropout": 0.1}), (True, "head"), (True, "full")],
    ids=["lora", "head", "full"],
)
def test_a_rung_is_the_training_of_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: bool, method: object
) -> None:
    model = build_encoder(tmp_path / "encoder") if encoder else TINY
    trials, config = trainer(tmp_path, monkeypatch, model, method)
    reached = [trials.reach(config, tmp_path / "trial", "", RUNGS, rung) for rung in (0, 1)]
    assert [found.steps for found in reached] == [15, 45]
    from tunesmith.train import loop

    for found, seen in zip(reached, RUNGS, strict=True):
        _, attached, objective, learned, followed = trials._ready(config)
        per_epoch = -(-len(learned) // 4)
        settings = loop.LoopSettings(
            epochs=found.steps / per_epoch, learning_rate=0.01, global_batch_size=4, schedule="constant_decay",
            warmup_ratio=found.warmup_ratio, evals_per_epoch=1, patience=0, seed=config.seed,
        )  # fmt: skip
        straight = tmp_path / f"straight-{seen}"
        result = loop.train(
            attached.model, attached.trainable, objective, learned, followed, settings, straight, paces=attached.paces
        )
        branch = tmp_path / "trial" / f"seen-{seen:.0f}"
        assert (result.last_step, result.tokens) == (found.steps, found.tokens)
        last = f"checkpoints/step-{found.steps:06d}/trainable.safetensors"
        ours, theirs = load_file(branch / last), load_file(straight / last)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        rates = [[line["learning_rate"] for line in read_metrics(f / "metrics.jsonl")] for f in (branch, straight)]
        assert rates[0] == pytest.approx(rates[1]) and len(rates[0]) == found.steps


def test_what_was_reached_is_there_again_and_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, config = trainer(tmp_path, monkeypatch, TINY, {"kind": "lora", "rank": 4})
    folder = tmp_path / "trial"
    first = trials.reach(config, folder, "", RUNGS, 0)
    again = trials.reach(config, folder, "", RUNGS, 0)
    assert (again.losses == first.losses).all() and again.tokens == first.tokens
    answers = trials.predict(again.model, trials.validation, config, "t")
    assert [a.example_id for a in answers] == [e.id for e in trials.validation]
    forget(folder, RUNGS[0])
    assert {path.name for path in folder.iterdir()} == {"seen-60"}
    forget(folder)
    assert not list(folder.iterdir())
    assert (trials.reach(config, folder, "", RUNGS, 0).losses == first.losses).all()  # anew, the same


def test_layers_that_start_late_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"Set method.unfreeze to 0"):
        trainer(tmp_path, monkeypatch, build_encoder(tmp_path / "encoder"), "gradual")
