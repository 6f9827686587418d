"""``boosting/histogram``: gradient-boosted trees on a table's columns, the usual best answer for tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.config import Config
from tunesmith.errors import EvaluationError
from tunesmith.records import Example, Prediction

LEARNING_RATES, LEAVES = (0.03, 0.1), (7, 31)  # tried on validation
MOST_CATEGORIES = 200  # rarer values of a text column are one category; the trees take 255


class Boosting:
    """Text columns are categories, numbers stay numbers, what is missing stays missing."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id = context, candidate_id
        self.names: list[str] = []
        self.pipeline: Any = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Fit each combination of learning rate and leaves on train; the lowest validation loss is kept."""
        from sklearn.metrics import log_loss, mean_squared_error

        started = time.monotonic()
        self.names = list(dict.fromkeys(name for example in train for name, _ in example.columns))
        text = [name for name in self.names if any(isinstance(dict(e.columns).get(name), str) for e in train)]
        table, targets = self._table(train), self._targets(train)
        held_out, expected = self._table(validation), self._targets(validation)
        tried: list[dict[str, Any]] = []
        fitted: list[Any] = []
        for rate in LEARNING_RATES:
            for leaves in LEAVES:
                pipeline = self._pipeline(text, rate, leaves).fit(table, targets)
                loss = (
                    mean_squared_error(expected, pipeline.predict(held_out))
                    if self._is_regression
                    else log_loss(expected, pipeline.predict_proba(held_out), labels=pipeline.classes_)
                )
                tried.append({"learning_rate": rate, "leaves": leaves, "validation_loss": float(loss)})
                fitted.append(pipeline)
        best = min(range(len(tried)), key=lambda i: tried[i]["validation_loss"])
        self.pipeline = fitted[best]
        return Fit(
            train_seconds=time.monotonic() - started,
            details={**tried[best], "tried_on_validation": tried, "columns": self.names, "text_columns": text},
        )

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if self.pipeline is None:
            raise EvaluationError(f"{self.id}: predict was called before fit.")
        started = time.monotonic()
        table = self._table(examples)
        if self._is_regression:
            answers = [repr(float(value)) for value in self.pipeline.predict(table)]
            return self.context.task.from_answers(examples, answers, self.id, time.monotonic() - started)
        probabilities = self.pipeline.predict_proba(table)
        classes = [str(c) for c in self.pipeline.classes_]
        answers = [classes[int(i)] for i in probabilities.argmax(1)]
        predictions = self.context.task.from_answers(examples, answers, self.id, time.monotonic() - started)
        place = [classes.index(label) for label in self.context.task.labels]
        return [
            replace(p, probabilities=tuple(float(v) for v in row[place]))
            for p, row in zip(predictions, probabilities, strict=True)
        ]

    @property
    def _is_regression(self) -> bool:
        return self.context.task.kind == "regression"

    def _targets(self, examples: Sequence[Example]) -> np.ndarray:
        answers = [example.answer for example in examples]
        return np.array([float(a) for a in answers]) if self._is_regression else np.array(answers)

    def _table(self, examples: Sequence[Example]) -> np.ndarray:
        """Rows of cells in the columns' order; a number in a text column is its text, missing cells are None."""
        return np.array([[dict(e.columns).get(name) for name in self.names] for e in examples], dtype=object)

    def _pipeline(self, text: Sequence[str], rate: float, leaves: int) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

        words = [i for i, name in enumerate(self.names) if name in text]
        numbers = [i for i, name in enumerate(self.names) if name not in text]
        encoder = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=MOST_CATEGORIES
        )
        columns = ColumnTransformer([
            ("text", make_pipeline(FunctionTransformer(_as_text), encoder), words),
            ("number", FunctionTransformer(_as_numbers), numbers),
        ])  # fmt: skip
        kind = HistGradientBoostingRegressor if self._is_regression else HistGradientBoostingClassifier
        trees = kind(
            learning_rate=rate, max_leaf_nodes=leaves, max_iter=200, early_stopping=False,
            categorical_features=list(range(len(words))), random_state=self.context.config.seed,
        )  # fmt: skip
        return make_pipeline(columns, trees)


def _as_text(cells: np.ndarray) -> np.ndarray:
    return np.array([["" if cell is None else str(cell) for cell in row] for row in cells], dtype=object)


def _as_numbers(cells: np.ndarray) -> np.ndarray:
    rows = [[float(c) if isinstance(c, int | float) else np.nan for c in row] for row in cells]
    return np.array(rows, dtype=float).reshape(cells.shape)


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    fits = config.data.format == "table" and config.task.kind in ("classification", "regression")
    return ["boosting/histogram"] if fits else []


BOOSTING = Family(
    name="boosting",
    ids=_ids,
    baseline=True,
    reason="for tables always shown: seconds to train, and seldom beaten there",
    build=Boosting,
)
