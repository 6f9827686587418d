"""What a method is: a frozen record of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Start = Literal["new", "cached", "fitted"]  # of a head: at random, with features kept for all steps, or at the best fit


@dataclass(frozen=True, slots=True)
class Pace:
    """How a parameter moves: a factor on the learning rate, and the share of the steps after which it starts."""

    factor: float = 1.0
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Attached:
    """A model made ready to train: which parameters move, and how the result is saved.

    ``model`` is the model itself, adapters inside it; ``save`` writes the result into a folder; ``artifact`` names
    that folder in the candidate's own (``adapter`` or ``model``); ``paces`` are those of parameters that do not move
    at once and at the full rate.
    """

    model: Any
    trainable: dict[str, Any]
    save: Callable[[Path], None]
    artifact: str
    paces: dict[str, Pace] = field(default_factory=dict)

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable.values())


@dataclass(frozen=True, slots=True)
class Method:
    """One way to choose which weights move.

    Attributes:
        kind: The name in config.
        attach: (model, settings) → Attached. Randomness comes from torch's generator, seeded by the caller.
        learning_rate: (model type, hidden size) → (rate, where the rule comes from).
        trained_parameters: (parameters, hidden size, inputs plus outputs of all linear layers, settings) → number of
            parameters that move, before anything is loaded.
        flops_per_token: parameters → floating-point operations per trained token.
        four_bit: Whether the frozen weights are loaded in 4 bits (see ``model.quantise``).
        start: How the head of a model that has one starts; ``cached`` also says that the backbone is read only once.
        wanted_steps: Steps that training should have, where the plan chooses the epochs.
        most_epochs: Passes that the plan chooses at most.
    """

    kind: str
    attach: Callable[[Any, Any], Attached]
    learning_rate: Callable[[str, int], tuple[float, str]]
    trained_parameters: Callable[[int, int, int, Any], int]
    flops_per_token: Callable[[int], float]
    four_bit: bool = False
    start: Start = "new"
    wanted_steps: int = 100  # LoRA's learning-rate rule was fitted on runs of at least this many
    most_epochs: int = 4
