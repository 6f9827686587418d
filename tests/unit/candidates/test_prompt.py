from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from end_to_end.projects import build_encoder
from tunesmith.candidates import FAMILIES, Context, prompt_search
from tunesmith.candidates.prompt import choose_shots
from tunesmith.candidates.prompt_search import metric_value
from tunesmith.config import parse_config
from tunesmith.errors import EvaluationError
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.workflow import silent

LABELS = ["a", "b", "c"]


def examples(n: int, start: int = 0) -> list[Example]:
    """Three labels in uneven shares."""
    return [Example(f"f:{i}", text=f"text {i}", label="abbcccccc"[i % 9]) for i in range(start, start + n)]


def conversations(n: int, start: int = 0) -> list[Example]:
    turns = [(Message("user", f"say {i}"), Message("assistant", f"{i}")) for i in range(start, start + n)]
    return [Example(f"f:{i}", pair) for i, pair in enumerate(turns)]


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


def context(path: Path, kind: str = "classification", **settings: Any) -> Context:
    config = parse_config({"task": kind, "data": {"train": "x"}, "model": str(path), **settings})
    labels = LABELS if kind == "classification" else []
    return Context(config, build_task(config.task, labels), str(path), {}, 1024, silent)


def build(name: str, of: Context, run: Path) -> Any:
    return FAMILIES["prompt"].build(of, f"prompt/{name}", run / f"prompt__{name}")


def test_the_prompt_is_chosen_on_validation_by_rounds(tiny_model_path: Path, tmp_path: Path) -> None:
    train, validation = examples(60), examples(40, 100)
    candidate = build("few-shot", context(tiny_model_path), tmp_path)
    details = candidate.fit(train, validation).details
    tried = [row for row in details["tried_on_validation"] if "score" in row]
    assert [row["template"] for row in tried[:4]] == ["plain", "question", "inline", "completion"]
    assert [(row["shots"], row["n"]) for row in tried[:6]] == [(0, 24)] * 4 + [(4, 40)] * 2
    assert {row["shots"] for row in tried if row["template"] == details["template"]} >= {0, 4}
    assert len(tried) == 6 + sum(row["n"] == 40 for row in tried[6:])
    assert details["search_tokens"] == sum(row["tokens"] for row in tried) > 0
    last = max(tried[-2:], key=lambda row: (max(row["score"], row["calibrated_score"]), -row["nll"]))
    assert (details["template"], details["shots"]) == (last["template"], last["shots"])
    assert details["calibrated"] == (last["calibrated_score"] > last["score"])
    assert len(details["shot_ids"]) == details["shots"]
    assert set(details["shot_ids"]) <= {e.id for e in train}
    predictions = candidate.predict(validation)
    best = max(last["score"], last["calibrated_score"])
    assert metric_value(predictions, "accuracy") == pytest.approx(best)
    assert details["prompt"][-1]["role"] == "user"
    assert "text 100" in details["prompt"][-1]["content"]


def test_a_round_keeps_to_its_tokens_by_asking_fewer_examples(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = 4000
    monkeypatch.setattr(prompt_search, "ROUND_TOKENS", budget)
    few = build("few-shot", context(tiny_model_path), tmp_path).fit(examples(60), examples(96, 100)).details
    first = few["tried_on_validation"][:4]
    assert {row["n"] for row in first} < set(range(prompt_search.FEWEST, 24))
    assert budget / 2 < sum(row["tokens"] for row in first) <= budget
    monkeypatch.setattr(prompt_search, "ROUND_TOKENS", 1)
    fewest = build("few-shot", context(tiny_model_path), tmp_path / "b").fit(examples(60), examples(96, 100)).details
    assert {row["n"] for row in fewest["tried_on_validation"]} == {prompt_search.FEWEST}


def test_zero_shot_is_the_plain_wording_as_the_model_is(tiny_model_path: Path, tmp_path: Path) -> None:
    of = context(tiny_model_path)
    candidate = build("zero-shot", of, tmp_path)
    details = candidate.fit(examples(20), examples(5, 100)).details
    assert (details["template"], details["shots"], details["calibrated"]) == ("plain", 0, False)
    found = candidate.predict(examples(6, 200))
    direct = of.task.predict(candidate._load(), examples(6, 200), "prompt/zero-shot")
    assert [(p.prediction, p.probabilities) for p in found] == [(p.prediction, p.probabilities) for p in direct]


def test_nearest_goes_on_from_what_few_shot_chose(tiny_model_path: Path, tmp_path: Path) -> None:
    of = context(tiny_model_path, encoder=str(build_encoder(tmp_path / "encoder")))
    train, validation, test = examples(60), examples(20, 100), examples(12, 200)
    searched = build("few-shot", of, tmp_path).fit(train, validation).details
    candidate = build("nearest", of, tmp_path)
    details = candidate.fit(train, validation).details
    assert details["fixed_tried_on_validation"] == searched["tried_on_validation"]
    assert (details["template"], details["calibrated"]) == (searched["template"], searched["calibrated"])
    assert details["shots"] in (1, 2, 4, 8)
    assert {row["selection"] for row in details["tried_on_validation"]} == {"nearest"}
    found = candidate.predict(test)
    assert [p.example_id for p in found] == [e.id for e in test]
    near = candidate.neighbours
    for example in test:
        shots = near.of(example, details["shots"])
        assert {shot.id for shot in shots} <= {e.id for e in train}
        assert all(shot.text in " ".join(m.content for m in candidate.ask(example)) for shot in shots)
    alone = build("nearest", of, tmp_path / "alone").fit(train, validation).details
    assert alone == details


def test_a_task_that_writes_text_chooses_among_its_own_wordings(tiny_model_path: Path, tmp_path: Path) -> None:
    of = context(tiny_model_path, task={"kind": "generation", "instruction": "Repeat.", "max_new_tokens": 4})
    candidate = build("few-shot", of, tmp_path)
    details = candidate.fit(conversations(20), conversations(5, 100)).details
    assert not details["calibrated"]
    assert [row["template"] for row in details["tried_on_validation"][:3]] == ["plain", "terse", "inline"]
    assert len(candidate.predict(conversations(3, 200))) == 3


def test_shots_that_do_not_fit_are_said_and_texts_that_do_not_are_refused(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    def long(n: int, start: int, times: int) -> list[Example]:
        return [Example(e.source, text=f"{e.text}{' far too long' * times}", label=e.label) for e in examples(n, start)]

    details = build("few-shot", context(tiny_model_path), tmp_path).fit(long(60, 0, 20), long(9, 100, 20)).details
    skipped = [row["shots"] for row in details["tried_on_validation"] if "skipped" in row]
    assert skipped
    assert details["shots"] not in skipped
    candidate = build("few-shot", context(tiny_model_path), tmp_path / "longer")
    with pytest.raises(EvaluationError, match="no prompt fits the model's"):
        candidate.fit(long(20, 0, 400), long(5, 100, 400))


def test_more_shots_than_examples_are_not_tried(tiny_model_path: Path, tmp_path: Path) -> None:
    details = build("few-shot", context(tiny_model_path), tmp_path).fit(examples(6), examples(9, 100)).details
    said = {row["shots"]: row["skipped"] for row in details["tried_on_validation"] if "skipped" in row}
    assert said == {8: "too few examples", 16: "too few examples"}
