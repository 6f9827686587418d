"""Images opened, encoded, and rendered into conversations."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.data.render import IGNORE_INDEX, render_all
from tunesmith.errors import DataError, MissingExtraError, ModelError
from tunesmith.model import image_pack, vision
from tunesmith.model.forward import token_losses
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.vision import ImageRenderer, ImageText
from tunesmith.records import Message
from tunesmith.sources import ModelFolder, resolve_model


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_image_becomes_rgb(tmp_path: Path) -> None:
    from PIL import Image

    for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK"):
        kind = "tiff" if mode == "CMYK" else "png"
        Image.new(mode, (5, 4)).save(tmp_path / f"a.{kind}")
        opened = vision.open_image(tmp_path / f"a.{kind}")
        assert (opened.mode, opened.size) == ("RGB", (5, 4))


def truncated(path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def bomb(path: Path) -> None:
    from PIL import Image

    Image.new("1", (12_000, 12_000)).save(path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "no such image"),
        (lambda path: path.write_bytes(b""), "not an image that can be read"),
        (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
        (truncated, "not an image that can be read"),
        (bomb, "not an image that can be read .*decompression bomb"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, make: Callable[[Path], Any], text: str) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: .*{text}" if "bomb" in text else rf"a\.png: {text}"):
        vision.open_image(tmp_path / "a.png")


def test_without_pillow_the_extra_is_named(drawn: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[images\]'"):
        vision.open_image(drawn[0])


# ── encoders ─────────────────────────────────────────────────────────────────────────────────────────────
def folder(path: Path) -> ModelFolder:
    return ModelFolder("mine", path, "0" * 16, None)


def test_features_are_the_class_tokens_and_do_not_depend_on_the_batch(tiny_dinov2_path: Path, drawn: list[str]) -> None:
    backbone, processor = vision.load_image_encoder(folder(tiny_dinov2_path))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    together = vision.image_features(backbone, processor, drawn)
    assert together.shape == (16, vision.feature_width(backbone))
    for path, found in zip(drawn, together, strict=True):
        values = processor([vision.open_image(path)], return_tensors="pt")["pixel_values"]
        expected = backbone(pixel_values=values).last_hidden_state[0, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.pdist(together).min() > 1e-4  # sixteen images, sixteen vectors


def test_features_without_a_class_token_are_the_mean_over_the_picture(drawn: list[str]) -> None:
    from transformers import BitImageProcessorPil, ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    backbone = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1])).eval()
    processor = BitImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    found = vision.image_features(backbone, processor, drawn[:3])
    values = processor([vision.open_image(path) for path in drawn[:3]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, backbone(values).last_hidden_state.flatten(2).mean(2))
    assert found.shape == (3, vision.feature_width(backbone)) == (3, 12)


def test_what_is_no_image_encoder_is_refused(tmp_path: Path, tiny_dinov2_path: Path) -> None:
    shutil.copytree(tiny_dinov2_path, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        vision.load_image_encoder(folder(tmp_path / "a"))


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def lm(tiny_llava_path: Path) -> LanguageModel:
    return load_model(str(tiny_llava_path), "image_text")


def asked(question: str, answer: str, system: str = "") -> tuple[Message, ...]:
    turns = (Message("user", question), Message("assistant", answer))
    return (Message("system", system), *turns) if system else turns


def test_labels_are_the_answer_and_its_end(lm: LanguageModel, drawn: list[str]) -> None:
    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    conversation = (asked("what is it?", "a square", "Be brief."), drawn[0])
    item = renderer.render(conversation, "f:1")
    tokenizer = lm.tokenizer.tokenizer
    trained = [label for label in item.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(trained) == "a square<|im_end|>"
    assert item.units == len(trained)
    assert item.example_id == "f:1"
    assert item.input_ids.count(lm.model.config.image_token_id) == 36
    prompt = renderer.prompt(conversation)
    assert item.input_ids[: item.prompt_length] == prompt.input_ids
    assert tokenizer.decode(prompt.input_ids).replace("<image>", "") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_earlier_turns_have_no_image_and_carry_no_loss(lm: LanguageModel, drawn: list[str]) -> None:
    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    messages = (*asked("one", "1"), *asked("two", "2"))
    item = renderer.render((messages, drawn[0]))
    assert item.text == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\n<image>\ntwo<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    )
    assert lm.tokenizer.tokenizer.decode([t for t in item.labels if t != IGNORE_INDEX]) == "2<|im_end|>"


@pytest.mark.parametrize(
    ("messages", "image", "text"),
    [
        (asked("a", "b")[:1], 0, "no answer at the end"),
        (asked("<image> a", "b"), 0, "message 1 holds '<image>'"),
        (asked("a", "b<|im_end|>"), 0, "message 2 holds '<|im_end|>'".replace("|", r"\|")),
        (asked("a", "b"), "no/such.png", "no/such.png: no such image"),
    ],
)
def test_what_cannot_be_rendered(
    lm: LanguageModel, drawn: list[str], messages: tuple[Message, ...], image: int | str, text: str
) -> None:
    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    path = drawn[image] if isinstance(image, int) else image
    with pytest.raises(DataError, match=text):
        renderer.render((messages, path))
    with pytest.raises(DataError, match=rf"(?s)2 of 3 examples cannot be rendered.*f:1: .*{text}.*f:2: .*{text}"):
        examples = [("f:0", (asked("a", "b"), drawn[0])), ("f:1", (messages, path)), ("f:2", (messages, path))]
        render_all(renderer, examples, "refuse")


def test_a_template_whose_answer_cannot_be_found_is_refused(
    lm: LanguageModel, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    template = lm.tokenizer.chat_template
    monkeypatch.setattr(lm.tokenizer, "chat_template", template.replace("assistant\\n", "assistant says\\n"))
    with pytest.raises(DataError, match="where the answer begins cannot be proved"):
        renderer.render((asked("a", "b"), drawn[0]))
    endless = template.replace("'<|im_end|>\\n'", "'\\n'")
    assert endless != template
    monkeypatch.setattr(lm.tokenizer, "chat_template", endless)
    with pytest.raises(DataError, match="ends an answer with no token"):
        renderer.render((asked("a", "b"), drawn[0]))


def items_of(lm: LanguageModel, drawn: list[str]) -> list[ImageText]:
    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    questions = [asked("what " * (1 + i % 4), "yes " * (1 + i % 3) + str(i)) for i in range(8)]
    return [renderer.render((question, drawn[i]), str(i)) for i, question in enumerate(questions)]


@pytest.fixture
def plain(lm: LanguageModel) -> Iterator[LanguageModel]:
    """The model attending as transformers has it, over padded batches."""
    image_pack.set_text_attention(lm.model, "sdpa")
    yield lm
    image_pack.set_text_attention(lm.model, "tunesmith")


@pytest.mark.usefixtures("plain")
def test_padded_batches_give_what_each_gives_alone(lm: LanguageModel, drawn: list[str]) -> None:
    items = items_of(lm, drawn)
    together = image_pack.answer_losses(lm.model, lm.tokenizer, items, 10_000, packed=False)
    apart = image_pack.answer_losses(lm.model, lm.tokenizer, items, 1, packed=False)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)
    item = items[3]
    batch = lm.tokenizer(text=[item.text], images=[[vision.open_image(item.image)]], return_tensors="pt")
    assert batch["input_ids"][0].tolist() == item.input_ids
    with torch.no_grad():
        logs = lm.model(**batch).logits[0].log_softmax(-1)
    expected = -sum(float(logs[t - 1, label]) for t, label in enumerate(item.labels) if label != IGNORE_INDEX)
    assert float(together[3]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("plain")
def test_states_are_differentiable_to_the_projector(lm: LanguageModel, drawn: list[str]) -> None:
    items = items_of(lm, drawn)[:2]
    weight = lm.model.model.multi_modal_projector.linear_2.weight.requires_grad_(True)
    hidden, targets = vision.supervised_states(lm.model, lm.tokenizer, items)
    assert len(hidden) == len(targets) == sum(item.units for item in items)
    assert token_losses(lm.model, hidden.detach(), targets).shape == targets.shape
    hidden.sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0
    weight.grad = None
    weight.requires_grad_(False)


@pytest.mark.usefixtures("plain")
def test_answers_are_greedy_one_by_one(lm: LanguageModel, drawn: list[str]) -> None:
    from tunesmith.model.generate import end_tokens

    renderer = ImageRenderer(lm.tokenizer, lm.max_length)
    prompts = [renderer.prompt((asked("what " * (1 + i % 3), "-"), drawn[i])) for i in range(5)]
    told: list[int] = []
    found = image_pack.answer_images(lm, prompts, 6, told.append)
    assert sum(told) == 5
    tokenizer = lm.tokenizer.tokenizer
    ends = {tokenizer.eos_token_id}
    assert ends <= set(end_tokens(lm.__class__(lm.model, tokenizer, lm.folder, False, lm.device, {})))
    for prompt, answer in zip(prompts, found, strict=True):
        batch = vision.collate(lm.tokenizer, [prompt], "left", "cpu")
        written: list[int] = []
        while len(written) < 6:
            ids = torch.tensor([[*prompt.input_ids, *written]])
            with torch.no_grad():
                token = int(lm.model(input_ids=ids, pixel_values=batch["pixel_values"]).logits[0, -1].argmax())
            if token in ends:
                break
            written.append(token)
        assert answer.text == tokenizer.decode(written, skip_special_tokens=True)
        assert (answer.prompt_tokens, answer.completion_tokens) == (prompt.tokens, len(written))
        assert answer.truncated == (len(written) == 6)


def test_a_text_model_is_refused(tiny_model_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded as a vision–language model|tokenizer or processor"):
        load_model(str(tiny_model_path), "image_text")


@pytest.mark.slow
def test_the_catalogs_model_reads_an_image_as_36_tokens(drawn: list[str]) -> None:
    from tunesmith.sources.catalog import MODELS

    lm = load_model("smollm2-dinov2", "image_text")
    assert lm.parameters == MODELS["smollm2-dinov2"].parameters
    item = ImageRenderer(lm.tokenizer, lm.max_length).render((asked("what color is it?", "blue"), drawn[0]))
    assert item.input_ids.count(lm.model.config.image_token_id) == 36
    assert item.units == 2
    assert resolve_model("smollm2-dinov2").entry is MODELS["smollm2-dinov2"]
    loss = float(image_pack.answer_losses(lm.model, lm.tokenizer, [item], 1, lm.packed)[0])
    assert 0 < loss < 30
