"""``prompt/zero-shot`` and ``prompt/few-shot``: the base model as it is, asked well.

Shots come from train, the same for every question, spread evenly over the labels; their number is chosen on
validation. What all prompts share is computed once, so shots cost little.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.config import Config
from tunesmith.errors import EvaluationError
from tunesmith.records import Example, Prediction

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

SHOTS = (4, 8, 16)
VALIDATION_LIMIT = 100  # examples on which the number of shots is chosen


class Prompt:
    """Zero-shot or few-shot, as the id says."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.shots: tuple[Example, ...] = ()
        self._loaded: LanguageModel | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Choose the number of shots by the task's metric on validation; ties go to the lower loss."""
        if self.id == "prompt/zero-shot":
            return Fit(details={"shots": 0, "prompt": self._shown(train[0])})
        from tunesmith.data.render import Renderer

        lm = self._load()
        renderer = Renderer(lm.tokenizer, lm.max_length)
        held_out = list(validation)[:VALIDATION_LIMIT]
        tried: list[dict[str, Any]] = []
        for n in SHOTS:
            shots = choose_shots(train, n, self.context.config.seed)
            longest = max(len(renderer.prompt(self.context.task.messages(e, shots))) for e in held_out)
            if len(shots) < n or longest + 16 > renderer.max_length:
                tried.append({"shots": n, "skipped": "too few examples" if len(shots) < n else f"{longest} tokens"})
                continue
            predictions = self.context.task.predict(lm, held_out, self.id, shots)
            score = float(np.mean([p.score for p in predictions]))
            nll = float(np.mean([p.nll for p in predictions if p.nll is not None]))
            tried.append({"shots": n, "score": score, "nll": nll})
            self.context.listener(f"{self.id}: choosing shots", SHOTS.index(n) + 1, len(SHOTS), {})
        scored = [t for t in tried if "score" in t]
        if not scored:
            raise EvaluationError(f"{self.id}: no number of shots could be tried: {tried}.")
        best = min(scored, key=lambda t: (-t["score"], t["nll"]))
        self.shots = choose_shots(train, best["shots"], self.context.config.seed)
        return Fit(details={
            "shots": best["shots"], "tried_on_validation": tried, "validation_examples": len(held_out),
            "shot_ids": [shot.id for shot in self.shots], "prompt": self._shown(train[0]),
        })  # fmt: skip

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        lm = self._load()
        total, done = len(examples), [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: test", done[0], total, {})

        predictions = self.context.task.predict(lm, examples, self.id, self.shots, progress)
        self._loaded = None
        return predictions

    def _load(self) -> LanguageModel:
        from tunesmith.model.architecture import architecture
        from tunesmith.model.load import load_model
        from tunesmith.sources import resolve_model

        if self._loaded is None:
            self.context.listener(f"{self.id}: loading {self.context.model}", 0, 0, {})
            kind = self.context.task.interface(architecture(resolve_model(self.context.model)), "lora")
            self._loaded = load_model(self.context.model, kind)
        return self._loaded

    def _shown(self, example: Example) -> list[dict[str, str]]:
        """The prompt as it would be copied, with a training example as the question."""
        turns = self.context.task.messages(example, self.shots)[:-1]
        return [{"role": turn.role, "content": turn.content} for turn in turns]


def choose_shots(train: Sequence[Example], n: int, seed: int) -> tuple[Example, ...]:
    """``n`` examples, spread evenly over the labels and mixed; the same for the same seed."""
    order = np.random.default_rng([seed, 1]).permutation(len(train))
    by_label: dict[str | None, list[Example]] = {}
    for index in order:
        by_label.setdefault(train[index].label, []).append(train[index])
    queues = [by_label[label] for label in sorted(by_label, key=str)]
    chosen: list[Example] = []
    while len(chosen) < n and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    mixed = np.random.default_rng([seed, 2]).permutation(min(n, len(chosen)))
    return tuple(chosen[i] for i in mixed)


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    """Both for models that write text; none for tasks whose answer is not text. Pairs are judged as they are.

    An encoder–decoder reads one text, so it can be shown no solved ones.
    """
    if architecture == "encoder-decoder" and config.task.kind == "translation":
        return ["prompt/zero-shot"]
    if architecture == "decoder" and config.task.kind == "preference":
        return ["prompt/zero-shot"]
    if architecture != "decoder" or config.task.kind not in ("classification", "generation", "translation"):
        return []
    return ["prompt/zero-shot", "prompt/few-shot"]


PROMPT = Family(
    name="prompt",
    ids=_ids,
    baseline=True,
    reason="costs no training; if it is as good, do not fine-tune",
    build=Prompt,
)
