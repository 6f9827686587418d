"""``embedding/<encoder>``: a frozen encoder and a linear model on its vectors, the penalty chosen on validation.

Logistic regression for classification, one such against the rest for each label of several, ridge regression for
numbers. Texts take ``config.encoder``; images an image encoder: that one, or the run's model where it is one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit, model_id
from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.measures.linear import LinearFit, fit_linear
from tunesmith.records import Example, Prediction

if TYPE_CHECKING:
    from tunesmith.tasks.task import HeadTask

IMAGES = 16  # computed at once
TASKS = ("classification", "multi_label", "regression")


class Embedding:
    """Examples are embedded once; only the linear model is fitted."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.task = cast("HeadTask", context.task)
        self.fitted: LinearFit | None = None
        self._loaded: tuple[Any, Any] | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Fit on train for each penalty, keep the one that is best on validation (ties: lower loss)."""
        started = time.monotonic()
        vectors, cut = self._embed(train, "train")
        held_out, _ = self._embed(validation, "validation")
        targets, held = (np.array([self.task.head_target(e) for e in part]) for part in (train, validation))
        fitted = fit_linear(vectors, targets, held_out, held, self.task.head_loss, self.task.outputs)
        self.fitted = fitted
        return Fit(
            trainable_parameters=int(fitted.weights.size + fitted.bias.size),
            train_seconds=time.monotonic() - started,
            details={
                "encoder": self._encoder(train), "C": fitted.c, "tried_on_validation": list(fitted.tried),
                "texts_cut": cut,
            },
        )  # fmt: skip

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if self.fitted is None:
            raise ConfigError(f"{self.id}: predict was called before fit.")
        started = time.monotonic()
        vectors, _ = self._embed(examples, "test")
        outputs = self.fitted.outputs(vectors)
        self._loaded = None
        seconds = time.monotonic() - started
        return self.task.from_outputs(examples, outputs, self.id, seconds, [0] * len(examples))

    def _encoder(self, examples: Sequence[Example]) -> str:
        return encoder_name(self.context.config, examples[0].image is not None)

    def _embed(self, examples: Sequence[Example], part: str) -> tuple[np.ndarray, int]:
        """Vectors of length 1, shape (n, width), and how many texts were cut."""
        import torch

        from tunesmith.model.architecture import architecture
        from tunesmith.model.embed import embed, load_encoder
        from tunesmith.model.vision import image_features, load_image_encoder
        from tunesmith.sources import resolve_model

        images = examples[0].image is not None
        if self._loaded is None:
            folder = resolve_model(self._encoder(examples))
            kind, wanted = architecture(folder), "image-encoder" if images else "encoder"
            if kind != wanted:
                fix = "dinov2-small" if images else "minilm-l6"
                raise ConfigError(f"encoder: {folder.name} is of kind {kind}, expected {wanted}. Try {fix}.")
            self._loaded = load_image_encoder(folder) if images else load_encoder(folder)
        done = [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: {part}", done[0], len(examples), {})

        if not images:
            return embed(*self._loaded, [example.text or "" for example in examples], progress)
        paths = [str(example.image) for example in examples]
        parts = []
        for start in range(0, len(paths), IMAGES):
            with torch.no_grad():
                parts.append(image_features(*self._loaded, paths[start : start + IMAGES]).float().cpu().numpy())
            progress(len(parts[-1]))
        rows = np.concatenate(parts)
        lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(lengths, 1e-12), 0


def encoder_name(config: Config, images: bool) -> str:
    """The encoder a user named; for images, where none was named, the run's model."""
    unnamed = config.encoder == Config.model_fields["encoder"].default
    return config.model if images and unnamed and config.model is not None else config.encoder


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    if config.task.kind not in TASKS:
        return []
    return [f"embedding/{model_id(encoder_name(config, architecture == 'image-encoder'))}"]


EMBEDDING = Family(
    name="embedding",
    ids=_ids,
    baseline=True,
    reason="seconds to train, and hard to beat on short texts",
    build=Embedding,
)
