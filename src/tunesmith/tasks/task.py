"""What a task is: how an example becomes model input, and how a prediction is read back and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from tunesmith.records import Example, Message, Prediction

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Progress = Callable[[int], None]
HEAD_METHODS = ("head", "gradual")  # methods that train a head on pooled features


class Task(Protocol):
    """One kind of task, over whatever model it can be asked of.

    ``metric`` is what candidates are compared by; ``metrics`` all that are reported, it first; ``labels`` the
    classes as the data names them, empty where the answer is free text; ``instruction`` the system prompt of
    examples that bring none.
    """

    @property
    def kind(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def instruction(self) -> str | None: ...

    def interface(self, architecture: str, method: str) -> str:
        """How a model of that architecture is used when it is trained by that method: a key of the objectives.

        Raises:
            ConfigError: If it cannot be; the sentence says what can.
        """
        ...

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation that shows the example, solved ``shots`` before it; the right answer stands last."""
        ...

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """What the model says about each example, asked the way it was loaded for (``lm.interface``)."""
        ...

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions of a candidate that answers without a language model."""
        ...
