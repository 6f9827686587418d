"""What every method must hold to on a model with a head of its own: encoder or decoder, label, labels or number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import Classification, Full, Gradual, Head, Lora, MultiLabel, Qlora, Regression
from tunesmith.model.head import HeadModel, head_inputs, head_outputs
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.save import save_model
from tunesmith.records import Example
from tunesmith.tasks import build_task
from tunesmith.tasks.task import HeadTask
from tunesmith.train.loop import LoopSettings, losses_and_units, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives import OBJECTIVES, EncodeSettings
from tunesmith.train.objectives.objective import ByPart

SETTINGS: dict[str, Any] = {
    "lora": Lora(rank=4), "qlora": Qlora(rank=4), "full": Full(), "head": Head(), "gradual": Gradual(decay=1.5),
}  # fmt: skip
RATES = {"lora": 1e-2, "qlora": 1e-2, "full": 1e-3, "head": 3e-2, "gradual": 5e-3}
LOOP = LoopSettings(epochs=3, learning_rate=0.0, global_batch_size=8, patience=0, evals_per_epoch=1)
WORDS = ("my card", "the money that I sent", "nothing", "the weather in the city is cold today")
TASKS: dict[str, Any] = {
    "classification": (Classification(by="head"), ("a", "b", "c"), lambda i: "abc"[i % 3]),
    "multi_label": (MultiLabel(), ("x", "y"), lambda i: ("", "x", "x|y", "y")[i % 4]),
    "regression": (Regression(), (), lambda i: str(100.0 + 7 * i)),
}


def examples(task: str, n: int = 8) -> list[Example]:
    """Inputs of several lengths, each with an answer of its own."""
    answer = TASKS[task][2]
    return [Example(f"f:{i}", text=f"{WORDS[i % 4]} {'x' * (i % 5)} {i}", label=answer(i)) for i in range(n)]


@pytest.fixture(scope="session")
def encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with the tiny model's tokenizer."""
    from end_to_end.projects import build_encoder

    return build_encoder(tmp_path_factory.mktemp("encoder"), layers=2)


@pytest.fixture(params=["encoder", "decoder"])
def backbone(request: pytest.FixtureRequest, tiny_model_path: Path) -> tuple[str, Path]:
    """Kind and folder of a model to put a head on."""
    path = tiny_model_path if request.param == "decoder" else request.getfixturevalue("encoder_path")
    return str(request.param), path


def built(task: str) -> HeadTask:
    settings, labels, _ = TASKS[task]
    made: Any = build_task(settings, labels)
    return made


def attach(path: Path, task: HeadTask, method: str) -> tuple[LanguageModel, Attached]:
    torch.manual_seed(0)
    lm = load_model(str(path), "head", task.outputs, METHODS[method].four_bit)
    return lm, METHODS[method].attach(lm.model, SETTINGS[method])


def ready(lm: LanguageModel, task: HeadTask, data: Sequence[Example], method: str) -> ByPart:
    """The items as training takes them, the head started as the method wants it."""
    items, _ = OBJECTIVES["head"].encode(task, lm.tokenizer, data, EncodeSettings(64))
    prepare = OBJECTIVES["head"].prepare
    assert prepare is not None
    return prepare(lm.model, {"": items}, {"": items}, 64, METHODS[method].start)[0]


def skip_what_is_refused(kind: str, task: HeadTask, method: str) -> None:
    if METHODS[method].four_bit:
        if kind == "encoder":
            pytest.skip("refused: 4 bits are for decoders")
        pytest.importorskip("bitsandbytes")
    assert task.interface(kind, method) == "head"


def test_every_method_of_the_table_is_tested() -> None:
    assert set(SETTINGS) == set(RATES) == set(METHODS)


