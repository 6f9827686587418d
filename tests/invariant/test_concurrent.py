"""Trained at once = trained alone: gradients, losses, adapters, stopping, failing, resuming."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tunesmith.config import Lora
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.errors import ConfigError, TrainingError
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.search.concurrent import Member, Session, gain, measure_gain, train_concurrently
from tunesmith.train import together
from tunesmith.train.events import read_metrics
from tunesmith.train.loop import LoopSettings, TrainResult, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives.causal import Causal
from tunesmith.train.together import share_weights, why_alone

OBJECTIVE = Causal(micro_batch_tokens=60)
SETTINGS = LoopSettings(epochs=2, learning_rate=3e-3, global_batch_size=4, patience=0)
TRIED = (Lora(rank=4), Lora(rank=8, alpha=8), Lora(rank=2, target_modules=("q_proj", "down_proj")))


def examples(n: int, seed: int = 0) -> list[Rendered]:
    """Examples behind one shared start of six tokens, with one to four supervised tokens."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        ids = [7, 8, 9, 10, 11, 12, *torch.randint(5, 300, (4 + i % 7,), generator=generator).tolist()]
        supervised = 1 + i % 4
        labels = [IGNORE_INDEX] * (len(ids) - supervised) + ids[-supervised:]
        made.append(Rendered(ids, labels, len(ids) - supervised, f"example {i}"))
    return made


@pytest.fixture
def lm(tiny_model_path: Path) -> LanguageModel:
    return load_model(str(tiny_model_path))


def alone(lm: LanguageModel, method: Lora, seed: int = 0) -> Attached:
    """The adapter as a training alone has it, on a model that shares nothing but weights."""
    copy = share_weights(lm)
    torch.manual_seed(seed)
    return METHODS["lora"].attach(copy.model, method)


def off_zero(attached: Attached) -> None:
    """B away from zero, so that every gradient counts."""
    for i, (name, parameter) in enumerate(attached.trainable.items()):
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) / 10)


