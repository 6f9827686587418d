"""The task's metric on a few validation examples, followed during training where it costs little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.evaluate.metrics import METRICS, metric_values
from tunesmith.records import Example, Prediction
from tunesmith.tasks import Task

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.loop import Measured

FOLLOWED = 128  # validation examples at most, as many as the loss is followed on
SCORES = 2048  # labels of them that are scored at most; a head gives all labels at once
FEWEST = 32  # examples with which a metric says anything
WITHOUT_WRITING = ("classification", "multi_label", "regression", "preference")
ERROR = "expected_calibration_error"


def how_many(task: Task, interface: str, validation: int, select: str) -> int:
    """On how many validation examples the metric is followed; all of ``FOLLOWED`` where steps are selected by it.

    Raises:
        EvaluationError: If it is not; the sentence says why.
    """
    if task.kind not in WITHOUT_WRITING:
        raise EvaluationError(
            f"the metric of task {task.kind} needs written answers, which is too slow during training"
        )
    most = min(FOLLOWED, validation)
    if interface == "head" or select == "metric":
        return most
    scored = min(most, SCORES // max(1, len(task.labels)))
    if scored < min(FEWEST, most):
        raise EvaluationError(
            f"with {len(task.labels)} labels it is too slow during training; train.select: metric asks for it anyway"
        )
    return scored


def require_metric(task: Task, select: str) -> None:
    """Refuse to select steps by a metric that is not followed.

    Raises:
        ConfigError: If ``select`` is ``metric`` and the task's metric is none that can be followed.
    """
    if select == "metric" and task.kind not in WITHOUT_WRITING:
        raise ConfigError(
            f"train.select: metric, but the {task.metric} of task {task.kind} needs written answers, which is too slow "
            f"during training. It works for {', '.join(WITHOUT_WRITING)}; set train.select: loss."
        )


def follow(task: Task, lm: LanguageModel, examples: Sequence[Example], items: Sequence[Any]) -> Callable[[], Measured]:
    """A function that measures the model as it is then.

    Args:
        task: Whose metric it is.
        lm: The model in training.
        examples: Validation examples that are asked.
        items: The validation items of the same part; where they keep features, as under a frozen backbone, the head
            alone is asked.
    """
    by_source = {item.example_id: item.features for item in items if getattr(item, "features", None) is not None}
    kept = [example for example in examples if example.source in by_source]

    def measure() -> Measured:
        from tunesmith.train.loop import Measured

        lm.model.eval()
        asked = _by_features(task, lm, kept, by_source) if kept else task.predict(lm, examples, "")
        values, items = {task.metric: _value(asked, task.metric)}, []
        if task.kind == "classification":
            values[ERROR] = _value(asked, ERROR)
        found = values[task.metric]
        if found is None:
            return Measured(values, -math.inf, [])
        items = metric_values(asked, task.metric)[0].tolist()
        return Measured(values, found if METRICS[task.metric].higher_is_better else -found, items)

    return measure


def _by_features(task: Any, lm: LanguageModel, examples: Sequence[Example], kept: dict[str, Any]) -> list[Prediction]:
    import torch

    with torch.no_grad():
        outputs = lm.model.answers(lm.model.from_features(torch.stack([kept[e.source] for e in examples])))
    found: list[Prediction] = task.from_outputs(examples, outputs.double().cpu().numpy(), "", 0.0, [0] * len(examples))
    return found


def _value(predictions: Sequence[Prediction], metric: str) -> float | None:
    """The metric, or None where these answers have none, as a correlation of answers that are all the same."""
    try:
        values, _ = metric_values(predictions, metric)
    except EvaluationError:
        return None
    found = float(METRICS[metric].of(values, np.ones((1, len(values))))[0])
    return found if math.isfinite(found) else None
