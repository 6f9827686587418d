"""Regression: a number for a text, a table's row or an image, by a head on features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tunesmith.config import Regression
from tunesmith.errors import DataError
from tunesmith.measures.linear import HeadLoss
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.task import Progress, head_interface, predict_by_head

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

METRICS = ("pearson", "spearman", "mae")
LISTED = 10  # targets named in a refusal


@dataclass(frozen=True, slots=True)
class RegressionTask:
    """Answers are numbers as text; an item's score is its absolute error, negative so that higher is better."""

    metric: str
    kind: str = "regression"
    labels: tuple[str, ...] = ()
    instruction: str | None = None
    outputs: int = 1
    head_loss: HeadLoss = "squared"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the other two."""
        return (self.metric, *(m for m in METRICS if m != self.metric))

    def interface(self, architecture: str, method: str) -> str:
        """By a head, with any method."""
        return head_interface(self.kind, architecture, method)

    def head_target(self, example: Example) -> list[float]:
        """The number."""
        return [float(example.label or "nan")]

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """Text and number as a conversation, for showing; the model reads the text alone."""
        return (Message("user", example.text or ""), Message("assistant", example.label or ""))

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """The head's number for each example.

        Raises:
            EvaluationError: If the model has no head.
        """
        return predict_by_head(self, lm, examples, candidate, progress)

    def from_outputs(
        self, examples: Sequence[Example], outputs: NDArray[Any], candidate: str, seconds: float, tokens: Sequence[int]
    ) -> list[Prediction]:
        """The numbers themselves."""
        each = seconds / max(1, len(examples))
        return [
            self._prediction(e, repr(float(row[0])), candidate, each, count)
            for e, row, count in zip(examples, outputs, tokens, strict=True)
        ]

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from numbers as text that something else than a head gave."""
        each = seconds / max(1, len(examples))
        return [self._prediction(e, a, candidate, each) for e, a in zip(examples, answers, strict=True)]

    def _prediction(self, example: Example, answer: str, candidate: str, seconds: float, tokens: int = 0) -> Prediction:
        target = example.label or ""
        return Prediction(
            example.id, candidate, answer, target, -abs(float(answer) - float(target)), cluster=example.group,
            seconds=seconds, prompt_tokens=tokens, text=example.text or "",
        )  # fmt: skip


def build_regression(settings: Regression, labels: Sequence[str], instruction: str | None) -> RegressionTask:
    """Nothing of the data is kept; ``labels`` are the training examples' targets.

    Raises:
        DataError: If targets are not finite numbers, all of them in one message, or are all the same.
    """
    wrong = [label for label in labels if not _is_number(label)]
    if wrong:
        named = ", ".join(repr(label) for label in wrong[:LISTED])
        raise DataError(
            f"{len(wrong):,} targets are not finite numbers: {named}. Correct them, or set data.label to the column "
            "with the numbers."
        )
    if labels and len({float(label) for label in labels}) < 2:
        raise DataError(f"all training targets are {labels[0]}, so there is nothing to predict. Look at data.label.")
    return RegressionTask(settings.metric)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