@pytest.mark.parametrize(
    ("places", "batched"),
    [
        ([(0, 8)] * 3, False),
        ([(0, 8)] * 3, True),
        ([(0, 8), (8, 20), (20, 24)], False),
        ([(0, 8), (8, 20), (0, 8)], False),
    ],
    ids=["same items", "same items, as batched products", "other items", "some the same"],
)
def test_gradients_are_those_of_a_training_alone(
    lm: LanguageModel, places: list[tuple[int, int]], batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if batched:
        monkeypatch.setattr(together, "_GroupedLoraLinear", together._BatchedLoraLinear)
    data, session = examples(24), Session(lm, OBJECTIVE)
    members = []
    for method, (start, stop), scale in zip(TRIED, places, (0.1, 0.2, 0.3), strict=True):
        _, attached, loss = session.attach(method, 0)
        off_zero(attached)
        members.append((method, attached, loss, data[start:stop], scale))
    losses = session.run({str(m.rank): partial(total, loss, items, scale) for m, _, loss, items, scale in members})
    for method, attached, _, items, scale in members:
        solo = alone(lm, method)
        off_zero(solo)
        expected = 0.0
        for part in OBJECTIVE.losses(solo.model, items, scale):
            part.backward()
            expected += part.item()
        assert losses[str(method.rank)] == pytest.approx(expected, rel=1e-6)
        assert attached.trainable.keys() == solo.trainable.keys()
        for name, parameter in solo.trainable.items():
            apart = (attached.trainable[name].grad - parameter.grad).norm() / parameter.grad.norm()
            assert apart < 1e-5, name


def total(loss: Any, items: list[Rendered], scale: float) -> float:
    return sum(part.item() for part in loss.losses(None, items, scale))


def members(folder: Path) -> list[Member]:
    """Four that differ in rate, rank, layers, batch, seed, schedule and stopping."""
    settings = (
        SETTINGS,
        replace(SETTINGS, learning_rate=1e-2, warmup_ratio=0.2),
        replace(SETTINGS, global_batch_size=8, seed=3, epochs=1),
        replace(SETTINGS, learning_rate=5e-2, schedule="constant_decay", patience=2, max_grad_norm=0.1),
    )
    tried = (*TRIED, Lora(rank=3, rank_stabilised=True))
    return [
        Member(f"m{i}", method, own, folder / f"m{i}")
        for i, (method, own) in enumerate(zip(tried, settings, strict=True))
    ]


def train_alone(lm: LanguageModel, member: Member, data: list[Rendered]) -> tuple[TrainResult, Attached]:
    solo = alone(lm, member.method, member.settings.seed)
    return (
        train(solo.model, solo.trainable, OBJECTIVE, data, data[:5], member.settings, member.folder),
        solo,
    )


@pytest.mark.parametrize("at_once", [4, 2])
def test_each_member_trains_as_it_would_alone(lm: LanguageModel, tmp_path: Path, at_once: int) -> None:
    data, before = examples(100), [p.clone() for p in lm.model.parameters()]
    trained = train_concurrently(lm, OBJECTIVE, members(tmp_path / "at once"), data, data[:5], at_once)
    for member in members(tmp_path / "alone"):
        result, solo = train_alone(lm, member, data)
        found = trained[member.name].result
        assert isinstance(found, TrainResult)
        for name in ("best_step", "last_step", "tokens", "units", "stopped_early"):
            assert getattr(found, name) == getattr(result, name), name
        lines, expected = (read_metrics(tmp_path / how / member.name / "metrics.jsonl") for how in ("at once", "alone"))
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
        saved = {}
        for how, attached in (("at once", trained[member.name].attached), ("alone", solo)):
            attached.save(tmp_path / how / "adapter")
            files = sorted((tmp_path / how / "adapter").iterdir())
            saved[how] = [f.name for f in files], json.loads(files[0].read_text()), load_file(files[1])
        assert saved["at once"][:2] == saved["alone"][:2]
        start = alone(lm, member.method, member.settings.seed)
        start.save(tmp_path / "start")
        assert_same_update(saved["at once"][2], saved["alone"][2], load_file(tmp_path / "start" / files[1].name))
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True))
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def assert_same_update(found: Any, expected: Any, start: Any) -> None:
    """By norm: Adam divides by gradients, so rounding in those near zero moves single weights."""
    apart = sum(float((found[n] - expected[n]).double().square().sum()) for n in expected) ** 0.5
    moved = sum(float((expected[n] - start[n]).double().square().sum()) for n in expected) ** 0.5
    assert moved > 0
    assert apart < 1e-3 * moved


def test_weights_of_the_base_are_in_memory_once(lm: LanguageModel) -> None:
    _, attached, _ = Session(lm, OBJECTIVE).attach(Lora(rank=4), 0)
    theirs = {p.data_ptr() for n, p in attached.model.named_parameters() if "lora" not in n}
    assert theirs == {p.data_ptr() for p in lm.model.parameters()}


def test_what_lies_below_the_lowest_adapted_layer_is_computed_once(lm: LanguageModel) -> None:
    session, data, rows = Session(lm, OBJECTIVE), examples(4), []
    session.attach(Lora(target_modules=("layers.1.mlp.up_proj",)), 0)
    losses = [session.attach(Lora(target_modules=("layers.1.self_attn.v_proj",)), seed)[2] for seed in range(3)]
    for block in session.together.blocks.values():
        block.register_forward_hook(
            lambda _, args, out: rows.append((out[0] if isinstance(out, tuple) else out).shape[0])
        )
    session.run({str(i): partial(total, loss, data, 1.0) for i, loss in enumerate(losses)})
    assert rows == [1, 3]


