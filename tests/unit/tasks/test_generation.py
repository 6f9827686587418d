from __future__ import annotations

from typing import Literal

import pytest

from tunesmith.config import Generation
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.tasks.generation import shown_text


def talk(*turns: tuple[str, str]) -> Example:
    return Example("f:1", tuple(Message(role, content) for role, content in turns))


def spoken(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]


def test_a_conversations_own_system_prompt_wins() -> None:
    task = build_task(Generation(instruction="Default."), ())
    own = talk(("system", "Own."), ("user", "q"), ("assistant", "a"))
    assert spoken(task.messages(own)) == [("system", "Own."), ("user", "q"), ("assistant", "a")]
    assert spoken(task.messages(talk(("user", "q"), ("assistant", "a"))))[0] == ("system", "Default.")
    assert spoken(build_task(Generation(), ()).messages(talk(("user", "q"), ("assistant", "a"))))[0] == ("user", "q")


def test_shots_stand_between_the_system_prompt_and_the_question() -> None:
    task = build_task(Generation(), ())
    shot = talk(("system", "Not this."), ("user", "q1"), ("assistant", "a1"))
    asked = talk(("system", "S"), ("user", "q2"), ("assistant", "a2"))
    assert spoken(task.messages(asked, (shot,))) == [
        ("system", "S"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"),
    ]  # fmt: skip


@pytest.mark.parametrize(("metric", "expected"), [("token_f1", 0.5), ("exact_match", 0.0), ("rouge_l", 0.5)])
def test_scores_follow_the_metric_and_all_metrics_are_reported(
    metric: Literal["token_f1", "exact_match", "rouge_l"], expected: float
) -> None:
    example = talk(("user", "q"), ("assistant", "red house"))
    task = build_task(Generation(metric=metric), ())
    assert task.metrics[0] == metric
    assert set(task.metrics) == {"token_f1", "exact_match", "rouge_l"}
    half, whole = task.from_answers([example, example], ["red car", "red house"], "c", 1.0)
    assert half.score == pytest.approx(expected)
    assert whole.score == 1.0


def test_the_report_shows_the_last_question() -> None:
    assert shown_text(talk(("user", "first"), ("assistant", "a"), ("user", "last"), ("assistant", "b"))) == "last"
