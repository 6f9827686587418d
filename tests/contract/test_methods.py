"""What every fine-tuning method must hold to; a new one is tested by standing in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.config import Full, Lora, Qlora
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.save import save_model
from tunesmith.plan import estimate
from tunesmith.plan.facts import Facts, Widths
from tunesmith.plan.memory import Training
from tunesmith.tasks.task import HEAD_METHODS
from tunesmith.train.loop import LoopSettings, losses_and_units, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives.causal import Causal

SETTINGS: dict[str, Any] = {"lora": Lora(rank=4), "qlora": Qlora(rank=4), "full": Full()}
LOOP = LoopSettings(epochs=40, learning_rate=1e-2, global_batch_size=8, patience=0, evals_per_epoch=1)
IDS = torch.tensor([[7, 8, 9, 30, 31, 32, 33, 34]])


TEXT_METHODS = [kind for kind in METHODS if kind not in HEAD_METHODS]  # the others are tested in test_heads


def memorisable() -> list[Rendered]:
    """Eight inputs, each with an answer of its own."""
    made = []
    for i in range(8):
        ids = [7, 8, 9, 20 + i, 11, 60 + 3 * i, 2]
        made.append(Rendered(ids, [IGNORE_INDEX] * 5 + ids[5:], 5, str(i)))
    return made


def attach(path: Path, method: str) -> tuple[LanguageModel, Attached]:
    lm = load_model(str(path), four_bit=METHODS[method].four_bit)
    torch.manual_seed(0)
    attached = METHODS[method].attach(lm.model, SETTINGS[method])
    lm.model = attached.model
    return lm, attached


def mean_loss(lm: LanguageModel, data: list[Rendered]) -> float:
    sums, units = losses_and_units(lm.model, Causal(lm.packed), data)
    return float(sums.sum() / units.sum())


def logits(lm: LanguageModel) -> torch.Tensor:
    lm.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        found: torch.Tensor = lm.model.eval()(IDS).logits
    lm.model.set_attn_implementation("tunesmith")
    return found


def test_every_method_of_the_table_is_tested() -> None:
    assert set(SETTINGS) == set(TEXT_METHODS)
    assert all(METHODS[name].kind == name for name in METHODS)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_attached_it_is_the_base_still(tiny_model_path: Path, method: str) -> None:
    expected = logits(load_model(str(tiny_model_path), four_bit=METHODS[method].four_bit))
    lm, attached = attach(tiny_model_path, method)
    torch.testing.assert_close(logits(lm), expected, atol=1e-6, rtol=1e-6)
    assert attached.trainable_parameters == sum(p.numel() for p in attached.trainable.values()) > 0
    assert all(p.requires_grad for p in attached.trainable.values())
    trainable = {id(p) for p in attached.trainable.values()}
    assert {id(p) for p in lm.model.parameters() if p.requires_grad} == trainable


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_it_learns_saves_and_loads(tiny_model_path: Path, tmp_path: Path, method: str) -> None:
    lm, attached = attach(tiny_model_path, method)
    names = {id(p): name for name, p in attached.trainable.items()}
    frozen = {n: p.detach().clone() for n, p in lm.model.named_parameters() if id(p) not in names}
    before = {name: p.detach().clone() for name, p in attached.trainable.items()}
    data = memorisable()
    untrained = mean_loss(lm, data)
    train(lm.model, attached.trainable, Causal(lm.packed), data, data, LOOP, tmp_path / "training")
    # with the tiny model's head frozen no hidden state gives less than 0.58 nats: its logits are bounded by the norm
    assert mean_loss(lm, data) < 0.12 * untrained
    assert all(not torch.equal(before[name], p) for name, p in attached.trainable.items())
    for name, parameter in lm.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name

    trained = logits(lm)
    folder = tmp_path / attached.artifact
    save_model(folder, attached.save, lm, str(tiny_model_path), {"method": SETTINGS[method].model_dump()})
    loaded = load_model(str(folder))
    torch.testing.assert_close(logits(loaded), trained, atol=1e-5, rtol=1e-4)
    assert loaded.origin["method"]["kind"] == method
    assert loaded.origin["base_model"] == str(tiny_model_path)
    assert loaded.max_length == lm.max_length
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "train": 1000, "validation": 100, "test": 200, "labels": 2, "tokens_per_example": 80.0, "longest_example": 200,
        "supervised_per_example": 3.0, "prefix_tokens": 40, "model": "m",
        "architecture": "decoder", "model_type": "llama",
        "parameters": 135_000_000, "hidden_size": 576, "intermediate_size": 1536, "layers": 30, "vocabulary": 49152,
        "context_length": 2048, "cores": 2, "available_bytes": 2**34, "dtype": "float32", "flops_per_second": 1e11,
        "widths": Widths(heads=9, attention=576, norms=34560, linears=305_280, gated=True, dropout=False),
    }  # fmt: skip
    return Facts(**values | changes)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_estimates_grow_with_what_they_are_of(method: str) -> None:
    def memory(tokens: int = 1024, **changes: Any) -> float:
        return Training(facts(**changes), SETTINGS[method], 16).memory(tokens).total

    weights = 135_000_000 * 4
    assert weights < memory() < 20 * weights
    assert memory(tokens=4096) > memory()
    assert memory(layers=60) > memory()
    assert memory(parameters=10**9) > memory()
    assert memory(vocabulary=250_000) > memory()
    assert memory() > estimate.scoring_bytes(facts())

    def seconds(epochs: float = 1.0, share: bool = True, **changes: Any) -> float:
        return estimate.training_seconds(facts(**changes), method, epochs, 16, share)

    assert seconds(epochs=2) == pytest.approx(2 * seconds())
    assert seconds(train=3000) == pytest.approx(3 * seconds())
    assert seconds(flops_per_second=2e11) == pytest.approx(seconds() / 2)
    assert seconds(share=False) > seconds()
    rate, source = METHODS[method].learning_rate("llama", 576)
    assert 1e-5 < rate < 1e-2
    assert source


def test_full_fine_tuning_needs_more_than_lora() -> None:
    needs = {m: Training(facts(), SETTINGS[m], 64).memory(1024).total for m in TEXT_METHODS}
    assert needs["full"] > needs["lora"] + 12 * 100_000_000
