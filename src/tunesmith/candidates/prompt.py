"""``prompt/zero-shot``, ``prompt/few-shot`` and ``prompt/nearest``: the base model as it is, asked well.

Zero-shot asks in the plain wording. Few-shot chooses wording, number of shots and calibration on validation; its shots
come from train, the same for every question, spread evenly over the labels, and what all prompts share is computed
once. Nearest takes few-shot's wording and calibration, and for every question the training examples most like it, the
most similar last; such prompts share little, so a question costs several times as much and shots are fewer.

Source of nearest shots: Liu et al. 2022, "What Makes Good In-Context Examples for GPT-3?", arXiv:2101.06804.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.candidates.embedding import encoder_name
from tunesmith.candidates.prompt_search import ROUND_EXAMPLES, Cell, Trials, search
from tunesmith.candidates.templates import TEMPLATES
from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.measures.neighbours import nearest
from tunesmith.records import Example, Message, Prediction
from tunesmith.run import read_json, write_json

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel
    from tunesmith.tasks.classification import ClassificationTask
    from tunesmith.tasks.task import Ask, AskedTask

NEAREST_SHOTS = (1, 2, 4, 8)
NEAREST_EXAMPLES = 48  # validation examples on which their number is chosen, at most
NEAREST_COST = 3  # times the tokens of a question without shots that one with nearest shots may compute
SEARCH = "search.json"  # in few-shot's folder, for nearest to go on from
KINDS = ("classification", "generation", "translation")  # tasks whose prompts are chosen


class Prompt:
    """Zero-shot, few-shot or nearest, as the id says."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.search_file = folder.parent / "prompt__few-shot" / SEARCH
        self.ask: Ask | None = None  # None: the task's own wording
        self.prior: list[float] | None = None
        self.neighbours: Neighbours | None = None
        self._loaded: LanguageModel | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Choose the prompt by the task's metric on validation; ties go to the lower loss."""
        if self.id == "prompt/zero-shot":
            turns = self.context.task.messages(train[0])
            return Fit(details={"template": "plain", "shots": 0, "calibrated": False, "prompt": shown(turns)})
        held_out = list(validation)[: ROUND_EXAMPLES[-1]]
        searched = self._search(train, held_out)
        trials = self._trials(held_out)
        if self.id == "prompt/few-shot":
            shots = choose_shots(train, searched["shots"], self.context.config.seed)
            self.ask = fitting(trials, searched["template"], lambda example: shots)
            details = searched
        else:
            details = self._fit_nearest(trials, train, searched)
        if details["calibrated"]:
            self.prior = list(details["prior"].values())
        return Fit(details={**details, "prompt": shown(cast("Ask", self.ask)(held_out[0]))})

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        lm = self._load()
        total, done = len(examples), [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: test", done[0], total, {})

        if self.ask is None:
            predictions = self.context.task.predict(lm, examples, self.id, (), progress)
        else:
            started = time.monotonic()
            if self.neighbours is not None:
                self.neighbours.find(examples)
            finding = (time.monotonic() - started) / max(1, total)
            task = cast("AskedTask", self.context.task)
            predictions = task.predict_asked(lm, examples, self.id, self.ask, progress)
            if self.prior is not None:
                predictions = cast("ClassificationTask", task).calibrated(predictions, self.prior)
            predictions = [replace(p, seconds=p.seconds + finding) for p in predictions]
        self._loaded = None
        return predictions

    def _trials(self, held_out: Sequence[Example]) -> Trials:
        return Trials(cast("AskedTask", self.context.task), self._load(), held_out, self.id, self.context.listener)

    def _search(self, train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
        """Few-shot's choice, once for both candidates that need it: kept in a file of the run."""
        trials = self._trials(held_out)
        seed, templates = self.context.config.seed, TEMPLATES[trials.task.kind]

        def ask(template: str, n: int) -> Ask | None:
            shots = choose_shots(train, n, seed)
            return (lambda example: templates[template](trials.task, example, shots)) if len(shots) == n else None

        if not self.search_file.is_file():
            best = search(trials, ask)
            shots = choose_shots(train, best.shots, seed)
            write_json(self.search_file, {**chosen(trials, best), "shot_ids": [shot.id for shot in shots]})
        found: dict[str, Any] = read_json(self.search_file)
        return found

    def _fit_nearest(self, trials: Trials, train: Sequence[Example], searched: dict[str, Any]) -> dict[str, Any]:
        template = searched["template"]
        near = self.neighbours = Neighbours(self.context.config, train)
        near.find(trials.held_out)

        def cell(n: int) -> Cell:
            ask = fitting(trials, template, lambda example: near.of(example, n))
            return Cell(template, n, ask, trials.cost(ask), "nearest")

        bare = trials.cost(fitting(trials, template, lambda example: ())).own
        cells = [cell(n) for n in NEAREST_SHOTS if n <= len(train)]
        cheap = [c for c in cells if c.cost.own <= NEAREST_COST * bare] or cells[:1]
        best = trials.round(cheap, NEAREST_EXAMPLES)[0]
        self.ask = best.ask
        found = chosen(trials, best, searched["calibrated"])
        return {**found, "encoder": near.encoder, "fixed_tried_on_validation": searched["tried_on_validation"]}

    def _load(self) -> LanguageModel:
        from tunesmith.model.architecture import architecture
        from tunesmith.model.load import load_model
        from tunesmith.sources import resolve_model

        if self._loaded is None:
            self.context.listener(f"{self.id}: loading {self.context.model}", 0, 0, {})
            kind = self.context.task.interface(architecture(resolve_model(self.context.model)), "lora")
            self._loaded = load_model(self.context.model, kind)
        return self._loaded


class Neighbours:
    """For each question the training examples most like it, by a frozen sentence encoder."""

    def __init__(self, config: Config, train: Sequence[Example]) -> None:
        from tunesmith.model.architecture import architecture
        from tunesmith.model.embed import load_encoder
        from tunesmith.sources import resolve_model

        self.encoder, self.train = encoder_name(config), list(train)
        folder = resolve_model(self.encoder)
        kind = architecture(folder)
        if kind != "encoder":
            raise ConfigError(f"encoder: {folder.name} is of kind {kind}, expected encoder. Try minilm-l6.")
        self._loaded = load_encoder(folder)
        self._vectors = self._embed(self.train)
        self._found: dict[str, list[int]] = {}

    def find(self, examples: Sequence[Example]) -> None:
        """Look up the neighbours of ``examples``, by what they show and never by their answers."""
        places, _ = nearest(self._vectors, self._embed(examples), min(NEAREST_SHOTS[-1], len(self.train)))
        self._found |= {e.prompt_key: row for e, row in zip(examples, places[:, ::-1].tolist(), strict=True)}

    def of(self, example: Example, n: int) -> tuple[Example, ...]:
        """The ``n`` nearest of an example that was looked up, the most similar last."""
        return tuple(self.train[place] for place in self._found[example.prompt_key][-n:])

    def _embed(self, examples: Sequence[Example]) -> NDArray[Any]:
        from tunesmith.model.embed import embed

        return embed(self._loaded, [example.text or "" for example in examples])[0]


def fitting(trials: Trials, template: str, shots_of: Callable[[Example], Sequence[Example]]) -> Ask:
    """How questions are asked in a wording, without the first of their shots where all leave the answer no room."""
    wording, renderer = TEMPLATES[trials.task.kind][template], trials.renderer

    def ask(example: Example) -> tuple[Message, ...]:
        shots = list(shots_of(example))
        turns = wording(trials.task, example, shots)
        while shots and len(renderer.prompt(turns)) + trials.room > renderer.max_length:
            shots.pop(0)
            turns = wording(trials.task, example, shots)
        return turns

    return ask


def chosen(trials: Trials, best: Cell, calibrated: bool | None = None) -> dict[str, Any]:
    """What the report says of a choice; calibration is chosen by its score unless it is given."""
    scores = trials.scores(best)
    if calibrated is None:
        calibrated = scores.get("calibrated_score", scores["score"]) > scores["score"]
    found: dict[str, Any] = {"template": best.template, "shots": best.shots, "selection": best.selection}
    found["calibrated"] = calibrated
    if calibrated:
        found["prior"] = dict(zip(trials.task.labels, trials.prior(best), strict=True))
    return {
        **found, "validation_examples": len(best.predictions), "search_tokens": trials.tokens,
        "tried_on_validation": trials.tried,
    }  # fmt: skip


def shown(turns: Sequence[Message]) -> list[dict[str, str]]:
    """A prompt as it would be copied, without the answer."""
    return [{"role": turn.role, "content": turn.content} for turn in turns[:-1]]


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
    """For models that write text; none for tasks whose answer is not text. Pairs are judged as they are.

    An encoder–decoder reads one text, so it can be shown no solved ones. Nearest shots need the sentence encoder, so
    they are tried where ``embedding`` is asked for too.
    """
    if architecture == "encoder-decoder" and config.task.kind == "translation":
        return ["prompt/zero-shot"]
    if architecture == "decoder" and config.task.kind == "preference":
        return ["prompt/zero-shot"]
    if architecture != "decoder" or config.task.kind not in KINDS:
        return []
    close = config.task.kind == "classification" and "embedding" in config.candidates
    return ["prompt/zero-shot", "prompt/few-shot", *(["prompt/nearest"] if close else [])]


PROMPT = Family(
    name="prompt",
    ids=_ids,
    baseline=True,
    reason="costs no training; if it is as good, do not fine-tune",
    build=Prompt,
)
