"""Translation, and any task that turns one text into another: by a decoder's chat, or by an encoder–decoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.config import Translation
from tunesmith.errors import ConfigError
from tunesmith.measures.translation import chrf
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.generation import as_predictions, conversation, decoded, given
from tunesmith.tasks.task import HEAD_METHODS, Ask, Progress

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

METRICS = ("chrf", "bleu")


@dataclass(frozen=True, slots=True)
class TranslationTask:
    """``instruction`` is the system prompt of texts that bring none; T5 and its like read it before the text.

    A prediction's own score is its chrF, divided by 100: BLEU says little of a single sentence.
    """

    instruction: str | None
    metric: str
    max_new_tokens: int
    kind: str = "translation"
    labels: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the other."""
        return (self.metric, *(m for m in METRICS if m != self.metric))

    def interface(self, architecture: str, method: str) -> str:
        """Next tokens of a decoder, or the targets of an encoder–decoder."""
        if method in HEAD_METHODS:
            raise ConfigError(f"task translation writes text, and {method} trains a head that gives none. Use lora.")
        if architecture == "decoder":
            return "causal"
        if architecture != "encoder-decoder":
            raise ConfigError(
                f"task translation needs a decoder or an encoder–decoder; the model is of kind {architecture}. "
                "Choose another model, such as smollm2-135m-instruct."
            )
        if method == "qlora":
            raise ConfigError("encoder–decoders are not kept in 4 bits; use lora, or full.")
        return "seq2seq"

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """Instruction, solved ones, text and translation."""
        return conversation(self.instruction, example, shots)

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Decode a translation of every example, and the likelihood of the right one."""
        if lm.interface != "seq2seq":
            return self.predict_asked(lm, examples, candidate, lambda example: self.messages(example, shots), progress)
        from tunesmith.model.seq2seq import encode_pair, generate_targets, target_losses

        started = time.monotonic()
        turns = [self.messages(example, shots) for example in examples]
        pairs = [encode_pair(lm.tokenizer, messages) for messages in turns]
        answers = generate_targets(lm, pairs, self.max_new_tokens, progress)
        seconds = time.monotonic() - started
        sums = target_losses(lm.model, pairs).tolist()
        losses = [loss / pair.units for loss, pair in zip(sums, pairs, strict=True)]
        return as_predictions(examples, answers, losses, candidate, seconds, score)

    def predict_asked(
        self, lm: LanguageModel, examples: Sequence[Example], candidate: str, ask: Ask, progress: Progress | None = None
    ) -> list[Prediction]:
        """What a decoder translates, each example shown by ``ask``."""
        turns = [ask(example) for example in examples]
        return decoded(lm, examples, turns, candidate, self.max_new_tokens, score, progress)

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from texts that something else than a language model gave."""
        return given(examples, answers, candidate, seconds, score)


def score(answer: str, reference: str) -> float:
    """chrF of one sentence, in [0, 1]."""
    return chrf([answer], [reference]) / 100


def build_translation(settings: Translation, labels: Sequence[str], instruction: str | None) -> TranslationTask:
    """The task as the settings say; ``instruction`` found in the data already stands in its messages."""
    return TranslationTask(settings.instruction, settings.metric, settings.max_new_tokens)
