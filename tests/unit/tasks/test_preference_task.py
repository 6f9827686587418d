from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.candidates import FAMILIES, Context
from tunesmith.config import Preference, parse_config
from tunesmith.data.render import Renderer
from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluate.forgetting import answer_log_probabilities
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.tasks.preference import render_pair
from tunesmith.train.objectives import OBJECTIVES, EncodeSettings
from tunesmith.workflow import silent

TASK = build_task(Preference(beta=0.3), ())


def pair(prompt: str, chosen: str, rejected: str, source: str = "f:1") -> Example:
    messages = (Message("user", prompt), Message("assistant", chosen))
    return Example(source, messages, rejected=(Message("assistant", rejected),))


PAIRS = [pair(f"say {'very ' * i}{i}", f"yes {'x' * (i % 3)}", "no " * (1 + i % 4), f"f:{i}") for i in range(6)]


@pytest.fixture(scope="module")
def lm(tiny_model_path: Path) -> LanguageModel:
    return load_model(str(tiny_model_path), "preference")


def encode(lm: LanguageModel, examples: list[Example], max_length: int = 200, **more: Any) -> Any:
    return OBJECTIVES["preference"].encode(TASK, lm.tokenizer, examples, EncodeSettings(max_length, **more))


def test_the_answer_with_the_likelier_tokens_is_preferred(lm: LanguageModel) -> None:
    found = TASK.predict(lm, PAIRS, "c")
    lm.model.set_attn_implementation("sdpa")
    renderer = Renderer(lm.tokenizer, lm.max_length)
    for example, prediction in zip(PAIRS, found, strict=True):
        prompt, *answers = render_pair(TASK, renderer, example)
        means = []
        for answer in answers:
            with torch.no_grad():
                logs = lm.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            means.append(-float(logs[range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer].mean()))
        likelier = example.answer if means[0] < means[1] else example.rejected[0].content
        assert (prediction.prediction, prediction.target) == (likelier, example.answer)
        assert prediction.score == float(likelier == example.answer)
        assert prediction.nll == pytest.approx(means[0], rel=1e-5)
    lm.model.set_attn_implementation("tunesmith")
    assert {p.score for p in found} == {0.0, 1.0}  # or this shows little


def test_earlier_answers_are_shown_and_not_compared(lm: LanguageModel) -> None:
    before = (Message("user", "hi"), Message("assistant", "hello"))
    example = replace(PAIRS[1], messages=(*before, *PAIRS[1].messages))
    prompt, chosen, rejected = (
        lm.tokenizer.decode(ids) for ids in render_pair(TASK, Renderer(lm.tokenizer, 200), example)
    )
    assert prompt.endswith("hello<|im_end|>\n<|im_start|>user\nsay very 1<|im_end|>\n<|im_start|>assistant\n")
    assert (chosen, rejected) == ("yes x<|im_end|>", "no no <|im_end|>")


def test_encoded_pairs_are_what_is_rendered(lm: LanguageModel) -> None:
    items, findings = encode(lm, PAIRS)
    renderer = Renderer(lm.tokenizer, 200)
    assert findings == []
    for example, item in zip(PAIRS, items, strict=True):
        prompt, chosen, rejected = render_pair(TASK, renderer, example)
        assert (item.example_id, list(item.prompt)) == (example.source, prompt)
        assert (list(item.chosen), list(item.rejected)) == (chosen, rejected)
        assert item.tokens == len(prompt) + len(chosen) + len(rejected)
        assert (item.units, item.beta) == (1, 0.3)
        rendered = renderer.render(TASK.messages(example))
        assert (item.input_ids, item.labels) == (rendered.input_ids, rendered.labels)


def test_what_is_no_pair_is_refused_all_at_once(lm: LanguageModel) -> None:
    bad = [
        *PAIRS,
        replace(PAIRS[0], source="f:7", rejected=()),
        pair("a", "same", "same", "f:8"),
        pair("a", "good", "<|im_end|>", "f:9"),
    ]
    with pytest.raises(DataError) as caught:
        encode(lm, bad)
    text = str(caught.value)
    assert "3 of 9 pairs" in text
    assert "f:7: no pair" in text
    assert "f:8: the chosen and the rejected answer are the same" in text
    assert "f:9: message 2 holds '<|im_end|>'" in text
    with pytest.raises(ConfigError, match="train_on"):
        encode(lm, PAIRS, train_on="all")


def test_the_longer_answer_decides_whether_a_pair_fits(lm: LanguageModel) -> None:
    long = [
        pair("tell me a story", "ok", "no " * 30, "f:1"),
        pair("tell me a story", "yes " * 30, "no", "f:2"),
        PAIRS[0],
    ]
    whole, _ = encode(lm, long)
    limit = max(item.longest for item in whole) - 3
    with pytest.raises(DataError, match="of 3 examples are longer"):
        encode(lm, long, limit)
    kept, findings = encode(lm, long, min(item.longest for item in whole), overlong="drop")
    assert kept == whole[2:]
    assert (findings[0].check, findings[0].count) == ("overlong", 2)
    cut, findings = encode(lm, long, limit, overlong="truncate_left")
    assert findings[0].check == "truncated"
    for item, before in zip(cut, whole, strict=True):
        removed = before.longest - item.longest
        assert removed == max(0, before.longest - limit)
        assert item == replace(before, prompt=(before.prompt[0], *before.prompt[1 + removed :]))  # its first is the BOS


@pytest.mark.parametrize(("architecture", "method"), [("encoder", "lora"), ("decoder", "head"), ("decoder", "gradual")])
def test_what_cannot_be_trained_on_pairs_is_refused(architecture: str, method: str) -> None:
    with pytest.raises(ConfigError, match="preference needs a decoder"):
        TASK.interface(architecture, method)
    assert TASK.interface("decoder", "qlora") == "preference"


def test_divergence_from_the_base_is_measured_on_the_chosen_answers(lm: LanguageModel) -> None:
    items, _ = encode(lm, PAIRS)
    renderer = Renderer(lm.tokenizer, 200)
    chosen = [renderer.render(TASK.messages(example)) for example in PAIRS]
    torch.testing.assert_close(answer_log_probabilities(lm, items), answer_log_probabilities(lm, chosen))


def test_a_candidate_is_trained_judged_saved_and_loaded(tiny_model_path: Path, tmp_path: Path) -> None:
    config = parse_config({
        "task": "preference", "data": {"train": "x"}, "model": str(tiny_model_path), "forgetting": "off",
        "train": {"micro_batch_tokens": 100},
    })  # fmt: skip
    loop = {"lora": {"epochs": 4, "learning_rate": 3e-3, "global_batch_size": 3}}
    context = Context(config, TASK, str(tiny_model_path), loop, 200, silent)
    candidate = FAMILIES["tune"].build(context, "tune/tiny_llama/lora", tmp_path)
    fit = candidate.fit(PAIRS, PAIRS)
    assert fit.measured["reward_margin"]["low"] > 0
    assert fit.measured["reward_accuracy"]["value"] == 1.0
    assert fit.details["first_validation_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert fit.measured["overfitting"]["validation_loss"] == pytest.approx(
        fit.details["best_validation_loss"], rel=1e-5
    )
    expected = candidate.predict(PAIRS)
    loaded = load_model(str(tmp_path / "adapter"))
    assert loaded.interface == "preference"
    again = TASK.predict(loaded, PAIRS, "again")
    assert [p.prediction for p in again] == [p.prediction for p in expected]
    assert [p.nll for p in again] == pytest.approx([p.nll for p in expected], rel=1e-5)
