from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunesmith.config import Classification, MultiLabel, Regression
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Example
from tunesmith.tasks import build_task

TASKS: list[tuple[Any, tuple[str, ...]]] = [
    (Classification(by="head"), ("a", "b")), (MultiLabel(), ("a", "b")), (Regression(), ()),
]  # fmt: skip


def test_labels_above_a_half_are_named_and_scored() -> None:
    task: Any = build_task(MultiLabel(), ["b|c", "a", ""])
    assert task.labels == ("a", "b", "c")
    given = [Example("f:1", text="t", label="a|c"), Example("f:2", text="u", label="")]
    assert task.head_target(given[0]) == [1.0, 0.0, 1.0]
    logits = np.array([[2.0, 0.5, -1.0], [-3.0, -3.0, -3.0]])
    found = task.from_outputs(given, logits, "c", 1.0, [4, 5])
    assert [p.prediction for p in found] == ["a|b", ""]
    assert [p.target for p in found] == ["a|c", ""]
    assert [p.score for p in found] == [0.5, 1.0]
    assert found[0].probabilities == pytest.approx(1 / (1 + np.exp(-logits[0])))
    chances = 1 / (1 + np.exp(-logits[0]))
    assert found[0].nll == pytest.approx(-np.log([chances[0], 1 - chances[1], chances[2]]).mean())
    assert [p.prompt_tokens for p in found] == [4, 5]
    exact: Any = build_task(MultiLabel(metric="subset_accuracy"), ["a", "b"])
    assert exact.metrics[0] == "subset_accuracy"
    assert [p.score for p in exact.from_answers(given, ["a|c", "a"], "c", 0.0)] == [1.0, 0.0]


def test_numbers_are_kept_whole_and_scored_by_their_error() -> None:
    task: Any = build_task(Regression(), ["1", "2"])
    given = [Example("f:1", text="t", label="1.5"), Example("f:2", text="u", label="-2")]
    found = task.from_outputs(given, np.array([[1.0], [0.1 + 0.2]]), "c", 2.0, [1, 1])
    assert [float(p.prediction) for p in found] == [1.0, 0.1 + 0.2]
    assert [p.score for p in found] == pytest.approx([-0.5, -2.3])
    assert [p.seconds for p in found] == [1.0, 1.0]
    assert task.head_target(given[0]) == [1.5]


@pytest.mark.parametrize("targets", [["1", "n/a", "inf"], ["2.0", "2"]])
def test_targets_that_cannot_be_learned_are_refused(targets: list[str]) -> None:
    with pytest.raises(DataError, match=r"'n/a', 'inf'|all training targets are 2"):
        build_task(Regression(), targets)


def test_several_labels_need_one_at_least() -> None:
    with pytest.raises(DataError, match="found none"):
        build_task(MultiLabel(), ["", ""])


@pytest.mark.parametrize(("settings", "labels"), TASKS)
def test_a_head_goes_on_decoders_and_encoders_and_nothing_else(settings: Any, labels: tuple[str, ...]) -> None:
    task = build_task(settings, labels)
    for architecture in ("decoder", "encoder", "image-encoder"):
        for method in ("lora", "full", "head", "gradual"):
            assert task.interface(architecture, method) == "head"
    assert task.interface("decoder", "qlora") == "head"
    with pytest.raises(ConfigError, match="Use lora"):
        task.interface("encoder", "qlora")
    for architecture in ("encoder-decoder", "vision-language"):
        with pytest.raises(ConfigError, match="minilm-l6"):
            task.interface(architecture, "head")
