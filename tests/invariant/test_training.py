"""Our loop = a plain loop; accumulated = large batch; resumed = uninterrupted; merged = adapter."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.config import Full, Lora
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.errors import TrainingError
from tunesmith.train import loop
from tunesmith.train.batches import Shuffled, steps_in
from tunesmith.train.checkpoint import find_checkpoint
from tunesmith.train.events import read_metrics
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives import causal
from tunesmith.train.objectives.causal import Causal
from tunesmith.train.optim import learning_rate_at

SETTINGS = LoopSettings(epochs=2, learning_rate=3e-3, global_batch_size=4, patience=0)
OBJECTIVE = Causal(micro_batch_tokens=40)


def examples(n: int, seed: int = 0) -> list[Rendered]:
    """Examples behind one shared start of six tokens, with one to four supervised tokens."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        tail = torch.randint(5, 300, (4 + i % 7,), generator=generator).tolist()
        ids = [7, 8, 9, 10, 11, 12, *tail]
        supervised = 1 + i % 4
        labels = [IGNORE_INDEX] * (len(ids) - supervised) + ids[-supervised:]
        made.append(Rendered(ids, labels, len(ids) - supervised, f"example {i}"))
    return made


def load(path: Path, method: str) -> Attached:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.requires_grad_(False)
    model.set_attn_implementation("tunesmith")
    torch.manual_seed(1)
    return METHODS[method].attach(model, Lora(rank=4) if method == "lora" else Full())


def weights(attached: Attached) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in attached.trainable.items()}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_our_loop_equals_a_plain_padded_loop(tiny_model_path: Path, tmp_path: Path, method: str) -> None:
    data = examples(10)
    ours = load(tiny_model_path, method)
    events: list[dict[str, Any]] = []
    train(ours.model, ours.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path, listener=events.append)

    plain = load(tiny_model_path, method)
    plain.model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(plain.trainable.values(), lr=0.0, weight_decay=0.0)
    total = steps_in(len(data), 2, 4)
    best, best_loss = weights(plain), float("inf")
    for step in range(total):
        batch = [data[i] for i in Shuffled(len(data)).step(4, 0, step)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, total, 3e-3, 0.05, "cosine")
        optimizer.zero_grad()
        loss = padded_loss(plain.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.trainable.values(), 1.0)
        optimizer.step()
        assert events[step]["loss"] == pytest.approx(loss.item(), rel=1e-6)
        with torch.no_grad():
            validation = padded_loss(plain.model, data[:4]).item()
        if validation < best_loss:
            best, best_loss = weights(plain), validation
    assert_same_update(weights(ours), best, weights(load(tiny_model_path, method)))


