"""DPO by packs and weighted sums = plain autograd on separate padded rows; its reference = the model at the start."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from tunesmith.config import Full, Lora
from tunesmith.errors import TrainingError
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives import OBJECTIVES
from tunesmith.train.objectives.preference import Dpo, Pair, measured

SETTINGS: dict[str, Any] = {
    "lora": Lora(rank=4), "dora": Lora(rank=4, dora=True), "pissa": Lora(rank=4, init="pissa"), "full": Full()
}  # fmt: skip
LOOP = LoopSettings(epochs=2, learning_rate=3e-3, global_batch_size=4, patience=0)


def pairs(n: int) -> list[Pair]:
    """Prompts of three to nine tokens behind four that all share, answers of one to six."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 300, (length,), generator=generator).tolist())

    return [
        Pair(
            f"example {i}", (7, 8, 9, 10, *tokens(3 + i % 7)), tokens(1 + i % 4), tokens(1 + i % 6), 0.1 + 0.4 * (i % 2)
        )
        for i in range(n)
    ]


def load(path: Path, method: str) -> tuple[LanguageModel, Attached, Dpo]:
    lm = load_model(str(path), "preference")
    torch.manual_seed(1)
    settings = SETTINGS[method]
    attached = METHODS[settings.kind].attach(lm.model, settings)
    lm.model = attached.model
    objective = OBJECTIVES["preference"].build(lm, 40, True)
    assert isinstance(objective, Dpo)
    return lm, attached, objective


