"""``<candidate>+<remedy>``: another candidate, fitted or answering so that bias is less; beside it, to show the cost.

``reweigh``    examples count as often as group and label would meet if they were independent
``balance``    examples are drawn as often as that
``augment``    every training text that names a group is there twice, as it is and with the group swapped
``threshold``  answers of the candidate without remedy, with a threshold for each group; for two labels. It needs the
               group of whoever is asked about, so it is the one remedy that a model cannot carry in its weights

Groups are those of ``data.sensitive``; of several columns, what all of them say together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates.candidate import Candidate, Context, Family, Fit
from tunesmith.config import Config
from tunesmith.data.lexicon import changed_example, read_lexica
from tunesmith.errors import ConfigError, TrainingError
from tunesmith.evaluate.compare import plain_id
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.parity import group_thresholds, reweighing, uniform_sample
from tunesmith.records import Example, Prediction
from tunesmith.run import PREDICTOR, read_json, saved_model

if TYPE_CHECKING:
    from tunesmith.candidates.predictor import SavedPredictor
    from tunesmith.model.load import LanguageModel

MEASURED = (
    "overfitting",
    "forgetting",
    "memorization",
    "stereotypes",
)  # of the candidate whose answers thresholds change


def with_remedies(family: Family) -> Family:
    """The family with one more candidate for each of its own and each remedy of the config."""

    def ids(config: Config, model: str, architecture: str) -> list[str]:
        plain = family.ids(config, model, architecture)
        return [*plain, *(f"{name}+{remedy}" for name in plain for remedy in config.fairness.remedies)]

    def build(context: Context, candidate_id: str, folder: Path) -> Candidate:
        if plain_id(candidate_id) == candidate_id:
            return family.build(context, candidate_id, folder)
        if candidate_id.endswith("+threshold"):
            return Thresholds(context, candidate_id, folder)
        return Retrained(family.build(context, candidate_id, folder), context, candidate_id)

    return replace(family, ids=ids, build=build)


class Retrained:
    """A candidate fitted on reweighed, resampled or augmented training examples; validation stays as it is."""

    def __init__(self, inner: Candidate, context: Context, candidate_id: str) -> None:
        self.inner, self.context, self.remedy = inner, context, candidate_id.rpartition("+")[2]

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        changed, details = remedied(train, self.remedy, self.context.config)
        fit = self.inner.fit(changed, validation)
        fit.details["remedy"] = {"name": self.remedy, "examples": len(changed), **details}
        return fit

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        return self.inner.predict(examples)


def remedied(train: Sequence[Example], remedy: str, config: Config) -> tuple[list[Example], dict[str, Any]]:
    """Training examples with a remedy, and what was done. Examples without a known group stay as they are.

    Raises:
        ConfigError: If nothing can be done: no text names a group, or fewer than two groups are known.
    """
    if remedy == "augment":
        copies = [
            changed
            for lexicon in read_lexica(config.fairness.swaps)
            for example in train
            if (changed := changed_example(example, lexicon.swapped)) is not None
        ]
        if not copies:
            raise ConfigError(f"fairness.swaps: no training text has a term of {', '.join(config.fairness.swaps)}.")
        return [*train, *copies], {"copies": len(copies)}
    known = [i for i, example in enumerate(train) if _group(example, config)]
    groups = _numbers([_group(train[i], config) for i in known])
    labels = _numbers([train[i].label or "" for i in known])
    if len(set(groups)) < 2:
        raise ConfigError("fairness.remedies: fewer than two groups of data.sensitive are among the training examples.")
    if remedy == "balance":
        drawn = uniform_sample(groups, labels, np.random.default_rng([config.seed, 14]))
        rest = sorted({*range(len(train))} - {*known})
        return [train[i] for i in sorted([*(known[j] for j in drawn), *rest])], {"kept": len({*drawn.tolist()})}
    weighed, weights = list(train), reweighing(groups, labels)
    for i, weight in zip(known, weights, strict=True):
        weighed[i] = replace(train[i], weight=float(weight))
    return weighed, {"smallest_weight": float(weights.min()), "largest_weight": float(weights.max())}


class Thresholds:
    """The answers of the candidate without remedy, at a threshold for each group, set on validation."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.plain_folder = folder.with_name(plain_id(folder.name))
        self.limits: dict[str, float] = {}
        self._asked: LanguageModel | SavedPredictor | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Load what the candidate without remedy saved, and set the thresholds; costs what that one cost.

        Raises:
            ConfigError: If the task has more than two labels, or too few validation examples of a second group.
            TrainingError: If the candidate without remedy has no result.
        """
        config, task = self.context.config, self.context.task
        if len(task.labels) != 2:
            raise ConfigError(f"fairness.remedies: threshold is for two labels, and there are {len(task.labels)}.")
        stored = self.plain_folder / "evaluation.json"
        if not stored.is_file() or read_json(stored)["status"] != "ok":
            raise TrainingError(f"{self.id}: {plain_id(self.id)}, whose answers it changes, has no result.")
        predictions = self._ask(validation)
        of = [_group(example, config) for example in validation]
        sizes = {group: of.count(group) for group in sorted({*of} - {""})}
        names = [group for group, n in sizes.items() if n >= SMALLEST]
        if len(names) < 2:
            raise ConfigError(
                f"fairness.remedies: threshold needs {SMALLEST} validation examples of at least two groups, found "
                f"{sizes}. Raise data.validation_size, or give data.validation."
            )
        kept = [i for i, group in enumerate(of) if group in names]
        scores = [(predictions[i].probabilities or (0.5, 0.5))[1] for i in kept]
        right = [validation[i].label == task.labels[1] for i in kept]
        rates = None
        if config.fairness.threshold == "labels":  # of all that may be looked at: train holds far more than validation
            seen = [(_group(example, config), example.label) for example in (*train, *validation)]
            rates = [np.mean([label == task.labels[1] for g, label in seen if g == group]) for group in names]
        found, reached = group_thresholds(scores, right, [names.index(of[i]) for i in kept], rates)
        self.limits = dict(zip(names, found.tolist(), strict=True))
        plain = read_json(stored)
        details = {
            "name": "threshold", "aim": config.fairness.threshold, "label": task.labels[1], "thresholds": self.limits,
            "rates_on_validation": dict(zip(names, reached.tolist(), strict=True)),
            "without_threshold": {group: n for group, n in sizes.items() if group not in names},
        }  # fmt: skip
        numbers = {key: plain[key] for key in ("trainable_parameters", "train_seconds", "tokens_trained")}
        measured = {part: plain[part] for part in MEASURED if part in plain}
        return Fit(**numbers, details={"remedy": details}, measured=measured)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        config, labels = self.context.config, self.context.task.labels
        return [
            at_threshold(prediction, labels, self.limits.get(_group(example, config), 0.5))
            for example, prediction in zip(examples, self._ask(examples), strict=True)
        ]

    def _ask(self, examples: Sequence[Example]) -> list[Prediction]:
        """Answers of what the candidate without remedy saved, under this one's name."""
        from tunesmith.candidates.predictor import SavedPredictor, load_predictor
        from tunesmith.model.load import load_model

        if self._asked is None:
            is_predictor = (self.plain_folder / PREDICTOR).is_file()
            place = self.plain_folder if is_predictor else saved_model(str(self.plain_folder))
            self._asked = load_predictor(Path(place)) if is_predictor else load_model(str(place))
        if isinstance(self._asked, SavedPredictor):
            answers = self._asked.predict(examples)
        else:
            answers = self.context.task.predict(self._asked, examples, self.id)
        return [replace(answer, candidate=self.id) for answer in answers]


def at_threshold(prediction: Prediction, labels: Sequence[str], limit: float) -> Prediction:
    """A prediction of two labels whose second is answered above ``limit``, which the probabilities show as one half."""
    second = (prediction.probabilities or (0.5, 0.5))[1]
    odds = second * (1 - limit) / max(1e-300, second * (1 - limit) + (1 - second) * limit)
    said = labels[1] if second > limit else labels[0]
    return replace(prediction, prediction=said, score=float(said == prediction.target), probabilities=(1 - odds, odds))


def _group(example: Example, config: Config) -> str:
    """What all sensitive columns say of an example, or "" where one says nothing."""
    of = dict(example.sensitive)
    said = [of.get(column) for column in config.data.sensitive]
    return "" if None in said else " ".join(map(str, said))


def _numbers(names: Sequence[str]) -> list[int]:
    order = sorted(set(names))
    return [order.index(name) for name in names]
