"""What every task must hold to, against oracles that take one example at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import Classification, Generation, Preference, Translation
from tunesmith.data.render import Renderer
from tunesmith.model.generate import end_tokens
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.records import Example, Message
from tunesmith.tasks import TASKS, Task, build_task

LABELS = ("card_arrival", "other", "refund")


def classified(n: int) -> list[Example]:
    words = ["my card", "the money that I sent", "nothing", "the weather in the city is cold today"]
    return [Example(f"f:{i}", text=f"{words[i % 4]} {'x' * (i % 5)} {i}", label=LABELS[i % 3]) for i in range(n)]


def conversations(n: int) -> list[Example]:
    made = []
    for i in range(n):
        system = (Message("system", "Be short."),) if i % 2 else ()
        made.append(
            Example(
                f"f:{i}", (*system, Message("user", f"say {'very ' * (i % 6)}{i}"), Message("assistant", f"yes {i}"))
            )
        )
    return made


def pairs(n: int) -> list[Example]:
    return [
        replace(e, rejected=(Message("assistant", f"no {'no ' * (i % 4)}"),)) for i, e in enumerate(conversations(n))
    ]


# tasks over models of another kind: test_image_text.py, test_heads.py
OWN_FILES = {"image_text", "multi_label", "regression"}
CASES: dict[str, tuple[Any, list[Example], tuple[str, ...]]] = {
    "classification": (Classification(), classified(14), LABELS),
    "generation": (Generation(instruction="Answer.", max_new_tokens=9), conversations(14), ()),
    "translation": (Translation(max_new_tokens=9), conversations(14), ()),
    "preference": (Preference(instruction="Answer."), pairs(14), ()),
}


@pytest.fixture(scope="module")
def lm(tiny_model_path: Path) -> LanguageModel:
    return load_model(str(tiny_model_path))


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Task, list[Example]]:
    settings, examples, labels = CASES[request.param]
    return build_task(settings, labels), examples


def test_every_task_of_the_table_is_tested() -> None:
    assert set(CASES) | OWN_FILES == set(TASKS)


def test_messages_end_with_the_answer(case: tuple[Task, list[Example]]) -> None:
    task, examples = case
    for shots in ((), tuple(examples[5:7])):
        for example in examples[:4]:
            turns = task.messages(example, shots)
            assert turns[-1].role == "assistant"
            spoken = turns[-1].content
            assert spoken == (example.answer if example.label is None else example.answer.replace("_", " "))
            assert sum(turn.role == "system" for turn in turns) == 1
            assert turns[0].role == "system"
            assert sum(turn.role == "assistant" for turn in turns) == 1 + len(shots)
    assert task.metrics[0] == task.metric


def timeless(predictions: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (
            p.example_id,
            p.prediction,
            p.target,
            p.score,
            pytest.approx(p.nll, abs=1e-5),  # not rounded: two roundings part where a value lies on an edge
            p.prompt_tokens,
            p.completion_tokens,
            p.truncated,
        )
        for p in predictions
    ]


def test_predictions_come_in_order_whatever_the_batch_and_the_order(
    case: tuple[Task, list[Example]], lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.model import generate, score
    from tunesmith.tasks import classification, preference

    task, examples = case
    expected = task.predict(lm, examples, "c")
    assert [p.example_id for p in expected] == [e.id for e in examples]
    assert [p.target for p in expected] == [e.answer for e in examples]
    assert all(p.candidate == "c" and p.seconds > 0 for p in expected)
    turned = task.predict(lm, examples[::-1], "c")[::-1]
    assert timeless(turned) == timeless(expected)
    monkeypatch.setattr(score, "SCORE_TOKENS", 1)
    monkeypatch.setattr(generate, "BATCH_TOKENS", 1)
    monkeypatch.setattr(classification, "BLOCK", 3)
    monkeypatch.setattr(preference, "BLOCK", 3)
    told: list[int] = []
    alone = task.predict(lm, examples, "c", (), told.append)
    assert timeless(alone) == timeless(expected)
    assert sum(told) == len(examples)


def test_answers_from_elsewhere_are_scored_alike(case: tuple[Task, list[Example]]) -> None:
    task, examples = case
    right = task.from_answers(examples, [e.answer for e in examples], "c", 7.0)
    assert [p.score for p in right] == [1.0] * len(examples)
    assert sum(p.seconds for p in right) == pytest.approx(7.0)
    assert [p.score for p in task.from_answers(examples, ["?"] * len(examples), "c", 0.0)] == [0.0] * len(examples)


@pytest.mark.parametrize("shots", [0, 2])
def test_label_likelihoods_equal_a_forward_pass_for_each_label(lm: LanguageModel, shots: int) -> None:
    settings, examples, labels = CASES["classification"]
    task = build_task(settings, labels)
    renderer = Renderer(lm.tokenizer, lm.max_length)
    shown = tuple(examples[10 : 10 + shots])
    found = task.predict(lm, examples[:8], "c", shown)
    lm.model.set_attn_implementation("sdpa")
    for example, prediction in zip(examples, found, strict=False):
        means = []
        for label in labels:
            asked = Example("f:0", text=example.text, label=label)
            prompt = renderer.prompt(task.messages(asked, shown))
            whole = renderer.render(task.messages(asked, shown)).input_ids
            with torch.no_grad():
                logs = lm.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            tokens = range(len(prompt), len(whole))
            means.append(-float(np.mean([float(logs[t - 1, whole[t]]) for t in tokens])))
        assert prediction.prediction == labels[int(np.argmin(means))]
        assert prediction.nll == pytest.approx(means[labels.index(example.label or "")], rel=1e-5)
        assert prediction.probabilities is not None
        assert sum(prediction.probabilities) == pytest.approx(1)
        assert int(np.argmax(prediction.probabilities)) == int(np.argmin(means))
    lm.model.set_attn_implementation("tunesmith")


def test_generation_equals_greedy_decoding_one_token_and_one_example_at_a_time(lm: LanguageModel) -> None:
    settings, examples, _ = CASES["generation"]
    task = build_task(settings, ())
    renderer = Renderer(lm.tokenizer, lm.max_length)
    found = task.predict(lm, examples, "c")
    ends = end_tokens(lm)
    lm.model.set_attn_implementation("sdpa")
    for example, prediction in zip(examples, found, strict=True):
        ids = renderer.prompt(task.messages(example))
        assert prediction.prompt_tokens == len(ids)
        written: list[int] = []
        with torch.no_grad():
            while len(written) < 9:
                token = int(lm.model(torch.tensor([[*ids, *written]]), use_cache=False).logits[0, -1].argmax())
                if token in ends:
                    break
                written.append(token)
        assert prediction.prediction == lm.tokenizer.decode(written, skip_special_tokens=True).strip()
        assert prediction.truncated == (len(written) == 9)
        assert prediction.completion_tokens == len(written)
    lm.model.set_attn_implementation("tunesmith")