def assert_same_update(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """Two trainings moved the weights alike. By norm: Adam divides by gradients, so rounding in those near zero
    moves single weights by a share of the learning rate."""
    apart = sum(float((found[n] - expected[n]).double().square().sum()) for n in expected) ** 0.5
    moved = sum(float((expected[n] - start[n]).double().square().sum()) for n in expected) ** 0.5
    assert moved > 0
    assert apart < 1e-3 * moved


def padded_loss(model: Any, batch: list[Rendered]) -> torch.Tensor:
    longest = max(len(e.input_ids) for e in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
    for row, e in enumerate(batch):
        ids[row, : len(e.input_ids)] = torch.tensor(e.input_ids)
        labels[row, : len(e.input_ids)] = torch.tensor(e.labels)
        mask[row, : len(e.input_ids)] = 1
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


@pytest.mark.parametrize(
    "change",
    [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 4096}, {"share_prefix": False}],
    ids=["one example at a time", "all at once", "prefix repeated"],
)
def test_how_a_step_is_computed_does_not_change_it(tiny_model_path: Path, tmp_path: Path, change: Any) -> None:
    data = examples(16)
    results = []
    for folder, objective in (("a", OBJECTIVE), ("b", dataclasses.replace(OBJECTIVE, **change))):
        attached = load(tiny_model_path, "lora")
        train(attached.model, attached.trainable, objective, data, data[:4], SETTINGS, tmp_path / folder)
        results.append(weights(attached))
    assert_same_update(results[1], results[0], weights(load(tiny_model_path, "lora")))


def test_the_padded_path_trains_the_same_model(tiny_model_path: Path, tmp_path: Path) -> None:
    data = examples(8)
    results = []
    for packed in (True, False):
        attached = load(tiny_model_path, "lora")
        attached.model.set_attn_implementation("tunesmith" if packed else "sdpa")
        objective = Causal(packed, micro_batch_tokens=40)
        train(attached.model, attached.trainable, objective, data, data[:4], SETTINGS, tmp_path / str(packed))
        results.append(weights(attached))
    assert_same_update(results[1], results[0], weights(load(tiny_model_path, "lora")))


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model_path: Path, tmp_path: Path, stop_at: int, dropout: float
) -> None:
    data = examples(12)

    def attached() -> Attached:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="tunesmith")
        model.requires_grad_(False)
        torch.manual_seed(1)
        return METHODS["lora"].attach(model, Lora(rank=4, dropout=dropout))

    whole = attached()
    train(whole.model, whole.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path / "whole")

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == stop_at:
            raise Stop

    broken = attached()
    with pytest.raises(Stop):
        train(broken.model, broken.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path / "broken", listener=kill)
    torch.manual_seed(999)
    again = attached()
    result = train(again.model, again.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path / "broken")
    assert any("resumed" in notice for notice in result.notices)
    for name, parameter in again.trainable.items():
        assert torch.equal(parameter, whole.trainable[name]), name
    timeless = ("step", "loss", "validation_loss", "learning_rate", "grad_norm")
    lines = [
        [{k: line[k] for k in timeless} for line in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "broken")
    ]
    assert lines[0] == lines[1]


def counting(gains: list[float]) -> Any:
    """A metric that says the next of some numbers; on resuming it goes on where the folder's validations end."""
    left = iter(gains)

    def measure() -> loop.Measured:
        gain = next(left)
        return loop.Measured({"accuracy": gain}, gain, [gain])

    return measure


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_with_selection_by_metric_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model_path: Path, tmp_path: Path, stop_at: int
) -> None:
    data, gains = examples(12), [0.1, 0.2, 0.9, 0.4, 0.9, 0.3, 0.2]  # of step 0, 1, …; the loss decides the tie
    settings = dataclasses.replace(SETTINGS, select="metric")
    whole = load(tiny_model_path, "lora")
    folder = tmp_path / "whole"
    expected = train(
        whole.model, whole.trainable, OBJECTIVE, data, data[:4], settings, folder, metric=counting(gains)
    )  # fmt: skip
    validations = read_metrics(folder / "validations.jsonl")
    assert [line["step"] for line in validations] == [0, 1, 2, 3, 4, 5, 6]
    tied = {line["step"]: line["loss"] for line in validations if line["accuracy"] == 0.9}
    assert expected.best_step == min(tied, key=lambda step: tied[step])
    assert expected.best_validation_loss == tied[expected.best_step]

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == stop_at:
            raise Stop

    broken, folder = load(tiny_model_path, "lora"), tmp_path / "broken"
    with pytest.raises(Stop):
        train(
            broken.model, broken.trainable, OBJECTIVE, data, data[:4], settings, folder, listener=kill,
            metric=counting(gains),
        )  # fmt: skip
    again = load(tiny_model_path, "lora")
    found, _ = find_checkpoint(folder / "checkpoints")
    assert found is not None
    at = json.loads((found / "state.json").read_text())["step"]
    result = train(
        again.model, again.trainable, OBJECTIVE, data, data[:4], settings, folder, metric=counting(gains[at + 1 :])
    )
    assert (result.best_step, result.last_step) == (expected.best_step, expected.last_step)
    for name, parameter in again.trainable.items():
        assert torch.equal(parameter, whole.trainable[name]), name
    assert read_metrics(folder / "validations.jsonl") == validations


