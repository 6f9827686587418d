from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tunesmith.candidates.templates import SHORT, TEMPLATES, Template
from tunesmith.config import Classification, Generation, Translation
from tunesmith.data.render import Renderer
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.score import score_continuations
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.tasks.classification import ClassificationTask
from tunesmith.tasks.task import AskedTask

SHOTS = [Example("f:1", text="it rains", label="0"), Example("f:2", text="it shines", label="1")]
ASKED = Example("f:3", text="it snows", label="0")
CONVERSATION = Example("f:4", (Message("system", "Be kind."), Message("user", "hi"), Message("assistant", "hello")))


@pytest.fixture(scope="module")
def lm(tiny_model_path: Path) -> LanguageModel:
    return load_model(str(tiny_model_path))


def weather(labels: int = 2) -> ClassificationTask:
    words = {str(i): f"kind {i}" for i in range(labels)}
    settings = Classification(labels=words, instruction="Sort.")
    return cast("ClassificationTask", build_task(settings, list(words)))


def said(template: str, task: AskedTask, example: Example, shots: list[Example]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in TEMPLATES[task.kind][template](task, example, shots)]


def test_each_wording_of_a_classification() -> None:
    task = weather()
    assert said("plain", task, ASKED, SHOTS[:1]) == [
        ("system", "Sort."), ("user", "it rains"), ("assistant", "kind 0"), ("user", "it snows"),
        ("assistant", "kind 0"),
    ]  # fmt: skip
    asked = "\n\nWhich label fits this text: kind 0 or kind 1?"
    assert said("question", task, ASKED, SHOTS[:1]) == [
        ("system", "Sort."), ("user", f"it rains{asked}"), ("assistant", "kind 0"), ("user", f"it snows{asked}"),
        ("assistant", "kind 0"),
    ]  # fmt: skip
    assert said("inline", task, ASKED, SHOTS[1:]) == [
        ("user", "Sort.\n\nit shines"), ("assistant", "kind 1"), ("user", "Sort.\n\nit snows"), ("assistant", "kind 0"),
    ]  # fmt: skip
    assert said("completion", task, ASKED, SHOTS) == [
        ("system", "Sort."),
        ("user", "Text: it rains\nLabel: kind 0\n\nText: it shines\nLabel: kind 1\n\nText: it snows\nLabel:"),
        ("assistant", "kind 0"),
    ]
    assert said("completion", task, ASKED, []) == [
        ("system", "Sort."), ("user", "Text: it snows\nLabel:"), ("assistant", "kind 0"),
    ]  # fmt: skip


def test_many_labels_are_named_once_and_very_many_not_at_all() -> None:
    turns = said("question", weather(9), ASKED, SHOTS)
    assert turns[0] == ("system", "Sort.\nThe labels are: " + ", ".join(f"kind {i}" for i in range(9)) + ".")
    assert turns[1] == ("user", "it rains\n\nWhich label fits this text?")
    assert said("question", weather(101), ASKED, SHOTS)[0] == ("system", "Sort.")


def test_each_wording_of_a_text_to_write() -> None:
    for settings in (Generation(instruction="Answer."), Translation(instruction="Answer.")):
        task = cast("AskedTask", build_task(settings, []))
        turns = [("user", "hi"), ("assistant", "hello")]
        assert said("plain", task, CONVERSATION, []) == [("system", "Be kind."), *turns]
        assert said("terse", task, CONVERSATION, []) == [("system", f"Be kind.\n{SHORT}"), *turns]
        assert said("inline", task, CONVERSATION, []) == [("user", "Be kind.\n\nhi"), ("assistant", "hello")]
    bare = cast("AskedTask", build_task(Generation(), []))
    alone = Example("f:5", CONVERSATION.messages[1:])
    assert said("terse", bare, alone, []) == [("system", SHORT), *turns]
    assert said("inline", bare, alone, []) == said("plain", bare, alone, [])


@pytest.mark.parametrize("template", TEMPLATES["classification"])
def test_shared_scores_are_those_of_one_question_and_one_label_at_a_time(lm: LanguageModel, template: str) -> None:
    task = weather(3)
    wording: Template = TEMPLATES["classification"][template]
    examples = [Example(f"g:{i}", text=f"it {'very ' * (i % 3)}{i}", label=str(i % 3)) for i in range(7)]

    def ask(example: Example) -> tuple[Message, ...]:
        """Shots that differ from question to question, as nearest ones do."""
        return wording(task, example, SHOTS if len(example.text or "") % 2 else SHOTS[::-1])

    found = task.predict_asked(lm, examples, "c", ask)
    renderer = Renderer(lm.tokenizer, lm.max_length)
    for example, prediction in zip(examples, found, strict=True):
        turns = ask(example)
        prompt = renderer.prompt(turns)
        losses = []
        for word in task.words.values():
            whole = renderer.render((*turns[:-1], Message("assistant", word))).input_ids
            assert whole[: len(prompt)] == prompt
            losses.append(score_continuations(lm, [prompt], [[whole[len(prompt) :]]])[0][0].mean())
        assert prediction.nll == pytest.approx(losses[int(example.label or "")], abs=1e-4)
        assert prediction.prediction == task.labels[int(np.argmin(losses))]
        assert prediction.prompt_tokens == len(prompt)


def test_a_uniform_prior_leaves_predictions_as_they_are_and_another_moves_them(lm: LanguageModel) -> None:
    task = weather(3)
    found = task.predict(lm, [ASKED, *SHOTS], "c")
    same = task.calibrated(found, [1 / 3] * 3)
    assert [(p.prediction, p.score, p.nll) for p in same] == [(p.prediction, p.score, p.nll) for p in found]
    assert np.array([p.probabilities for p in same]) == pytest.approx(np.array([p.probabilities for p in found]))
    moved = task.calibrated(found, [1e-9, 0.5, 0.5])
    assert {p.prediction for p in moved} == {"0"}
    assert [p.score for p in moved] == [1.0, 1.0, 0.0]
