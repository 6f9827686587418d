"""``embedding/<encoder>``: a frozen encoder, and a predictor on its vectors that is chosen on validation.

Logistic regression, ridge or nearest neighbours (``measures.predictor``). Texts take the encoders that ``encoder``
names: sentence encoders, or decoders, whose hidden states are pooled; ``model`` is the run's model. Images take an
image encoder: one that is named, or the run's model. Only one small sentence encoder is the default: others take
minutes on a CPU, and a run should first say quickly how much of the task is easy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit, model_id
from tunesmith.candidates.predictor import Embed, load_vectors, save_predictor, scaled
from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.evaluate.compare import plain_id
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.linear import disagrees
from tunesmith.measures.predictor import PredictorFit, fit_predictor
from tunesmith.measures.uncertainty import wilson_interval
from tunesmith.records import Example, Prediction

if TYPE_CHECKING:
    from tunesmith.tasks.task import HeadTask

TASKS = ("classification", "multi_label", "regression")
OWN = "model"  # as an encoder's name: the run's model
DEFAULT = Config.model_fields["encoder"].default


class Embedding:
    """Examples are embedded once; only the predictor is fitted. ``embed``: what gives vectors, if not the encoder."""

    def __init__(self, context: Context, candidate_id: str, folder: Path, embed: Embed | None = None) -> None:
        self.context, self.id, self.folder = context, candidate_id, folder
        self.task = cast("HeadTask", context.task)
        self.fitted: PredictorFit | None = None
        self._pooling = ""
        self._scale: tuple[np.ndarray, np.ndarray] | None = None  # of a decoder's features
        self._embed = embed

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Fit on train for each pooling; keep the best on validation (ties: the first).

        It is saved in the candidate's folder, to be used after the run.
        """
        started = time.monotonic()
        encoder = self._encoder(train)
        poolings, cut = self.vectors(train, "train")
        held_out, _ = self.vectors(validation, "validation")
        targets, held = (np.array([self.task.head_target(e) for e in part]) for part in (train, validation))
        weights = np.array([e.weight for e in train]) if any(e.weight != 1 for e in train) else None
        tried: list[dict[str, Any]] = []
        for pooling, features in poolings.items():
            scale = _scale(features) if len(poolings) > 1 else None
            vectors, held_vectors = scaled(features, scale), scaled(held_out[pooling], scale)
            fitted = fit_predictor(
                vectors, targets, held_vectors, held, self.task.head_loss, self.task.outputs, weights
            )
            tried += [{"pooling": pooling, **row} for row in fitted.tried]
            if self.fitted is None or fitted.score > self.fitted.score:
                self.fitted, self._pooling, self._scale = fitted, pooling, scale
        if self.fitted is None:
            raise ConfigError(f"encoder: {encoder} gives no vectors. Choose another, such as minilm-l6.")
        by_group = self._disagreement(train, poolings[self._pooling], targets)
        save_predictor(
            self.folder, self.id, self.context, train[0], self.fitted.model, encoder, self._pooling, self._scale
        )
        return Fit(
            trainable_parameters=self.fitted.parameters,
            train_seconds=time.monotonic() - started,
            details={
                "encoder": encoder, "pooling": self._pooling, "predictor": self.fitted.name, **self.fitted.setting,
                "tried_on_validation": tried, "texts_cut": cut,
            },
            measured=by_group,
        )  # fmt: skip

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if self.fitted is None:
            raise ConfigError(f"{self.id}: predict was called before fit.")
        started = time.monotonic()
        found, _ = self.vectors(examples, "test")
        outputs = self.fitted.outputs(scaled(found[self._pooling], self._scale))
        self._embed = None  # frees the encoder
        seconds = time.monotonic() - started
        return self.task.from_outputs(examples, outputs, self.id, seconds, [0] * len(examples))

    def _disagreement(
        self, train: Sequence[Example], features: np.ndarray, targets: np.ndarray
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """How often labels contradict what the other training examples say, by group: where labels may be wrong.

        Out-of-fold predictions of a logistic regression on the vectors; nothing for a remedy, which changes them.
        """
        columns = self.context.config.data.sensitive
        if not columns or self.task.head_loss != "cross_entropy" or plain_id(self.id) != self.id:
            return {}
        differs = disagrees(scaled(features, self._scale), targets[:, 0].astype(int))
        found: dict[str, dict[str, Any]] = {}
        for column in columns:
            of = np.array([dict(example.sensitive).get(column, "") for example in train])
            for group in sorted({*of.tolist()} - {""}):
                mask = of == group
                if mask.sum() >= SMALLEST:
                    share = wilson_interval(int(differs[mask].sum()), int(mask.sum()))
                    found.setdefault(column, {})[group] = share.to_json()
        return {"label_disagreement": found}

    def _encoder(self, examples: Sequence[Example]) -> str:
        names = encoder_names(self.context.config, examples[0].image is not None)
        found = {f"embedding/{model_id(self._named(name))}": self._named(name) for name in names}
        return found[plain_id(self.id)]

    def _named(self, name: str) -> str:
        return self.context.model if name == OWN else name

    def vectors(self, examples: Sequence[Example], part: str) -> tuple[dict[str, np.ndarray], int]:
        """Vectors by pooling, shape (n, width), and how many texts were cut."""
        if self._embed is None:
            self._embed = load_vectors(self._encoder(examples), examples[0].image is not None)
        done = [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: {part}", done[0], len(examples), {})

        return self._embed(examples, progress)


def _scale(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread that bring features to a length of about 1: few of a decoder's would drown all others."""
    spread = features.std(0)
    return features.mean(0), np.maximum(spread, 1e-6) * features.shape[1] ** 0.5


def encoder_names(config: Config, images: bool) -> list[str]:
    """Encoders as a user named them; for images, where none was named, the run's model."""
    return [OWN] if images and config.encoder == DEFAULT and config.model is not None else list(config.encoder)


def encoder_name(config: Config) -> str:
    """The sentence encoder that texts are compared by: the first that is named, else the default."""
    return next((name for name in config.encoder if name != OWN), DEFAULT[0])


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    """One candidate for each encoder.

    Raises:
        ConfigError: If two encoders would have the same id.
    """
    if config.task.kind not in TASKS:
        return []
    names = encoder_names(config, architecture == "image-encoder")
    ids = [f"embedding/{model if name == OWN else model_id(name)}" for name in names]
    if len(set(ids)) < len(ids):
        raise ConfigError(f"encoder: {', '.join(names)} are not all of different names ({', '.join(ids)}). Keep one.")
    return ids


EMBEDDING = Family(
    name="embedding",
    ids=_ids,
    baseline=True,
    reason="seconds to train, and hard to beat on short texts",
    build=Embedding,
)
