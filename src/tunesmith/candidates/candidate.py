"""What a candidate is: one way to solve the task, judged by the same code on the same test examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunesmith.config import Config
from tunesmith.records import Example, Prediction
from tunesmith.tasks import Task

LAYOUT = ("format", "columns", "template", "text", "label", "image", "group")  # of ``config.data``: how rows are read
# (what is being done, done so far, of how many, values to show)
Listener = Callable[[str, float, float, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Context:
    """What candidates share. ``settings`` are the plan's, with nothing left to choose."""

    config: Config
    task: Task
    model: str
    loop: dict[str, Any]  # keyword arguments of train.loop.LoopSettings, learning rate and epochs per method
    max_length: int
    listener: Listener

    def origin(self, candidate_id: str, shown: Example) -> dict[str, Any]:
        """What is saved with a fitted candidate, so that its folder alone is enough to ask it: task and layout of data.

        Args:
            candidate_id: Whose it is.
            shown: One of its training examples.
        """
        return {
            "candidate": candidate_id, "task": self.config.task.model_dump(mode="json"),
            "labels": list(self.task.labels), "instruction": self.task.instruction,
            "data": self.config.data.model_dump(mode="json", include=set(LAYOUT)),
            "columns": [name for name, _ in shown.columns],
        }  # fmt: skip


@dataclass(slots=True)
class Fit:
    """What fitting gave: for the report's entry of the candidate."""

    trainable_parameters: int = 0
    train_seconds: float = 0.0
    tokens_trained: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)  # overfitting, forgetting, memorization


class Candidate(Protocol):
    """``fit`` sees train and validation only; ``predict`` is asked once for the test examples."""

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit: ...

    def predict(self, examples: Sequence[Example]) -> list[Prediction]: ...


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table of candidates: which ids a config asks for, and how one is built.

    ``ids`` takes the config, the model's name in ids and its architecture; ``build`` the context, the candidate's id
    and its folder.
    """

    name: str
    ids: Callable[[Config, str, str], list[str]]
    baseline: bool
    reason: str
    build: Callable[[Context, str, Path], Candidate]


def model_id(name: str) -> str:
    """How a model is called in candidates' ids: its name without place."""
    return name.removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1].split("#", 1)[0]
