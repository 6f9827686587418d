"""Generation: a conversation goes in, the assistant's next turn comes out, by batched greedy decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.config import Generation
from tunesmith.errors import ConfigError
from tunesmith.measures.metrics import exact_match, rouge_l, token_f1
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.task import HEAD_METHODS, Ask, Progress

if TYPE_CHECKING:
    from tunesmith.model.generate import Generated
    from tunesmith.model.load import LanguageModel

Score = Callable[[str, str], float]  # (answer, right answer) → [0, 1]
SCORES: dict[str, Score] = {
    "token_f1": token_f1, "exact_match": exact_match, "rouge_l": rouge_l,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """``instruction`` is the system prompt of conversations that bring none."""

    instruction: str | None
    metric: str
    max_new_tokens: int
    kind: str = "generation"
    labels: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the other two."""
        return (self.metric, *(m for m in SCORES if m != self.metric))

    def interface(self, architecture: str, method: str) -> str:
        """Next tokens of a decoder."""
        if architecture != "decoder" or method in HEAD_METHODS:
            raise ConfigError(
                f"task generation needs a decoder and a method that trains its text, such as lora or full; the model "
                f"is of kind {architecture}, the method {method}. For an encoder–decoder, use task translation."
            )
        return "causal"

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation, with solved ones between its system prompt and its first turn."""
        return conversation(self.instruction, example, shots)

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Decode an answer to every example, and the likelihood of the reference answer."""
        return self.predict_asked(lm, examples, candidate, lambda example: self.messages(example, shots), progress)

    def predict_asked(
        self, lm: LanguageModel, examples: Sequence[Example], candidate: str, ask: Ask, progress: Progress | None = None
    ) -> list[Prediction]:
        """The same, each example shown by ``ask``."""
        turns = [ask(example) for example in examples]
        return decoded(lm, examples, turns, candidate, self.max_new_tokens, SCORES[self.metric], progress)

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from texts that something else than a language model gave."""
        return given(examples, answers, candidate, seconds, SCORES[self.metric])


def conversation(instruction: str | None, example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """The example's messages, behind ``instruction`` if it brings no system message, and behind solved ones."""
    turns = list(example.messages)
    system = [turns.pop(0)] if turns and turns[0].role == "system" else []
    if not system and instruction:
        system = [Message("system", instruction)]
    shown = [turn for shot in shots for turn in shot.messages if turn.role != "system"]
    return (*system, *shown, *turns)


def decoded(
    lm: LanguageModel,
    examples: Sequence[Example],
    conversations: Sequence[tuple[Message, ...]],
    candidate: str,
    max_new_tokens: int,
    score: Score,
    progress: Progress | None,
) -> list[Prediction]:
    """What a causal language model answers to each conversation, and the likelihood of the answer it ends with."""
    from tunesmith.data.render import Renderer
    from tunesmith.model.generate import generate
    from tunesmith.model.score import score_continuations

    started = time.monotonic()
    renderer = Renderer(lm.tokenizer, lm.max_length)
    prompts = [renderer.prompt(messages) for messages in conversations]
    answers = generate(lm, prompts, max_new_tokens, progress)
    seconds = time.monotonic() - started
    references = [
        [renderer.render(messages).input_ids[len(prompt) :]]
        for messages, prompt in zip(conversations, prompts, strict=True)
    ]
    losses = [float(loss[0].mean()) for loss in score_continuations(lm, prompts, references)]
    return as_predictions(examples, answers, losses, candidate, seconds, score)


def as_predictions(
    examples: Sequence[Example],
    answers: Sequence[Generated],
    losses: Sequence[float],
    candidate: str,
    seconds: float,
    score: Score,
) -> list[Prediction]:
    """Answers a model wrote in ``seconds``, with the mean loss of the right ones in nats per token."""
    each = seconds / max(1, len(examples))
    return [
        Prediction(
            e.id, candidate, a.text.strip(), e.answer, score(a.text, e.answer), nll=loss, cluster=e.group,
            seconds=each, prompt_tokens=a.prompt_tokens, completion_tokens=a.completion_tokens,
            truncated=a.truncated, text=shown_text(e),
        )
        for e, a, loss in zip(examples, answers, losses, strict=True)
    ]  # fmt: skip


def given(
    examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float, score: Score
) -> list[Prediction]:
    """Predictions from texts that something else than a language model gave."""
    each = seconds / max(1, len(examples))
    return [
        Prediction(e.id, candidate, a, e.answer, score(a, e.answer), cluster=e.group, seconds=each, text=shown_text(e))
        for e, a in zip(examples, answers, strict=True)
    ]


def shown_text(example: Example) -> str:
    """The last user turn, which is what a report shows of a conversation."""
    return next((m.content for m in reversed(example.prompt) if m.role == "user"), "")


def build_generation(settings: Generation, labels: Sequence[str], instruction: str | None) -> GenerationTask:
    """The task as the settings say; ``instruction`` found in the data already stands in its messages."""
    return GenerationTask(settings.instruction, settings.metric, settings.max_new_tokens)
