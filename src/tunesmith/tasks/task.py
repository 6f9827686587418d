"""What a task is: how an example becomes model input, and how a prediction is read back and scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.measures.linear import HeadLoss
from tunesmith.records import Example, Message, Prediction

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Progress = Callable[[int], None]
Ask = Callable[[Example], tuple[Message, ...]]  # the conversation that shows an example; its right answer last
HEAD_METHODS = ("head", "gradual")  # methods that train a head on pooled features
HEAD_ARCHITECTURES = ("decoder", "encoder", "image-encoder")  # those that can have one


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


class AskedTask(Task, Protocol):
    """A task that a decoder can be asked in any wording, each example in a prompt of its own."""

    def predict_asked(
        self, lm: LanguageModel, examples: Sequence[Example], candidate: str, ask: Ask, progress: Progress | None = None
    ) -> list[Prediction]:
        """What a decoder says about each example, shown to it by ``ask``."""
        ...


class HeadTask(Task, Protocol):
    """A task that a linear head on features can do: its answer is one of some labels, several, or a number.

    ``outputs`` is how many numbers the head gives; ``head_loss`` what is minimised: ``cross_entropy``, ``binary`` (a
    yes or no for each label) or ``squared``.
    """

    @property
    def outputs(self) -> int: ...
    @property
    def head_loss(self) -> HeadLoss: ...

    def head_target(self, example: Example) -> list[float]:
        """What ``head_loss`` takes: the label's place, 0 or 1 for each label, or the number."""
        ...

    def from_outputs(
        self, examples: Sequence[Example], outputs: NDArray[Any], candidate: str, seconds: float, tokens: Sequence[int]
    ) -> list[Prediction]:
        """Predictions from logits or numbers, shape (n, outputs), whatever gave them.

        Args:
            examples: What they are of.
            outputs: Logits of the labels, or numbers in the targets' units.
            candidate: Its id.
            seconds: Time all of them took.
            tokens: How many each example was read as.
        """
        ...


def predict_by_head(
    task: HeadTask, lm: LanguageModel, examples: Sequence[Example], candidate: str, progress: Progress | None
) -> list[Prediction]:
    """Ask a model loaded for the interface ``head``.

    Raises:
        EvaluationError: If the model has no head.
    """
    from tunesmith.model.head import head_outputs

    if lm.interface != "head":
        raise EvaluationError(f"task {task.kind} asks a head, and {lm.folder.name} has none. Train one with a run.")
    started = time.monotonic()
    outputs, tokens = head_outputs(lm, examples, progress)
    return task.from_outputs(examples, outputs, candidate, time.monotonic() - started, tokens)


def head_interface(task: str, architecture: str, method: str) -> str:
    """The interface ``head``, for a task that a head can do.

    Raises:
        ConfigError: If a model of that architecture cannot have one, or the method does not fit it.
    """
    if architecture not in HEAD_ARCHITECTURES:
        raise ConfigError(
            f"task {task} needs a decoder, a text encoder or an image encoder; the model is of kind {architecture}. "
            "Choose another, such as minilm-l6 or smollm2-135m-instruct."
        )
    if method == "qlora" and architecture != "decoder":
        raise ConfigError(f"4 bits are for decoders; the model is of kind {architecture}. Use lora, which fits easily.")
    return "head"
