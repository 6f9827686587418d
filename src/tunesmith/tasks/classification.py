"""Classification by label likelihood: always a valid label, with probabilities, without generation.

Every label's words are scored behind the prompt; the length-normalised likelihood decides (mean over tokens, end of
turn included), so that long labels are not at a disadvantage. What all prompts share is computed once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import Classification
from tunesmith.errors import ConfigError, DataError
from tunesmith.measures.calibration import calibrate
from tunesmith.measures.linear import HeadLoss, log_softmax
from tunesmith.records import Example, Message, Prediction
from tunesmith.tasks.task import HEAD_METHODS, Ask, Progress, head_interface, predict_by_head

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel

LISTED_LABELS = 100  # more are not named in the prompt made from the labels
BLOCK = 256  # examples scored between two reports of progress


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """``labels`` as the data names them; ``words[label]`` is what the model reads and writes for it."""

    labels: tuple[str, ...]
    words: dict[str, str]
    instruction: str
    metric: str
    by: str | None = None
    kind: str = "classification"
    head_loss: HeadLoss = "cross_entropy"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The compared metric, then the others that every classification reports."""
        return (self.metric, *(m for m in ("accuracy", "macro_f1") if m != self.metric))

    def interface(self, architecture: str, method: str) -> str:
        """By a head where the task or the method says so or the model writes no text, else by likelihood."""
        if self.by == "head" or method in HEAD_METHODS or architecture in ("encoder", "image-encoder"):
            if self.by == "likelihood":
                raise ConfigError(
                    f"task.by is 'likelihood', but with method {method} on a model of kind {architecture} labels come "
                    "from a head. Leave task.by out, or choose method lora on a decoder."
                )
            return head_interface(self.kind, architecture, method)
        if architecture != "decoder":
            raise ConfigError(f"model: classification works with decoders and encoders, not with kind {architecture}.")
        return "causal"

    @property
    def outputs(self) -> int:
        """Numbers a head gives: one logit for each label."""
        return len(self.labels)

    def head_target(self, example: Example) -> list[float]:
        """The label's place, as one number: what ``cross_entropy`` takes."""
        return [float(self.labels.index(example.label or ""))]

    def messages(self, example: Example, shots: Sequence[Example] = ()) -> tuple[Message, ...]:
        """Instruction, solved examples, the text, and the label's word as the answer."""
        turns = [Message("system", self.instruction)]
        for shown in (*shots, example):
            turns += [Message("user", shown.text or ""), Message("assistant", self.words[shown.label or ""])]
        return tuple(turns)

    def predict(
        self,
        lm: LanguageModel,
        examples: Sequence[Example],
        candidate: str,
        shots: Sequence[Example] = (),
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Score every label for every example. ``nll`` is that of the right label, per token (by a head: in all)."""
        if lm.interface == "head":
            return predict_by_head(self, lm, examples, candidate, progress)
        return self.predict_asked(lm, examples, candidate, lambda example: self.messages(example, shots), progress)

    def predict_asked(
        self, lm: LanguageModel, examples: Sequence[Example], candidate: str, ask: Ask, progress: Progress | None = None
    ) -> list[Prediction]:
        """Score every label behind the prompt that ``ask`` makes; the answer must stand in a turn of its own."""
        from tunesmith.data.render import Renderer
        from tunesmith.model.score import score_continuations

        renderer = Renderer(lm.tokenizer, lm.max_length)
        predictions: list[Prediction] = []
        started = time.monotonic()
        for start in range(0, len(examples), BLOCK):
            block = examples[start : start + BLOCK]
            prompts = [renderer.prompt(ask(example)) for example in block]
            choices = self._choices(renderer, block[0], ask, len(prompts[0]))
            losses = score_continuations(lm, prompts, [choices] * len(block))
            for example, prompt, found in zip(block, prompts, losses, strict=True):
                means = np.array([loss.mean() for loss in found])
                predictions.append(self._prediction(example, candidate, means, choices, len(prompt)))
            if progress is not None:
                progress(len(block))
        return _timed(predictions, time.monotonic() - started)

    def from_outputs(
        self, examples: Sequence[Example], outputs: NDArray[Any], candidate: str, seconds: float, tokens: Sequence[int]
    ) -> list[Prediction]:
        """The likeliest label; ``outputs`` are the labels' logits."""
        predictions = []
        for example, row, count in zip(examples, log_softmax(outputs), tokens, strict=True):
            best, target = self.labels[int(row.argmax())], example.label or ""
            predictions.append(Prediction(
                example.id, candidate, best, target, float(best == target),
                nll=-float(row[self.labels.index(target)]) if target in self.labels else None,
                probabilities=tuple(float(p) for p in np.exp(row)), cluster=example.group, prompt_tokens=count,
                text=example.text or "", sensitive=example.sensitive,
            ))  # fmt: skip
        return _timed(predictions, seconds)

    def _choices(self, renderer: Renderer, example: Example, ask: Ask, prompt_length: int) -> list[list[int]]:
        """Tokens of each label's answer behind the prompt, end of turn included, as in training."""
        choices = []
        for label in self.labels:
            rendered = renderer.render(ask(replace(example, label=label)))
            choices.append(rendered.input_ids[prompt_length:])
        return choices

    def _prediction(
        self,
        example: Example,
        candidate: str,
        means: np.ndarray,
        choices: list[list[int]],
        prompt_tokens: int,
    ) -> Prediction:
        length = float(np.mean([len(choice) for choice in choices]))
        logits = -means * length  # for labels of one length, exactly their joint log-likelihoods
        shifted = np.exp(logits - logits.max())
        probabilities = shifted / shifted.sum()
        best = self.labels[int(means.argmin())]
        target = example.label or ""
        return Prediction(
            example.id, candidate, best, target, float(best == target),
            nll=float(means[self.labels.index(target)]) if target in self.labels else None,
            probabilities=tuple(float(p) for p in probabilities), cluster=example.group,
            prompt_tokens=prompt_tokens, completion_tokens=0, text=example.text or "", sensitive=example.sensitive,
        )  # fmt: skip

    def calibrated(self, predictions: Sequence[Prediction], prior: Sequence[float]) -> list[Prediction]:
        """The same predictions with the prompt's prior of the labels taken out; ``nll`` stays that of the words."""
        rows = calibrate(np.array([p.probabilities for p in predictions]), np.array(prior))
        found = []
        for prediction, row in zip(predictions, rows, strict=True):
            best = self.labels[int(row.argmax())]
            score, probabilities = float(best == prediction.target), tuple(float(p) for p in row)
            found.append(replace(prediction, prediction=best, score=score, probabilities=probabilities))
        return found

    def from_answers(
        self, examples: Sequence[Example], answers: Sequence[str], candidate: str, seconds: float
    ) -> list[Prediction]:
        """Predictions from labels that something else than a language model gave."""
        return _timed(
            [
                Prediction(
                    e.id, candidate, a, e.label or "", float(a == e.label), cluster=e.group, text=e.text or "",
                    sensitive=e.sensitive,
                )
                for e, a in zip(examples, answers, strict=True)
            ],
            seconds,
        )  # fmt: skip


def build_classification(
    settings: Classification, labels: Sequence[str], instruction: str | None
) -> ClassificationTask:
    """Labels of the training examples; words and instruction from the settings, else made from the labels.

    Raises:
        DataError: If there are fewer than two labels.
        ConfigError: If ``labels`` names what the data does not have, or leaves one out, or gives two one word.
    """
    labels = tuple(sorted(set(labels)))
    if len(labels) < 2:
        only = f"only {labels[0]!r}" if labels else "none"
        raise DataError(f"classification needs at least two labels in the training examples, found {only}.")
    words = {label: label.replace("_", " ").strip() or label for label in labels}
    if len(set(words.values())) < len(words):
        words = {label: label for label in labels}
    if settings.labels is not None:
        unknown, missing = (
            sorted(set(settings.labels) - set(labels)),
            sorted(set(labels) - set(settings.labels)),
        )
        if unknown or missing:
            raise ConfigError(
                f"task.labels: not in the data: {unknown or 'none'}; in the data but without a word: "
                f"{missing or 'none'}. Name exactly the labels {list(labels)}."
            )
        words = {label: settings.labels[label] for label in labels}
        if len(set(words.values())) < len(words):
            raise ConfigError(f"task.labels: two labels have one word: {words}. Give each its own.")
    if settings.labels is not None:
        instruction = None  # the data's own speaks of its labels, which have other words now
    text = settings.instruction or instruction or _made_instruction([words[label] for label in labels])
    return ClassificationTask(labels, words, text, settings.metric, settings.by)


def _made_instruction(words: list[str]) -> str:
    if len(words) > LISTED_LABELS:
        return "Classify the text. Answer with its label only."
    return f"Classify the text. Answer with exactly one of: {', '.join(words)}."


def _timed(predictions: list[Prediction], seconds: float) -> list[Prediction]:
    each = seconds / max(1, len(predictions))
    return [replace(p, seconds=each) for p in predictions]
