"""Image and text: a question about an image goes in, the answer in words comes out, by greedy decoding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.config import ImageText
from tunesmith.errors import ConfigError
from tunesmith.measures.metrics import exact_match, token_f1
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.generation import as_predictions, conversation, given
from tunesmith.tasks.task import HEAD_METHODS, Progress

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

SCORES = {"exact_match": exact_match, "token_f1": token_f1}


@dataclass(frozen=True, slots=True)
class ImageTextTask:
    """``instruction`` is the system prompt of every question that brings none."""

    instruction: str | None
    metric: str
    max_new_tokens: int
    kind: str = "image_text"
    labels: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the other one."""
        return (self.metric, *(m for m in SCORES if m != self.metric))

    def interface(self, architecture: str, method: str) -> str:
        """Answers of a vision–language model."""
        if architecture != "vision-language" or method in HEAD_METHODS:
            raise ConfigError(
                f"task image_text needs a vision–language model, such as smollm2-dinov2, and a method that trains its "
                f"text, such as lora or full; the model is of kind {architecture}, the method {method}. To sort images "
                "into classes, use task classification with an image encoder, such as dinov2-small."
            )
        return "image_text"

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation, the words of solved ones before it; only its own image is shown, in its last question."""
        return conversation(self.instruction, example, shots)

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Decode an answer to every question; ``nll`` is that of the right answer, per token."""
        from tunesmith.model.image_pack import answer_images, answer_losses
        from tunesmith.model.vision import BATCH_TOKENS, ImageRenderer

        started = time.monotonic()
        renderer = ImageRenderer(lm.tokenizer, lm.max_length)
        asked = [(self.messages(example, shots), example.image or "") for example in examples]
        answers = answer_images(lm, [renderer.prompt(each) for each in asked], self.max_new_tokens, progress)
        seconds = time.monotonic() - started
        references = [renderer.render(each, example.id) for each, example in zip(asked, examples, strict=True)]
        sums = answer_losses(lm.model, lm.tokenizer, references, BATCH_TOKENS, lm.packed).tolist()
        losses = [loss / reference.units for loss, reference in zip(sums, references, strict=True)]
        return as_predictions(examples, answers, losses, candidate, seconds, SCORES[self.metric])

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from texts that something else than a model that sees gave."""
        return given(examples, answers, candidate, seconds, SCORES[self.metric])


def build_image_text(settings: ImageText, labels: Sequence[str], instruction: str | None) -> ImageTextTask:
    """The task as the settings say; ``instruction`` found in the data already stands in its messages."""
    return ImageTextTask(settings.instruction, settings.metric, settings.max_new_tokens)
