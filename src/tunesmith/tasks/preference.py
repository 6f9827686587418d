"""Preference: of two answers to a conversation, the model learns to give the chosen one rather than the rejected.

A pair counts as right when the chosen answer is likelier, by the mean log-likelihood of its tokens, end of turn
included, so that a long answer is not at a disadvantage. That needs no base to compare with, so the base model asked
as it is and every tuned one are judged by the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.config import Preference
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.generation import conversation, given, shown_text
from tunesmith.tasks.task import HEAD_METHODS, Progress, Task

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel

BLOCK = 64  # pairs scored between two reports of progress


@dataclass(frozen=True, slots=True)
class PreferenceTask:
    """``instruction`` is the system prompt of conversations that bring none; ``beta`` is DPO's."""

    instruction: str | None
    metric: str
    beta: float
    kind: str = "preference"
    labels: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The share of pairs told apart, and the loss of the chosen answers, which DPO is known to raise."""
        return (self.metric, "nll")

    def interface(self, architecture: str, method: str) -> str:
        """Pairs of answers of a decoder."""
        if architecture != "decoder" or method in HEAD_METHODS:
            raise ConfigError(
                "task preference needs a decoder and a method that trains its text, such as lora or full; the model "
                f"is of kind {architecture}, the method {method}."
            )
        return "preference"

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """The conversation with the chosen answer, solved ones between its system prompt and its first turn."""
        return conversation(self.instruction, example, shots)

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Which of the two answers is likelier; ``nll`` is that of the chosen one, per token."""
        from tunesmith.data.render import Renderer
        from tunesmith.model.score import score_continuations

        started = time.monotonic()
        renderer = Renderer(lm.tokenizer, lm.max_length)
        predictions: list[Prediction] = []
        for start in range(0, len(examples), BLOCK):
            block = examples[start : start + BLOCK]
            pairs = [render_pair(self, renderer, example, shots) for example in block]
            losses = score_continuations(lm, [prompt for prompt, _, _ in pairs], [answers for _, *answers in pairs])
            for example, (prompt, *_), found in zip(block, pairs, losses, strict=True):
                chosen, rejected = (float(loss.mean()) for loss in found)
                likelier = example.answer if chosen < rejected else example.rejected[-1].content
                predictions.append(Prediction(
                    example.id, candidate, likelier, example.answer, float(chosen < rejected), nll=chosen,
                    cluster=example.group, prompt_tokens=len(prompt), text=shown_text(example),
                ))  # fmt: skip
            if progress is not None:
                progress(len(block))
        each = (time.monotonic() - started) / max(1, len(examples))
        return [replace(prediction, seconds=each) for prediction in predictions]

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from what something else than a language model prefers: the text of one of the answers."""
        return given(examples, answers, candidate, seconds, lambda answer, right: float(answer == right))


def render_pair(
    task: Task, renderer: Renderer, example: Example, shots: Sequence[Example] = ()
) -> tuple[list[int], list[int], list[int]]:
    """Tokens of the prompt, of the chosen and of the rejected answer behind it, each with its end of turn.

    Raises:
        DataError: If the example is no pair of different answers, or cannot be rendered.
    """
    if [turn.role for turn in example.rejected] != ["assistant"] or not example.answer:
        raise DataError("no pair of a chosen and a rejected answer. Give each row both.")
    found = []
    for one in (example, worse(example)):
        *asked, answer = task.messages(one, shots)
        # answers within the prompt are shown, not compared
        turns = (*(replace(turn, weight=0.0) for turn in asked), replace(answer, weight=1.0))
        rendered = renderer.render(turns)
        found.append((rendered.input_ids[: rendered.prompt_length], rendered.input_ids[rendered.prompt_length :]))
    (prompt, chosen), (again, rejected) = found
    if prompt != again:
        raise DataError(
            "the model's template shows the prompt otherwise before the rejected answer than before the chosen."
        )
    if chosen == rejected:
        raise DataError("the chosen and the rejected answer are the same to this model. Drop the row.")
    return prompt, chosen, rejected


def worse(example: Example) -> Example:
    """The same conversation with the rejected answer as its last turn."""
    return replace(example, messages=(*example.prompt, *example.rejected))


def build_preference(settings: Preference, labels: Sequence[str], instruction: str | None) -> PreferenceTask:
    """The task as the settings say; ``instruction`` found in the data already stands in its messages."""
    return PreferenceTask(settings.instruction, settings.metric, settings.beta)