def test_early_stopping_goes_by_the_metric_where_it_is_asked_to(tiny_model_path: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=10, patience=2, select="metric")
    data, attached = examples(12), load(tiny_model_path, "lora")
    falling = [0.0, 0.5, *(0.4 - i / 100 for i in range(30))]
    result = train(
        attached.model, attached.trainable, OBJECTIVE, data, data[:4], settings, tmp_path, metric=counting(falling)
    )
    assert (result.best_step, result.last_step, result.stopped_early) == (1, 3, True)
    assert result.last_validation_loss < result.best_validation_loss


DAMAGE = ["trainable.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("file", DAMAGE)
@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(
    tiny_model_path: Path, tmp_path: Path, file: str, how: str
) -> None:
    data = examples(8)
    attached = load(tiny_model_path, "lora")
    train(attached.model, attached.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    newest = sorted(checkpoints.glob("step-*"))[-1]
    victim = newest / file
    content = bytearray(victim.read_bytes())
    if how == "delete":
        victim.unlink()
    elif how == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    found, problems = find_checkpoint(checkpoints)
    assert found is not None
    assert found.name < newest.name
    assert newest.name in problems[0]
    assert not newest.exists()
    result = train(attached.model, attached.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path)
    assert any("resumed" in notice for notice in result.notices)


def test_training_stops_at_the_first_loss_that_is_not_finite(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    real = causal.summed_loss

    def poisoned(*arguments: Any) -> torch.Tensor:
        return real(*arguments) * (float("nan") if next(calls) >= 3 else 1.0)

    monkeypatch.setattr(causal, "summed_loss", poisoned)
    attached = load(tiny_model_path, "lora")
    objective = Causal(micro_batch_tokens=4096)
    data = examples(8)
    with pytest.raises(TrainingError, match=r"step 4: the loss is nan.*learning rate"):
        train(attached.model, attached.trainable, objective, data, data[:4], SETTINGS, tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    found, problems = find_checkpoint(tmp_path / "checkpoints")
    assert found is not None and not problems
    assert json.loads((found / "state.json").read_text())["step"] == 3


def test_early_stopping_restores_the_best_weights(tiny_model_path: Path, tmp_path: Path) -> None:
    data, other = examples(8), examples(4, seed=5)
    settings = dataclasses.replace(SETTINGS, epochs=40, learning_rate=2e-2, patience=3)
    attached = load(tiny_model_path, "full")
    result = train(attached.model, attached.trainable, OBJECTIVE, data, other, settings, tmp_path)
    assert result.stopped_early
    assert result.best_step < result.last_step < 80
    sums, units = loop.losses_and_units(attached.model, OBJECTIVE, other)
    restored = float(sums.sum() / units.sum())
    assert restored == pytest.approx(result.best_validation_loss, rel=1e-9)
    assert result.last_validation_loss > result.best_validation_loss


def test_merged_adapter_gives_the_adapters_logits(tiny_model_path: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    data = examples(8)
    attached = load(tiny_model_path, "lora")
    train(attached.model, attached.trainable, OBJECTIVE, data, data[:4], SETTINGS, tmp_path)
    attached.save(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa").eval()
    ids = torch.tensor([data[0].input_ids])
    with torch.no_grad():
        plain = base(ids).logits.clone()
        with_adapter = PeftModel.from_pretrained(base, tmp_path / "adapter")
        adapter = with_adapter(ids).logits.clone()
        merged = with_adapter.merge_and_unload()(ids).logits
        attached.model.set_attn_implementation("sdpa")
        trained = attached.model.eval()(ids).logits
    assert (adapter - plain).abs().max() > 1e-3
    torch.testing.assert_close(adapter, merged, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adapter, trained, atol=1e-5, rtol=1e-4)
    assert str(tiny_model_path.parent) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_every_epoch_sees_every_example_once() -> None:
    for epoch in range(3):
        seen = [i for step in range(3) for i in Shuffled(10).step(4, 7, epoch * 3 + step).tolist()]
        assert sorted(seen) == list(range(10))
    assert steps_in(10, 2, 4) == 6
    assert steps_in(10, 0.5, 4) == 2
