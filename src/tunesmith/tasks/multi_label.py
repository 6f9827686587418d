"""Several labels at once: a yes or no for each, by a head on features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import MultiLabel
from tunesmith.errors import DataError
from tunesmith.measures.linear import HeadLoss, binary_losses
from tunesmith.measures.multi_label import label_set, same_set, set_f1
from tunesmith.records import LABEL_SEPARATOR, Example, Message, Prediction
from tunesmith.tasks.task import Progress, head_interface, predict_by_head

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

THRESHOLD = 0.5  # a label is named where its probability is above that
METRICS = ("micro_f1", "macro_f1_labels", "subset_accuracy")


@dataclass(frozen=True, slots=True)
class MultiLabelTask:
    """``labels`` as the data names them; an answer is those that hold, sorted and joined by ``|``, "" for none."""

    labels: tuple[str, ...]
    metric: str
    kind: str = "multi_label"
    instruction: str | None = None
    head_loss: HeadLoss = "binary"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the other two."""
        return (self.metric, *(m for m in METRICS if m != self.metric))

    @property
    def outputs(self) -> int:
        """One logit for each label."""
        return len(self.labels)

    def interface(self, architecture: str, method: str) -> str:
        """By a head, with any method."""
        return head_interface(self.kind, architecture, method)

    def head_target(self, example: Example) -> list[float]:
        """1 for each label that holds, else 0."""
        held = label_set(example.label or "")
        return [float(label in held) for label in self.labels]

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """Text and labels as a conversation, for showing; the model reads the text alone."""
        return (Message("user", example.text or ""), Message("assistant", example.label or ""))

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Each label whose probability is above a half.

        Raises:
            EvaluationError: If the model has no head.
        """
        return predict_by_head(self, lm, examples, candidate, progress)

    def from_outputs(
        self, examples: Sequence[Example], outputs: NDArray[Any], candidate: str, seconds: float, tokens: Sequence[int]
    ) -> list[Prediction]:
        """Labels whose logit is above 0; ``nll`` is the mean over the labels of each decision's."""
        losses = binary_losses(outputs, np.array([self.head_target(e) for e in examples])).mean(1)
        probabilities = np.exp(-np.logaddexp(0.0, -outputs.astype(np.float64)))  # the sigmoid, without overflow
        return [
            self._prediction(
                e, self._named(row), candidate, seconds / len(examples),
                nll=float(loss), probabilities=tuple(float(p) for p in row), prompt_tokens=count,
            )
            for e, row, loss, count in zip(examples, probabilities, losses, tokens, strict=True)
        ]  # fmt: skip

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from sets of labels that something else than a head gave."""
        each = seconds / max(1, len(examples))
        return [self._prediction(e, a, candidate, each) for e, a in zip(examples, answers, strict=True)]

    def _named(self, probabilities: NDArray[Any]) -> str:
        held = (label for label, p in zip(self.labels, probabilities, strict=True) if p > THRESHOLD)
        return LABEL_SEPARATOR.join(sorted(held))

    def _prediction(self, example: Example, answer: str, candidate: str, seconds: float, **measured: Any) -> Prediction:
        target = example.label or ""
        score = same_set if self.metric == "subset_accuracy" else set_f1
        return Prediction(
            example.id, candidate, answer, target, score(answer, target), cluster=example.group, seconds=seconds,
            text=example.text or "", **measured,
        )  # fmt: skip


def build_multi_label(settings: MultiLabel, labels: Sequence[str], instruction: str | None) -> MultiLabelTask:
    """The labels of the training examples; ``labels`` are theirs, one or several joined.

    Raises:
        DataError: If no training example has a label.
    """
    single = tuple(sorted(frozenset().union(*(label_set(held) for held in labels))))
    if not single:
        raise DataError("multi_label needs training examples that have labels, found none. Look at data.label.")
    return MultiLabelTask(single, settings.metric)