@pytest.mark.parametrize("task_kind", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_attached_the_outputs_are_the_head_on_the_bases_features(
    backbone: tuple[str, Path], task_kind: str, method: str
) -> None:
    kind, path = backbone
    task = built(task_kind)
    skip_what_is_refused(kind, task, method)
    data = examples(task_kind)
    lm, attached = attach(path, task, method)
    ready(lm, task, data, method)
    base = load_model(str(path), "head", task.outputs, METHODS[method].four_bit)
    model: HeadModel = lm.model.eval()
    with torch.no_grad():
        features = base.model.features(head_inputs(base.tokenizer, data))
        standard = (features - features.mean(0)) / model.feature_scale
        logits = standard @ model.head.weight.T + model.head.bias
    spread = features.std(0, correction=0)
    assert bool((model.feature_scale >= spread - 1e-6).all())
    numbers = np.array([task.head_target(e) for e in data])
    shift, scale = (numbers.mean(), numbers.std()) if task_kind == "regression" else (0.0, 1.0)
    expected = logits.double().numpy() * scale + shift
    found, tokens = head_outputs(lm, data)
    np.testing.assert_allclose(found, expected, atol=2e-4 * max(1.0, scale), rtol=1e-4)
    assert tokens == [len(ids) for ids in head_inputs(lm.tokenizer, data)]
    trainable = {id(p) for p in attached.trainable.values()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trainable
    assert attached.trainable_parameters == sum(p.numel() for p in attached.trainable.values()) > 0


@pytest.mark.parametrize("task_kind", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_eight_examples_saves_and_loads(
    backbone: tuple[str, Path], tmp_path: Path, task_kind: str, method: str
) -> None:
    import dataclasses

    kind, path = backbone
    task = built(task_kind)
    skip_what_is_refused(kind, task, method)
    data = examples(task_kind)
    lm, attached = attach(path, task, method)
    model: HeadModel = lm.model
    # the best fit already knows eight examples by heart: gradual starts from a new head here
    items = ready(lm, task, data, "full" if method == "gradual" else method)[""]
    names = {id(p) for p in attached.trainable.values()}
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if id(p) not in names}
    before = {n: p.detach().clone() for n, p in attached.trainable.items()}
    objective = OBJECTIVES["head"].build(lm, 64, True)
    settings = dataclasses.replace(LOOP, learning_rate=RATES[method])
    result = train(
        model, attached.trainable, objective, items * 20, items, settings, tmp_path / "training", paces=attached.paces
    )
    assert result.best_validation_loss < 0.5 * result.first_validation_loss
    sums, _ = losses_and_units(model.eval(), objective, items)
    assert float(sums.sum()) == pytest.approx(8 * result.best_validation_loss, rel=1e-5)
    unread = {n for n in before if "embeddings" in n}  # rows of tokens that do not occur; types of segments
    assert all(not torch.equal(before[n], p) for n, p in attached.trainable.items() if n not in unread)
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name

    expected = task.predict(lm, data, "c")
    folder = tmp_path / attached.artifact
    origin = {"method": SETTINGS[method].model_dump(), "interface": "head", "outputs": task.outputs}
    save_model(folder, attached.save, lm, str(path), origin)
    loaded = load_model(str(folder))
    assert loaded.interface == "head"
    for found, wanted in zip(task.predict(loaded, data, "c"), expected, strict=True):
        assert found.score == pytest.approx(wanted.score, abs=1e-3)
        assert (found.nll is None) == (wanted.nll is None)
        if wanted.nll is not None:
            assert found.prediction == wanted.prediction
            assert found.nll == pytest.approx(wanted.nll, abs=1e-5)
    if method == "head":
        assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 10_000


def test_a_padded_batch_is_each_alone(backbone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.model import head

    _, path = backbone
    data = examples("classification", 20)
    lm = load_model(str(path), "head", 3)
    together, _ = head_outputs(lm, data)
    told: list[int] = []
    monkeypatch.setattr(head, "BATCH_TOKENS", 1)
    alone, _ = head_outputs(lm, data, told.append)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert told == [1] * 20
    turned, _ = head_outputs(lm, data[::-1])
    np.testing.assert_allclose(turned[::-1], alone, atol=1e-5)


def test_pooling_is_the_mean_of_an_encoder_and_the_last_token_of_a_decoder(
    encoder_path: Path, tiny_model_path: Path
) -> None:
    data = examples("classification", 5)
    for path, last in ((encoder_path, False), (tiny_model_path, True)):
        lm = load_model(str(path), "head", 3)
        inputs = head_inputs(lm.tokenizer, data)
        assert all(ids[-1] == lm.tokenizer.eos_token_id for ids in inputs if isinstance(ids, list))
        features = lm.model.features(inputs)
        if last:
            lm.model.backbone.set_attn_implementation("sdpa")
        for ids, found in zip(inputs, features, strict=True):
            with torch.no_grad():
                hidden = lm.model.backbone(torch.tensor([ids])).last_hidden_state[0]
            torch.testing.assert_close(found, hidden[-1] if last else hidden.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
@pytest.mark.parametrize("method", ["gradual", "head"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    backbone: tuple[str, Path], tmp_path: Path, method: str, stop_at: int
) -> None:
    """Layers that have not begun to move when training stops begin where they should; dropout goes on as it would."""
    task = built("classification")
    data = examples("classification", 24)
    settings = LoopSettings(epochs=2, learning_rate=1e-2, global_batch_size=8, patience=0, evals_per_epoch=3)

    class Stop(Exception):
        pass

    def run(folder: Path, kill: bool) -> Attached:
        lm, attached = attach(backbone[1], task, method)
        items = ready(lm, task, data, method)[""]

        def listen(event: dict[str, Any]) -> None:
            if kill and event["step"] == stop_at:
                raise Stop

        objective = OBJECTIVES["head"].build(lm, 64, True)
        train(
            lm.model, attached.trainable, objective, items, items[:6], settings, folder, paces=attached.paces,
            listener=listen,
        )  # fmt: skip
        return attached

    whole = run(tmp_path / "whole", kill=False)
    with pytest.raises(Stop):
        run(tmp_path / "broken", kill=True)
    torch.manual_seed(999)
    again = run(tmp_path / "broken", kill=False)
    for name, parameter in again.trainable.items():
        assert torch.equal(parameter, whole.trainable[name]), name
