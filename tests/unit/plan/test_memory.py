from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.test_methods import facts
from tunesmith.config import Full, Lora, Qlora, parse_config
from tunesmith.errors import HardwareError
from tunesmith.hardware import detect
from tunesmith.model.load import load_model
from tunesmith.plan.choose import choose_plan
from tunesmith.plan.facts import gather_facts
from tunesmith.plan.memory import HEAP, HEAP_WHOLE, Correction, Training, correction, ways_to_fit
from tunesmith.plan.probe import Probe, probe, random_items
from tunesmith.sources import resolve_model
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives.causal import Causal


def tiny(path: Path, settings: Any, length: int, count: int) -> tuple[Training, list[Any]]:
    what = Probe(str(path), "causal", 0, settings.model_dump(), (length * count,), length, 2)
    items = random_items(what, 250, length * count)[:count]
    counts = {"train": count, "validation": 1, "test": 1}
    known = gather_facts(counts, 0, items, 0, resolve_model(str(path)), "decoder", detect(), 1e10)
    return Training(known, settings, 10**6), items


@pytest.mark.parametrize("settings", [Lora(rank=4), Full()])
def test_activations_are_what_autograd_keeps(tiny_model_path: Path, settings: Any) -> None:
    """One example alone, so that attention needs no mask; logits apart. The two layers leave the ends some weight."""
    training, items = tiny(tiny_model_path, settings, 64, 1)
    lm = load_model(str(tiny_model_path))
    attached = METHODS[settings.kind].attach(lm.model, settings)
    model = {t.untyped_storage().data_ptr() for t in [*attached.model.parameters(), *attached.model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in model:
            kept[place] = tensor  # alive, so that no other takes its place
        return tensor

    attached.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        next(Causal(lm.packed, 64, False).losses(attached.model, items, 1.0))
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    if settings.kind == "full":  # what the loss made of the head's gradient
        found -= 4 * training.facts.vocabulary * training.facts.hidden_size
    heap = HEAP_WHOLE if settings.kind == "full" else HEAP
    assert training.memory(64).activations / heap == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("settings", [Lora(rank=4), Lora(rank=3, dora=True), Full()])
def test_what_moves_is_counted_before_anything_is_loaded(tiny_model_path: Path, settings: Any) -> None:
    training, _ = tiny(tiny_model_path, settings, 8, 2)
    attached = METHODS[settings.kind].attach(load_model(str(tiny_model_path)).model, settings)
    memory = training.memory(16)
    assert memory.gradients == pytest.approx(4 * attached.trainable_parameters, rel=0.02)
    assert memory.optimizer == 2 * memory.gradients


def test_two_measured_steps_correct_the_formula_between_and_beyond() -> None:
    training = Training(facts(), Lora(), 16)
    formula = [training.memory(tokens).total for tokens in (512, 1024)]
    by = correction(formula, [formula[0] * 1.5, formula[1] * 2])
    corrected = replace(training, correction=by)
    assert corrected.memory(512).total == pytest.approx(formula[0] * 1.5)
    assert corrected.memory(1024).total == pytest.approx(formula[1] * 2)
    assert corrected.memory(1024).unexplained == pytest.approx(formula[1])
    assert correction([3.0, 3.0], [5.0, 5.0]) == Correction(1.0, 2.0)


@pytest.mark.parametrize("settings", [Lora(), Full(), Qlora()])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99, 2.0])
def test_the_largest_micro_batch_is_found(settings: Any, share: float) -> None:
    training = Training(facts(), settings, 16)
    free = training.memory(200).total + share * (training.memory(1024).total - training.memory(200).total)
    most = training.largest_micro_batch(free)
    assert most is not None
    assert training.memory(most).total <= free
    assert most == 1024 or training.memory(most + 1).total > free
    assert training.largest_micro_batch(training.memory(200).total - 1) is None


def test_what_would_fit_does_fit() -> None:
    full = Training(facts(longest_example=1500), Full(), 16)
    free = full.memory(300).total * 0.9
    ways = ways_to_fit(full, free, 2048)
    assert [re.split(r"[ =]", way)[0] for way in ways] == ["method", "method", "train.max_length", "a"]
    length = int(re.findall(r"max_length=(\d+)", ways[2])[0])
    short = replace(full, facts=facts(longest_example=length))
    assert short.memory(length).total <= free < short.memory(length + 50).total
    smaller = re.findall(r"a model of about (\d+) M", ways[3])[0]
    assert 0 < int(smaller) < 135
    assert ways_to_fit(full, -1.0, 2048) == ["nothing here: more memory is needed"]


def test_a_plan_computes_fewer_tokens_at_once_where_memory_is_short() -> None:
    config = parse_config({"task": "classification", "data": {"train": "x"}, "method": "lora"})
    needed = Training(facts(), Lora(), 16).memory(600).total
    plan = choose_plan(config, facts(available_bytes=int(needed + 6.1e8)), "m")
    assert 600 <= plan.loop["lora"]["micro_batch_tokens"] < 640
    choice = next(c for c in plan.choices if c.setting == "train.micro_batch_tokens")
    assert "fits" in choice.reason
    row = next(c for c in plan.candidates if c["family"] == "tune")
    assert row["memory"]["total"] == pytest.approx(sum(v for k, v in row["memory"].items() if k != "total"), abs=5)
    assert row["estimated_memory_bytes"] == pytest.approx(row["memory"]["total"] + 6e8, rel=1e-6)
    twice = choose_plan(config, facts(), "m", corrections={"lora": Correction(2.0)})
    again = next(c for c in twice.candidates if c["family"] == "tune")
    assert again["memory"]["unexplained"] == pytest.approx(again["memory"]["total"] / 2, rel=1e-3)


@pytest.mark.slow
def test_steps_are_measured(tiny_model_path: Path) -> None:
    what = Probe(str(tiny_model_path), "causal", 0, {"kind": "lora"}, (64, 256), 32, 4)
    small, large = probe(what)
    assert 0 < small <= large


@pytest.mark.slow
def test_a_probe_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"nowhere: two steps of training at 64 tokens failed: .*nowhere"):
        probe(Probe(str(tmp_path / "nowhere"), "causal", 0, {"kind": "lora"}, (32, 64), 16, 4))