def test_a_member_that_diverges_leaves_the_others_as_they_are(lm: LanguageModel, tmp_path: Path) -> None:
    data = examples(24)
    wild = Member("wild", Lora(rank=4), replace(SETTINGS, learning_rate=1e30, warmup_ratio=0), tmp_path / "wild")
    calm = Member("calm", Lora(rank=4), SETTINGS, tmp_path / "calm")
    trained = train_concurrently(lm, OBJECTIVE, [wild, calm], data, data[:5])
    assert isinstance(trained["wild"].result, TrainingError)
    result, _ = train_alone(lm, calm._replace(folder=tmp_path / "alone"), data)
    found = trained["calm"].result
    assert isinstance(found, TrainResult)
    assert found.best_validation_loss == pytest.approx(result.best_validation_loss, rel=1e-5)


class Stop(Exception):
    pass


def test_what_ends_one_otherwise_ends_all_and_is_resumed(lm: LanguageModel, tmp_path: Path) -> None:
    data = examples(24)

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == 7:
            raise Stop

    threads = threading.active_count()
    broken = [m._replace(listener=stop) if m.name == "m1" else m for m in members(tmp_path / "a")]
    with pytest.raises(Stop):
        train_concurrently(lm, OBJECTIVE, broken, data, data[:5])
    assert threading.active_count() == threads
    resumed = train_concurrently(lm, OBJECTIVE, members(tmp_path / "a"), data, data[:5])
    whole = train_concurrently(lm, OBJECTIVE, members(tmp_path / "b"), data, data[:5])
    for name, member in whole.items():
        found, expected = resumed[name].result, member.result
        assert isinstance(found, TrainResult) and isinstance(expected, TrainResult)
        assert found.best_validation_loss == pytest.approx(expected.best_validation_loss, rel=1e-5)
    assert "resumed from step" in resumed["m1"].result.notices[0]  # type: ignore[union-attr]


def test_what_can_only_be_trained_alone_is_said_all_at_once(lm: LanguageModel, tmp_path: Path) -> None:
    tried = [Member(n, m, SETTINGS, tmp_path) for n, m in (("a", Lora(dora=True)), ("b", Lora(dropout=0.1)))]
    with pytest.raises(ConfigError) as caught:
        train_concurrently(lm, OBJECTIVE, tried, examples(4), examples(4))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["a", "b", f"folder {tmp_path}"]
    assert why_alone(lm, Lora()) is None
    assert "without padding" in str(why_alone(replace(lm, packed=False), Lora()))


def test_a_gain_below_a_tenth_is_none(lm: LanguageModel) -> None:
    assert gain([2.0, 9.0, 2.2], [1.0, 1.1, 8.0]) == pytest.approx(2.0)
    assert gain([1.09], [1.0]) is None
    measured = measure_gain(lm, OBJECTIVE, [Lora(rank=4)] * 2, [examples(8)] * 2, repeats=1)
    assert measured is None or measured >= 1.1


@pytest.mark.slow
def test_a_real_model_trains_as_it_would_alone(tmp_path: Path) -> None:
    lm, data = load_model("smollm2-135m-instruct"), examples(50)
    # On random tokens, two at a time, 1e-3 makes training chaotic: from step 33 rounding alone grows to 4e-3.
    settings = LoopSettings(epochs=2, learning_rate=3e-4, global_batch_size=2, patience=0, evals_per_epoch=1)
    two = [Member(f"r{rank}", Lora(rank=rank), settings, tmp_path / f"r{rank}") for rank in (4, 16)]
    trained = train_concurrently(lm, Causal(), two, data, data[:4])
    for member in two:
        folder = tmp_path / f"alone-{member.name}"
        solo = alone(lm, member.method)
        train(solo.model, solo.trainable, Causal(), data, data[:4], settings, folder)
        lines, expected = (read_metrics(f / "metrics.jsonl") for f in (member.folder, folder))
        assert len(lines) == 50 and isinstance(trained[member.name].result, TrainResult)
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
