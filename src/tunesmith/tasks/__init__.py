"""Tasks: what goes in and out. One file each; this table is all that knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.tasks.classification import build_classification
from tunesmith.tasks.generation import build_generation
from tunesmith.tasks.image_text import build_image_text
from tunesmith.tasks.multi_label import build_multi_label
from tunesmith.tasks.preference import build_preference
from tunesmith.tasks.regression import build_regression
from tunesmith.tasks.task import Task
from tunesmith.tasks.translation import build_translation

# kind: (settings, labels of the training examples, instruction found in the data) → task
TASKS: dict[str, Callable[[Any, Sequence[str], str | None], Task]] = {
    "classification": build_classification,
    "multi_label": build_multi_label,
    "regression": build_regression,
    "generation": build_generation,
    "translation": build_translation,
    "preference": build_preference,
    "image_text": build_image_text,
}


def build_task(settings: Any, labels: Sequence[str], instruction: str | None = None) -> Task:
    """The task of ``config.task``, with what the data decides (labels, instruction) filled in."""
    return TASKS[settings.kind](settings, labels, instruction)


__all__ = ["TASKS", "Task", "build_task"]
