"""``embedding/<encoder>``: a frozen sentence encoder and logistic regression, C chosen on validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit, model_id
from tunesmith.config import Config
from tunesmith.records import Example, Prediction

C_GRID = tuple(float(c) for c in np.logspace(-2, 3, 11))  # inverse strength of the L2 penalty


class Embedding:
    """Texts are embedded once; only the classifier is fitted."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.encoder: tuple[Any, Any] | None = None
        self.classifier: Any = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Fit on train for each C, keep the one with the best validation accuracy (ties: lower loss)."""
        started = time.monotonic()
        vectors, cut = self._embed(train, "train")
        held_out, _ = self._embed(validation, "validation")
        labels, targets = [e.label for e in train], [e.label for e in validation]
        self.classifier, chosen, tried = fit_classifier(vectors, labels, held_out, targets)
        return Fit(
            trainable_parameters=int(self.classifier.coef_.size + self.classifier.intercept_.size),
            train_seconds=time.monotonic() - started,
            details={
                "encoder": self.context.config.encoder,
                "C": chosen,
                "tried_on_validation": tried,
                "texts_cut": cut,
            },
        )

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        from dataclasses import replace

        started = time.monotonic()
        vectors, _ = self._embed(examples, "test")
        probabilities = self.classifier.predict_proba(vectors)
        classes = [str(c) for c in self.classifier.classes_]
        answers = [classes[int(i)] for i in probabilities.argmax(1)]
        predictions = self.context.task.from_answers(examples, answers, self.id, time.monotonic() - started)
        place = [classes.index(label) for label in self.context.task.labels]
        self.encoder = None
        return [
            replace(p, probabilities=tuple(float(v) for v in row[place]))
            for p, row in zip(predictions, probabilities, strict=True)
        ]

    def _embed(self, examples: Sequence[Example], part: str) -> tuple[np.ndarray, int]:
        from tunesmith.model.embed import embed, load_encoder
        from tunesmith.sources import resolve_model

        if self.encoder is None:
            self.encoder = load_encoder(resolve_model(self.context.config.encoder))
        done = [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: {part}", done[0], len(examples), {})

        return embed(*self.encoder, [example.text or "" for example in examples], progress)


def fit_classifier(
    vectors: np.ndarray, labels: Sequence[Any], held_out: np.ndarray, targets: Sequence[Any]
) -> tuple[Any, float, list[dict[str, float]]]:
    """Logistic regression for each C of the grid; the best on held-out examples, its C, and what was tried."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fitted, tried = [], []
    expected = np.array(targets)
    for c in C_GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its validation score decides, converged or not
            classifier = LogisticRegression(C=c, max_iter=1000).fit(vectors, labels)
        probabilities = classifier.predict_proba(held_out)
        accuracy = float((classifier.classes_[probabilities.argmax(1)] == expected).mean())
        right = probabilities[np.arange(len(expected)), np.searchsorted(classifier.classes_, expected)]
        tried.append({"C": c, "score": accuracy, "nll": float(-np.log(np.maximum(right, 1e-12)).mean())})
        fitted.append(classifier)
    best = min(range(len(tried)), key=lambda i: (-tried[i]["score"], tried[i]["nll"]))
    return fitted[best], C_GRID[best], tried


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    return [f"embedding/{model_id(config.encoder)}"] if config.task.kind == "classification" else []


EMBEDDING = Family(
    name="embedding",
    ids=_ids,
    baseline=True,
    reason="seconds to train, and hard to beat on short texts",
    build=Embedding,
)
