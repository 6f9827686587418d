from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from tunesmith.candidates import FAMILIES, Context, Fit
from tunesmith.config import parse_config
from tunesmith.records import Example
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


def row(i: int, label: str, **columns: Any) -> Example:
    return Example(f"f:{i}", text=str(columns), label=label, columns=tuple(columns.items()))


def fitted(folder: Path, task: str, train: list[Example], held_out: list[Example]) -> tuple[Any, Fit]:
    config = parse_config({"task": task, "data": {"train": "x", "format": "table"}})
    context = Context(config, build_task(config.task, [e.label or "" for e in train]), "m", {}, 64, silent)
    candidate: Any = FAMILIES["boosting"].build(context, "boosting/histogram", folder)
    return candidate, candidate.fit(train, held_out)


def people(n: int, rng: np.random.Generator) -> list[Example]:
    made = []
    for i in range(n):
        age, town = float(rng.integers(18, 80)), ["York", "Lund", "Bern"][int(rng.integers(3))]
        made.append(row(i, "yes" if (age > 50) != (town == "Bern") else "no", age=age, town=town, noise=rng.normal()))
    return made


def test_numbers_equal_scikit_learns_own(tmp_path: Path, rng: np.random.Generator) -> None:
    made = [
        row(i, "yes" if x > 0 else "no", x=float(x), y=float(y)) for i, (x, y) in enumerate(rng.normal(size=(200, 2)))
    ]
    candidate, fit = fitted(tmp_path, "classification", made[:120], made[120:160])
    chosen = fit.details
    plain = HistGradientBoostingClassifier(
        learning_rate=chosen["learning_rate"], max_leaf_nodes=chosen["leaves"], max_iter=200, early_stopping=False,
        random_state=0,
    )  # fmt: skip
    table = np.array([[value for _, value in e.columns] for e in made])
    plain.fit(table[:120], [e.label for e in made[:120]])
    found = [p.probabilities for p in candidate.predict(made[160:])]
    np.testing.assert_allclose(found, plain.predict_proba(table[160:]), atol=1e-12)
    assert chosen["validation_loss"] == min(t["validation_loss"] for t in chosen["tried_on_validation"])


def test_categories_are_understood_and_unknown_or_missing_cells_are_answered(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    made = people(400, rng)
    candidate, fit = fitted(tmp_path, "classification", made[:250], made[250:300])
    assert fit.details["text_columns"] == ["town"]
    assert np.mean([p.score for p in candidate.predict(made[300:])]) > 0.93
    odd = [row(0, "yes", age=None, town="Oslo", noise=None), row(1, "no", age=30.0, town=None, noise=0.0)]
    assert {p.prediction for p in candidate.predict(odd)} <= {"yes", "no"}


def test_regression_gives_numbers(tmp_path: Path, rng: np.random.Generator) -> None:
    made = [row(i, repr(float(3 * x)), x=float(x)) for i, x in enumerate(rng.uniform(size=300))]
    candidate, _ = fitted(tmp_path, "regression", made[:200], made[200:250])
    errors = [abs(float(p.prediction) - float(p.target)) for p in candidate.predict(made[250:])]
    assert np.mean(errors) < 0.1


@pytest.mark.parametrize(
    ("format", "task", "ids"),
    [
        ("table", "classification", 1),
        ("table", "regression", 1),
        ("auto", "classification", 0),
        ("table", "generation", 0),
    ],
)
def test_it_is_for_tables(format: str, task: str, ids: int) -> None:
    config = parse_config({"task": task, "data": {"train": "x", "format": format}})
    assert len(FAMILIES["boosting"].ids(config, "m", "decoder")) == ids
