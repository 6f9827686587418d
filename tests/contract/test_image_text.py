"""Questions about images, held to what every task and method must hold to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.candidates.tuned import continue_adapter
from tunesmith.config import Full, ImageText, Lora
from tunesmith.errors import ConfigError, DataError
from tunesmith.model import image_pack
from tunesmith.model.image_pack import image_batches, measure_image_parity, set_text_attention
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.save import save_model
from tunesmith.records import Example, Message
from tunesmith.tasks.image_text import build_image_text
from tunesmith.train.loop import LoopSettings, losses_and_units, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives.image_text import IMAGE_TEXT, ImageTextLoss
from tunesmith.train.objectives.objective import EncodeSettings

TASK = build_image_text(ImageText(max_new_tokens=3), (), None)
SETTINGS: dict[str, Any] = {"lora": Lora(rank=8), "full": Full()}
ENCODING = EncodeSettings(512)


def examples(drawn: list[str], n: int = 8) -> list[Example]:
    """One question about every image; only the image tells the answer."""
    return [
        Example(f"f:{i + 1}", (Message("user", "which?"), Message("assistant", "abcdefgh"[i])), image=drawn[2 * i])
        for i in range(n)
    ]


def attach(path: Path, method: str) -> tuple[LanguageModel, Attached]:
    lm = load_model(str(path), "image_text")
    torch.manual_seed(0)
    attached = METHODS[method].attach(lm.model, SETTINGS[method])
    lm.model = attached.model
    return lm, attached


def encoded(lm: LanguageModel, data: list[Example]) -> list[Any]:
    return IMAGE_TEXT.encode(TASK, lm.tokenizer, data, ENCODING)[0]


@pytest.mark.parametrize("method", SETTINGS)
def test_attached_it_is_the_base_still(tiny_llava_path: Path, drawn: list[str], method: str) -> None:
    base = load_model(str(tiny_llava_path), "image_text")
    items = encoded(base, examples(drawn))
    expected = IMAGE_TEXT.build(base, 1024, True).item_losses(base.model, items)
    lm, attached = attach(tiny_llava_path, method)
    torch.testing.assert_close(IMAGE_TEXT.build(lm, 1024, True).item_losses(lm.model, items), expected)
    assert {id(p) for p in lm.model.parameters() if p.requires_grad} == {id(p) for p in attached.trainable.values()}
    names = list(attached.trainable)
    assert any("multi_modal_projector" in name for name in names)
    assert any("vision_tower" in name for name in names) == (method == "full")  # the eyes stay as they are
    assert any("language_model" in name for name in names)


@pytest.mark.parametrize("method", SETTINGS)
def test_it_learns_to_see_saves_and_loads(tiny_llava_path: Path, tmp_path: Path, drawn: list[str], method: str) -> None:
    lm, attached = attach(tiny_llava_path, method)
    data = examples(drawn)
    items = encoded(lm, data)
    objective = IMAGE_TEXT.build(lm, 1024, True)
    trained = {id(p) for p in attached.trainable.values()}
    frozen = {n: p.detach().clone() for n, p in lm.model.named_parameters() if id(p) not in trained}
    loop = LoopSettings(epochs=60, learning_rate=1e-2, global_batch_size=8, patience=0, evals_per_epoch=1)
    train(lm.model, attached.trainable, objective, items, items, loop, tmp_path / "training")
    lm.model.eval()
    sums, units = losses_and_units(lm.model, objective, items)
    # With the tiny model's head frozen no hidden state gives less than 0.58 nats; guessing among the eight gives 1.3.
    assert float(sums.sum() / units.sum()) < 0.62
    for name, parameter in lm.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    found = TASK.predict(lm, data, "c")
    assert sum(p.score for p in found) >= 7

    folder = tmp_path / attached.artifact
    origin = {"method": SETTINGS[method].model_dump(), "interface": "image_text"}
    save_model(folder, attached.save, lm, str(tiny_llava_path), origin)
    loaded = load_model(str(folder))
    assert loaded.interface == "image_text"
    again = TASK.predict(loaded, data, "c")
    assert [p.prediction for p in again] == [p.prediction for p in found]
    assert [p.nll for p in again] == pytest.approx([p.nll for p in found], rel=1e-4, abs=1e-5)


def test_a_stage_goes_on_with_what_joins_image_and_text_too(
    tiny_llava_path: Path, tmp_path: Path, drawn: list[str]
) -> None:
    lm, attached = attach(tiny_llava_path, "lora")
    items = encoded(lm, examples(drawn))
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    attached.save(tmp_path / "adapter")
    ended = IMAGE_TEXT.build(lm, 1024, True).item_losses(lm.model, items)
    following, again = attach(tiny_llava_path, "lora")
    objective = IMAGE_TEXT.build(following, 1024, True)
    assert (objective.item_losses(following.model, items) - ended).abs().max() > 0.1
    continue_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(objective.item_losses(following.model, items), ended, atol=1e-5, rtol=0)


def test_the_loss_does_not_depend_on_how_a_step_is_cut(tiny_llava_path: Path, drawn: list[str]) -> None:
    lm, attached = attach(tiny_llava_path, "lora")
    items = encoded(lm, examples(drawn))
    units = sum(item.units for item in items)
    gradients = []
    for budget in (1, 150, 10_000):
        parts = list(IMAGE_TEXT.build(lm, budget, True).losses(lm.model, items, 1 / units))
        assert len(parts) == {1: 8, 150: 4, 10_000: 1}[budget]
        total = torch.stack(parts).sum()
        total.backward()
        gradients.append([p.grad.clone() for p in attached.trainable.values() if p.grad is not None])
        for parameter in attached.trainable.values():
            parameter.grad = None
    mean = IMAGE_TEXT.build(lm, 1, True).item_losses(lm.model, items).sum() / units
    assert float(total.detach()) == pytest.approx(float(mean), rel=1e-5)
    for one, other in zip(gradients[0], gradients[2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def about_few_images(drawn: list[str]) -> list[Example]:
    """Eleven questions about three images, of several lengths, some with an instruction of their own."""
    found = []
    for i in range(11):
        system = (Message("system", "Be brief."),) if i % 5 == 4 else ()
        turns = (
            *system,
            Message("user", f"{'is it ' * (i % 4)}which?"),
            Message("assistant", "abcdefghijk"[i] * (i % 3 + 1)),
        )
        found.append(Example(f"f:{i + 1}", turns, image=drawn[5 * (i % 3)]))
    return found


@pytest.mark.parametrize("method", SETTINGS)
def test_what_is_shared_gives_the_losses_and_gradients_of_each_alone(
    tiny_llava_path: Path, drawn: list[str], method: str
) -> None:
    lm, attached = attach(tiny_llava_path, method)
    assert lm.packed
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    items = encoded(lm, about_few_images(drawn))
    token = lm.model.config.image_token_id
    (batch,) = image_batches(items, 10_000, token, "cpu")
    assert len(batch.images) == 5  # three images, two of them behind two beginnings
    assert int((batch.pack.input_ids == token).sum()) == 5 * 36  # not 11 times
    found = {}
    for name, budget, packed, share in (
        ("alone", 1, False, False), ("padded", 300, False, False), ("packed", 10_000, True, False),
        ("shared", 10_000, True, True), ("cut", 150, True, True),
    ):  # fmt: skip
        set_text_attention(lm.model, "tunesmith" if packed else "sdpa")
        objective = ImageTextLoss(lm.tokenizer, budget, packed, share)
        total = torch.stack(list(objective.losses(lm.model, items, 0.1))).sum()
        total.backward()
        gradients = {name: p.grad.clone() for name, p in attached.trainable.items() if p.grad is not None}
        for parameter in attached.trainable.values():
            parameter.grad = None
        found[name] = (total.detach(), objective.item_losses(lm.model, items), gradients)
    assert any("multi_modal_projector" in name and g.abs().max() > 1e-4 for name, g in found["alone"][2].items())
    for name, (total, losses, gradients) in found.items():
        torch.testing.assert_close(total, found["alone"][0], atol=1e-5, rtol=1e-5, msg=name)
        torch.testing.assert_close(losses, found["alone"][1], atol=1e-5, rtol=1e-5, msg=name)
        assert gradients.keys() == found["alone"][2].keys()
        for parameter, gradient in gradients.items():
            expected = found["alone"][2][parameter]
            torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4, msg=f"{name}: {parameter}")


def test_the_order_of_a_step_changes_no_bit(tiny_llava_path: Path, drawn: list[str]) -> None:
    lm, attached = attach(tiny_llava_path, "lora")
    items = encoded(lm, about_few_images(drawn))
    objective = IMAGE_TEXT.build(lm, 150, True)
    found = []
    for turned in (items, items[::-1], [*items[4:], *items[:4]]):
        torch.stack(list(objective.losses(lm.model, turned, 0.1))).sum().backward()
        found.append([p.grad.clone() for p in attached.trainable.values() if p.grad is not None])
        for parameter in attached.trainable.values():
            parameter.grad = None
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_answers_are_those_of_each_question_alone(tiny_llava_path: Path, drawn: list[str]) -> None:
    lm = load_model(str(tiny_llava_path), "image_text")
    lm.model.model.multi_modal_projector.linear_2.weight.mul_(30)  # or a random model says the same of every image
    data = about_few_images(drawn)
    together = TASK.predict(lm, data, "c")
    alone = [TASK.predict(lm, [example], "c")[0] for example in data]
    lm.packed = False
    set_text_attention(lm.model, "sdpa")
    padded = TASK.predict(lm, data, "c")
    for other in (alone, padded):
        assert [p.prediction for p in other] == [p.prediction for p in together]
        assert [p.completion_tokens for p in other] == [p.completion_tokens for p in together]
        assert [p.nll for p in other] == pytest.approx([p.nll for p in together], abs=1e-5)
    assert len({p.prediction for p in together}) > 1


def test_a_model_that_cannot_takes_the_padded_path(
    tiny_llava_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_model(str(tiny_llava_path), "image_text")
    set_text_attention(lm.model, "sdpa")
    assert measure_image_parity(lm.model, lm.tokenizer)
    monkeypatch.setattr(lm.model.config.get_text_config(), "sliding_window", 64, raising=False)
    assert not measure_image_parity(lm.model, lm.tokenizer)  # a window is not told by pictures this small
    monkeypatch.undo()
    states = image_pack._hidden_states
    monkeypatch.setattr(image_pack, "_hidden_states", lambda *given: states(*given) * 1.01)
    assert not measure_image_parity(lm.model, lm.tokenizer)
    assert lm.model.config.get_text_config()._attn_implementation == "sdpa"


def test_an_epoch_has_every_question_once_those_of_an_image_together(tiny_llava_path: Path, drawn: list[str]) -> None:
    lm = load_model(str(tiny_llava_path), "image_text")
    items = encoded(lm, about_few_images(drawn))
    order = IMAGE_TEXT.order(items) if IMAGE_TEXT.order is not None else None
    assert order is not None and order.size == 11
    epochs = [np.concatenate([order.step(4, 7, 3 * epoch + i) for i in range(3)]).tolist() for epoch in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(epoch) == list(range(11))
        images = [items[i].image for i in epoch]
        assert sum(a != b for a, b in itertools.pairwise(images)) == 2
    assert order.step(4, 7, 1).tolist() == epochs[0][4:8]


def test_predictions_come_in_order_and_hold_what_they_were_asked(tiny_llava_path: Path, drawn: list[str]) -> None:
    lm = load_model(str(tiny_llava_path), "image_text")
    data = examples(drawn)
    found = TASK.predict(lm, data, "c")
    turned = TASK.predict(lm, data[::-1], "c")[::-1]
    assert [p.example_id for p in found] == [e.id for e in data] == [p.example_id for p in turned]
    assert [p.prediction for p in found] == [p.prediction for p in turned]
    assert [p.nll for p in found] == pytest.approx([p.nll for p in turned], rel=1e-4)
    assert all(p.target == e.answer and p.text == "which?" and p.seconds > 0 for p, e in zip(found, data, strict=True))
    right = TASK.from_answers(data, [e.answer for e in data], "c", 8.0)
    assert [p.score for p in right] == [1.0] * 8


def test_what_the_task_takes() -> None:
    assert TASK.interface("vision-language", "lora") == "image_text"
    for architecture, method in (("decoder", "lora"), ("image-encoder", "head"), ("vision-language", "gradual")):
        with pytest.raises(ConfigError, match=f"the model is of kind {architecture}, the method {method}"):
            TASK.interface(architecture, method)


def test_messages() -> None:
    task = build_image_text(ImageText(instruction="Be brief."), (), None)
    turns = (Message("user", "a"), Message("assistant", "b"))
    shot = Example("f:2", (Message("user", "c"), Message("assistant", "d")), image="c.png")
    told = [m.content for m in task.messages(Example("f:1", turns, image="a.png"), (shot,))]
    assert told == ["Be brief.", "c", "d", "a", "b"]
    own = (Message("system", "s"), *turns)
    assert [m.content for m in task.messages(Example("f:1", own, image="a.png"))] == ["s", "a", "b"]


def test_what_cannot_be_trained_is_refused(tiny_llava_path: Path, drawn: list[str]) -> None:
    processor = load_model(str(tiny_llava_path), "image_text").tokenizer
    data = examples(drawn)
    blind = [Example(e.source, e.messages) for e in data[:6]]
    with pytest.raises(DataError, match=r"6 of 8 examples have no image: f:1, f:2, f:3, f:4, f:5 and 1 more\..*data"):
        IMAGE_TEXT.encode(TASK, processor, [*blind, *data[6:]], ENCODING)
    for settings, key in (
        (EncodeSettings(512, overlong="truncate_left"), r"data\.overlong"),
        (EncodeSettings(512, train_on="all"), r"train\.train_on"),
    ):
        with pytest.raises(DataError, match=key):
            IMAGE_TEXT.encode(TASK, processor, data, settings)
    long = Example("f:9", (Message("user", "why? " * 200), Message("assistant", "a")), image=drawn[0])
    with pytest.raises(DataError, match=r"1 of 9 examples are longer than 512 tokens"):
        IMAGE_TEXT.encode(TASK, processor, [*data, long], ENCODING)
    items, findings = IMAGE_TEXT.encode(TASK, processor, [*data, long], EncodeSettings(512, overlong="drop"))
    assert len(items) == 8
    assert [(f.check, f.count) for f in findings] == [("overlong", 1)]
