"""Scores on leaked and on clean test examples, leaked suites, and everything that was not looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.config import Forgetting
from tunesmith.evaluate import contamination as module
from tunesmith.evaluate import suites as suites_module
from tunesmith.evaluate.contamination import asked_suites, contamination, effect, suites_in
from tunesmith.records import Example, Prediction, Split


def answers(leaked_right: int, clean_right: int, n: int = 40) -> list[Prediction]:
    """Predictions of n leaked examples, then of n clean ones."""
    right = [i < leaked_right for i in range(n)] + [i < clean_right for i in range(n)]
    return [Prediction(str(i), "c", "a" if ok else "b", "a", float(ok)) for i, ok in enumerate(right)]


def split(n: int = 80) -> Split:
    test = tuple(Example(f"t.csv:{i}", text=f"test text {i}", label="a") for i in range(n))
    return Split((Example("r.csv:1", text="Which tool drives a nail into wood?", label="a"),), test[:3], test)


def test_effect_is_the_difference_of_two_means(rng: np.random.Generator) -> None:
    found = effect(answers(36, 20), {str(i) for i in range(40)}, "accuracy", rng)
    assert (found["leaked"]["value"], found["clean"]["value"]) == (0.9, 0.5)
    assert found["difference"]["value"] == pytest.approx(0.4)
    stderr = np.sqrt(0.9 * 0.1 / 40 + 0.5 * 0.5 / 40)
    assert found["difference"]["low"] == pytest.approx(0.4 - 1.96 * stderr, abs=0.03)
    assert found["difference"]["high"] == pytest.approx(0.4 + 1.96 * stderr, abs=0.03)


def test_few_leaked_examples_say_nothing(rng: np.random.Generator) -> None:
    found = effect(answers(40, 40), {"0", "1", "2"}, "accuracy", rng)
    assert found == {
        "status": "not_run",
        "reason": "it takes 10 leaked test examples and as many others, and of one of them there are 3",
    }


def told(looked_for: str | None, data: Split, findings: list[dict[str, Any]], rng: np.random.Generator) -> Any:
    given = [replace(p, example_id=e.id) for p, e in zip(answers(40, 20), data.test, strict=True)]
    return contamination(data, findings, looked_for, {}, {"c": given}, "accuracy", rng)[0]


def test_findings_are_read_by_part_and_by_how_sure_they_are(rng: np.random.Generator) -> None:
    data = split()
    pairs = [[e.source, "r.csv:1", 1.0] for e in data.test[20:60]]  # the later half of the right answers
    findings = [
        {"check": "contamination", "severity": "warning", "pairs": pairs},
        {"check": "contamination", "severity": "info", "pairs": [["t.csv:70", "r.csv:1", 0.9]]},
        {"check": "exact_duplicates", "severity": "warning"},
    ]
    found = told("meaning", data, findings, rng)
    assert found["parts"]["test"] == {"leaked": 40, "n": 80, "paraphrases": {"status": "ok", "found": 1}}
    assert found["parts"]["validation"]["leaked"] == 0
    assert found["candidates"]["c"]["leaked"]["value"] == 1.0
    assert found["candidates"]["c"]["clean"]["value"] == 0.5
    assert told("words", data, findings, rng)["parts"]["test"]["paraphrases"]["status"] == "not_run"
    assert told("words", data, [], rng)["candidates"] == {}


@pytest.mark.parametrize(("looked_for", "words"), [("off", "switched off"), (None, "a version that did not look")])
def test_what_was_not_looked_for_is_not_run(looked_for: str | None, words: str, rng: np.random.Generator) -> None:
    found = told(looked_for, split(), [], rng)
    assert found["status"] == "not_run"
    assert words in found["reason"]


def test_leaked_items_of_suites_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"question": "Which tool drives a nail into wood?", "options": "A. hammer\nB. spoon", "answer": "A. hammer"},
        {"question": "What is warm and gives us light all day?", "options": "A. sun\nB. mud", "answer": "A. sun"},
    ]
    (tmp_path / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(suites_module, "resolve_suite", lambda name: tmp_path / "suite.jsonl")
    monkeypatch.setattr(module, "find_suite", lambda name: None if name == "commonsenseqa" else tmp_path)
    places = ("Peru", "Chile", "Cuba", "Mali", "Oman", "Iran", "Togo", "Laos", "Fiji")
    questions = [f"In {place}, who is king of {place}?" for place in places]
    questions.append("Which tool drives a nail into wood?")
    own = [{"question": question, "options": ["a", "b"], "answer": "a"} for question in questions]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    mine = str(tmp_path / "own.jsonl")
    names = ["piqa", "commonsenseqa", "no-such-suite", mine, "gone.jsonl", "task.yaml"]
    settings = Forgetting(suites=(mine,), harness=("task.yaml",))
    findings, told = suites_in(split().train, asked_suites(names, settings))
    assert findings[0].message.startswith("1 of 2 items of piqa")
    assert findings[0].pairs[0][1] == "r.csv:1"
    assert told["piqa"] == {"status": "ok", "leaked": 1, "n": 2}
    assert told[mine] == {"status": "ok", "leaked": 1, "n": 10}
    assert told["commonsenseqa"] == {"status": "not_run", "reason": "it is not on this machine"}
    assert {told[name]["status"] for name in names[2:3] + names[4:]} == {"not_run"}
    unreadable = asked_suites(["gone.jsonl"], Forgetting(suites=("gone.jsonl",)))
    assert "gone.jsonl" in unreadable["gone.jsonl"]
