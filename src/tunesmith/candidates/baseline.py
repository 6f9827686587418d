"""What any candidate must beat, without looking at the question or without understanding it.

``baseline/majority`` is the answer that is most frequent in train, ``baseline/mean`` the mean of train's numbers, and
``baseline/copy`` gives a text back as it is: names and numbers stay the same in every language.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tunesmith.candidates.candidate import Candidate, Context, Family, Fit
from tunesmith.config import Config
from tunesmith.records import Example, Prediction


class Constant:
    """Majority or mean, as the id says.

    Ties go to the answer that sorts first, so that the result does not depend on the order of the data.
    """

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.task, self.id = context.task, candidate_id
        self.answer = ""

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        if self.id == "baseline/mean":
            self.answer = repr(fmean(float(example.answer) for example in train))
            return Fit(details={"answer": self.answer})
        counts = Counter(example.answer for example in train)
        self.answer = min(counts, key=lambda answer: (-counts[answer], answer))
        return Fit(details={"answer": self.answer, "share_of_train": counts[self.answer] / len(train)})

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        started = time.monotonic()
        answers = [self.answer] * len(examples)
        return self.task.from_answers(examples, answers, self.id, time.monotonic() - started)


class Copy:
    """The last user turn is the answer."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.task, self.id = context.task, candidate_id

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        return Fit()

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        started = time.monotonic()
        answers = [next((m.content for m in reversed(e.prompt) if m.role == "user"), "") for e in examples]
        return self.task.from_answers(examples, answers, self.id, time.monotonic() - started)


def _build(context: Context, candidate_id: str, folder: Path) -> Candidate:
    return (Copy if candidate_id == "baseline/copy" else Constant)(context, candidate_id, folder)


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    """None for pairs of answers: each has answers of its own, so that none is the most frequent."""
    if config.task.kind == "preference":
        return []
    return {"regression": ["baseline/mean"], "translation": ["baseline/copy"]}.get(
        config.task.kind, ["baseline/majority"]
    )


BASELINE = Family(
    name="baseline",
    ids=_ids,
    baseline=True,
    reason="what any candidate must beat: always the most frequent answer, the mean, or the text itself",
    build=_build,
)
