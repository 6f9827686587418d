"""``baseline/majority``: the answer that is most frequent in train, whatever the question."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.config import Config
from tunesmith.records import Example, Prediction


class Majority:
    """Ties go to the answer that sorts first, so that the result does not depend on the order of the data."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.task, self.id = context.task, candidate_id
        self.answer = ""

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        counts = Counter(example.answer for example in train)
        self.answer = min(counts, key=lambda answer: (-counts[answer], answer))
        return Fit(details={"answer": self.answer, "share_of_train": counts[self.answer] / len(train)})

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        started = time.monotonic()
        answers = [self.answer] * len(examples)
        return self.task.from_answers(examples, answers, self.id, time.monotonic() - started)


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    """None for pairs of answers: each has answers of its own, so that none is the most frequent."""
    return [] if config.task.kind == "preference" else ["baseline/majority"]


BASELINE = Family(
    name="baseline",
    ids=_ids,
    baseline=True,
    reason="what any candidate must beat: always the most frequent answer",
    build=Majority,
)
