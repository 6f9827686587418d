from __future__ import annotations

import pytest

from tunesmith.config import Classification
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Example
from tunesmith.tasks import build_task


def test_words_are_made_from_labels_unless_that_would_merge_two() -> None:
    task = build_task(Classification(), ["card_arrival", "refund", "refund"])
    assert task.labels == ("card_arrival", "refund")
    assert task.messages(Example("f:1", text="x", label="card_arrival"))[-1].content == "card arrival"
    same = build_task(Classification(), ["a_b", "a b"])
    assert same.messages(Example("f:1", text="x", label="a_b"))[-1].content == "a_b"


def test_the_instruction_is_the_users_then_the_datas_then_made() -> None:
    def instruction(settings: Classification, found: str | None) -> str | None:
        return build_task(settings, ["no", "yes"], found).instruction

    assert instruction(Classification(instruction="Judge."), "From data.") == "Judge."
    assert instruction(Classification(), "From data.") == "From data."
    assert instruction(Classification(), None) == "Classify the text. Answer with exactly one of: no, yes."
    renamed = Classification(labels={"no": "sincere", "yes": "sarcastic"})
    assert (
        instruction(renamed, "Say yes or no.") == "Classify the text. Answer with exactly one of: sincere, sarcastic."
    )


def test_very_many_labels_are_not_listed() -> None:
    task = build_task(Classification(), [f"label {i}" for i in range(101)])
    assert task.instruction == "Classify the text. Answer with its label only."


def test_the_compared_metric_comes_first() -> None:
    assert build_task(Classification(), ["a", "b"]).metrics == ("accuracy", "macro_f1")
    assert build_task(Classification(metric="macro_f1"), ["a", "b"]).metrics == ("macro_f1", "accuracy")


@pytest.mark.parametrize("labels", [[], ["only"], ["only", "only"]])
def test_fewer_than_two_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(DataError, match="at least two labels"):
        build_task(Classification(), labels)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"a": "x"}, r"without a word: \['b'\]"),
        ({"a": "x", "b": "y", "c": "z"}, r"not in the data: \['c'\]"),
        ({"a": "x", "b": "x"}, "two labels have one word"),
    ],
)
def test_words_that_do_not_fit_the_labels_are_refused(words: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_task(Classification(labels=words), ["a", "b"])
