from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tunesmith.candidates import FAMILIES, Context
from tunesmith.candidates.prompt import choose_shots
from tunesmith.config import parse_config
from tunesmith.errors import EvaluationError
from tunesmith.records import Example
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


def examples(n: int, start: int = 0) -> list[Example]:
    """Three labels in uneven shares."""
    return [Example(f"f:{i}", text=f"text {i}", label="abbcccccc"[i % 9]) for i in range(start, start + n)]


@pytest.mark.parametrize("n", [3, 6, 12])
def test_shots_are_spread_evenly_over_the_labels(n: int) -> None:
    train = examples(90)
    shots = choose_shots(train, n, 0)
    assert len(shots) == n
    assert set(Counter(shot.label for shot in shots).values()) == {n // 3}
    assert {shot.id for shot in shots} <= {e.id for e in train}
    assert len({shot.id for shot in shots}) == n


def test_shots_are_the_same_for_the_same_seed_and_mixed() -> None:
    train = examples(90)
    assert choose_shots(train, 12, 3) == choose_shots(train, 12, 3)
    assert choose_shots(train, 12, 3) != choose_shots(train, 12, 4)
    labels = [shot.label for shot in choose_shots(train, 12, 0)]
    assert labels != sorted(labels, key=str)
    assert len(choose_shots(train[:5], 12, 0)) == 5


def context(path: Path, max_length: int = 1024) -> Context:
    config = parse_config({"task": "classification", "data": {"train": "x"}, "model": str(path)})
    return Context(config, build_task(config.task, ["a", "b", "c"]), str(path), {}, max_length, silent)


def test_the_number_of_shots_is_chosen_on_validation_and_the_test_is_not_asked(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    train, validation = examples(60), examples(20, 100)
    candidate: Any = FAMILIES["prompt"].build(context(tiny_model_path), "prompt/few-shot", tmp_path)
    fit = candidate.fit(train, validation)
    scored = [t for t in fit.details["tried_on_validation"] if "score" in t]
    assert [t["shots"] for t in fit.details["tried_on_validation"]] == [4, 8, 16]
    best = max(scored, key=lambda t: (t["score"], -t["nll"]))
    assert fit.details["shots"] == best["shots"] == len(candidate.shots)
    assert {shot.id for shot in candidate.shots} <= {e.id for e in train}
    assert fit.details["shot_ids"] == [shot.id for shot in candidate.shots]
    again = candidate.context.task.predict(candidate._load(), validation, "c", candidate.shots)
    assert sum(p.score for p in again) / 20 == pytest.approx(best["score"])


def test_shots_that_do_not_fit_are_said(tiny_model_path: Path, tmp_path: Path) -> None:
    long = [Example(e.source, text=(e.text or "") + " far too long" * 60, label=e.label) for e in examples(60)]
    candidate = FAMILIES["prompt"].build(context(tiny_model_path), "prompt/few-shot", tmp_path)
    with pytest.raises(EvaluationError, match="no number of shots could be tried"):
        candidate.fit(long, long[:5])