def moved(attached: Attached) -> None:
    """A step away from the start, far enough to tell."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter += 0.02 * torch.randn_like(parameter)


def log_probability(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *answer]])
    logs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    total: torch.Tensor = logs[range(len(prompt) - 1, len(prompt) + len(answer) - 1), list(answer)].sum()
    return total


def plain_losses(model: Any, reference: Any, batch: list[Pair]) -> torch.Tensor:
    """Equation 7 as it is written, one sequence at a time."""
    found = []
    for pair in batch:
        policy = [log_probability(model, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
        with torch.no_grad():
            base = [log_probability(reference, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
        found.append(-logsigmoid(pair.beta * ((policy[0] - base[0]) - (policy[1] - base[1]))))
    return torch.stack(found)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize(
    ("packed", "change"),
    [(True, {}), (True, {"micro_batch_tokens": 1}), (True, {"share_prefix": False}), (False, {})],
    ids=["packs", "one pair at a time", "prefix repeated", "padded"],
)
def test_loss_and_gradient_equal_plain_autograd(
    tiny_model_path: Path, method: str, packed: bool, change: dict[str, Any]
) -> None:
    batch = pairs(7)
    lm, attached, objective = load(tiny_model_path, method)
    objective = dataclasses.replace(objective, packed=packed, **change)
    lm.model.set_attn_implementation("tunesmith" if packed else "sdpa")
    moved(attached)
    lm.model.train()
    loss = 0.0
    for part in objective.losses(lm.model, batch, 1 / 7):
        part.backward()
        loss += part.item()
    ours = {name: parameter.grad.clone() for name, parameter in attached.trainable.items()}
    items = objective.item_losses(lm.model.eval(), batch)

    for parameter in attached.trainable.values():
        parameter.grad = None
    lm.model.set_attn_implementation("sdpa")
    reference = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa").eval()
    expected = plain_losses(lm.model, reference, batch)
    expected.mean().backward()
    assert loss == pytest.approx(expected.mean().item(), abs=2e-6)
    torch.testing.assert_close(items.float(), expected.detach(), atol=2e-6, rtol=2e-6)
    assert expected.std() > 1e-3  # or this shows nothing
    for name, parameter in attached.trainable.items():
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(ours[name], parameter.grad, atol=2e-4 * scale + 1e-8, rtol=1e-3)


@pytest.mark.parametrize("method", SETTINGS)
def test_at_the_start_the_loss_is_ln_2_and_every_margin_0(tiny_model_path: Path, method: str) -> None:
    lm, _, objective = load(tiny_model_path, method)
    lm.model.eval()
    batch = pairs(9)
    assert objective.item_losses(lm.model, batch).numpy() == pytest.approx(math.log(2), abs=1e-6)
    alone = dataclasses.replace(objective, micro_batch_tokens=1, share_prefix=False)
    assert alone.margins(lm.model, batch).tolist() == [0.0] * 9  # computed alike, exactly
    assert alone.item_losses(lm.model, batch).tolist() == [math.log(2)] * 9


def test_the_reference_is_the_model_with_the_adapter_off(tiny_model_path: Path) -> None:
    lm, attached, objective = load(tiny_model_path, "lora")
    lm.model.eval()
    batch = pairs(5)
    moved(attached)
    weights = {name: parameter.detach().clone() for name, parameter in attached.trainable.items()}
    objective.margins(lm.model, batch)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in attached.trainable.items())
    for layer in lm.model.modules():
        if hasattr(layer, "lora_A"):
            layer.enable_adapters(False)
    off = dataclasses.replace(objective, reference={}).margins(lm.model, batch)
    assert off.numpy() == pytest.approx(0.0, abs=1e-6)
    lm.model.set_attn_implementation("sdpa")
    for pair in batch:
        with torch.no_grad():
            chosen, rejected = (log_probability(lm.model, pair.prompt, a) for a in (pair.chosen, pair.rejected))
        assert objective.reference[pair] == pytest.approx(float(chosen - rejected), abs=1e-5)


def test_dropout_does_not_reach_the_reference(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path), "preference")
    torch.manual_seed(1)
    lm.model = METHODS["lora"].attach(lm.model, Lora(rank=4, dropout=0.5)).model
    objective = OBJECTIVES["preference"].build(lm, 40, True)
    assert isinstance(objective, Dpo)
    lm.model.train()
    list(objective.losses(lm.model, pairs(4), 0.25))
    assert lm.model.training
    _, _, without = load(tiny_model_path, "lora")
    without.margins(lm.model.eval(), pairs(4))
    assert objective.reference == pytest.approx(without.reference, abs=1e-6)


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model_path: Path, tmp_path: Path, method: str, stop_at: int
) -> None:
    data = pairs(8)

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == stop_at:
            raise Stop

    lm, whole, objective = load(tiny_model_path, method)
    result = train(lm.model, whole.trainable, objective, data, data[:3], LOOP, tmp_path / "whole")
    lm, broken, objective = load(tiny_model_path, method)
    with pytest.raises(Stop):
        train(lm.model, broken.trainable, objective, data, data[:3], LOOP, tmp_path / "b", listener=kill)
    lm, again, objective = load(tiny_model_path, method)
    resumed = train(lm.model, again.trainable, objective, data, data[:3], LOOP, tmp_path / "b")
    assert all(torch.equal(parameter, again.trainable[name]) for name, parameter in whole.trainable.items())
    assert resumed.best_validation_loss == result.best_validation_loss < result.first_validation_loss


def test_margins_grow_on_pairs_that_can_be_learned(tiny_model_path: Path, tmp_path: Path, rng: Any) -> None:
    lm, attached, objective = load(tiny_model_path, "lora")
    data = pairs(8)
    train(lm.model, attached.trainable, objective, data, data, dataclasses.replace(LOOP, epochs=8), tmp_path)
    found = measured(objective, lm.model, data, rng)
    assert found["reward_margin"]["low"] > 0.5
    assert found["reward_accuracy"]["value"] == 1.0
    assert found["reward_margin"]["n"] == 8


def test_a_model_that_nothing_was_attached_to_is_refused(tiny_model_path: Path) -> None:
    with pytest.raises(TrainingError, match="no trained parameter"):
        OBJECTIVES["preference"].build(load_model(str(tiny_model_path), "preference"), 40, True)
