"""What is minimised, and on what: the interface between a task's examples, a model and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tunesmith.records import Example, Finding
from tunesmith.tasks import Task
from tunesmith.train.methods.method import Start

if TYPE_CHECKING:
    import numpy as np
    import torch

    from tunesmith.model.load import LanguageModel
    from tunesmith.train.batches import Order


class Item(Protocol):
    """An encoded example.

    ``tokens`` is what the model reads for it, which throughput counts; ``units`` what the loss is averaged over:
    supervised tokens, or 1 where an example has one target.
    """

    @property
    def example_id(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def units(self) -> int: ...


class Objective(Protocol):
    """The loss of items. One file each in this folder.

    A step's loss is the sum of its items' losses divided by the sum of their units, however it is cut into
    micro-batches and over processes.
    """

    def losses(self, model: Any, items: Sequence[Any], scale: float) -> Iterator[torch.Tensor]:
        """``scale`` times the summed loss, one differentiable number for each micro-batch."""
        ...

    def item_losses(self, model: Any, items: Sequence[Any]) -> torch.Tensor:
        """Summed loss of each item, shape (n,), float64 on the CPU, without gradient; the caller sets eval mode."""
        ...


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How examples become items. ``overlong`` says what happens to those over ``max_length`` tokens."""

    max_length: int
    train_on: Literal["assistant", "all"] = "assistant"
    overlong: Literal["refuse", "drop", "truncate_left"] = "refuse"


Encode = Callable[[Task, Any, Sequence[Example], EncodeSettings], tuple[list[Any], list[Finding]]]


ByPart = dict[str, list[Any]]
Prepare = Callable[[Any, ByPart, ByPart, int, Start], tuple[ByPart, ByPart]]


@dataclass(frozen=True, slots=True)
class Interface:
    """A way to use a model: a row of the table of objectives.

    Attributes:
        encode: (task, tokenizer or processor, examples, settings) → (items, findings). Loads no weights, so that
            what cannot be trained is refused before anything is computed. Raises DataError, all problems at once.
        build: (loaded model, micro-batch tokens, whether to share prefixes) → objective.
        prefix: items → tokens that all share and that are computed once a step.
        measured: (objective, trained model, validation items, rng) → what it alone can tell of the result, by name,
            for the report; None: nothing.
        prepare: (model with what a method attached, items by part, validation items by part, micro-batch tokens, how
            a head starts) → the same to train with; None: they are taken as they are.
        loss_unit: what losses are in, as in "loss … by step".
        order: items → which of them make a step; None: all of them shuffled.
    """

    encode: Encode
    build: Callable[[LanguageModel, int, bool], Objective]
    prefix: Callable[[Sequence[Any]], int]
    measured: Callable[[Any, Any, Sequence[Any], np.random.Generator], dict[str, Any]] | None = None
    prepare: Prepare | None = None
    loss_unit: str = "in nats per token"
    order: Callable[[Sequence[Any]], Order] | None = None
