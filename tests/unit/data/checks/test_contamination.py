"""Findings of leaked examples: both sides, the parts looked at, and what is not looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.config import Data
from tunesmith.data.checks import contamination
from tunesmith.data.checks.contamination import asked, nearest_by_meaning
from tunesmith.data.checks.duplicates import find_duplicates
from tunesmith.data.checks.material import Material
from tunesmith.data.prepare import prepare_data
from tunesmith.records import Example, Finding, Message, Split

TRAIN = ("the cat sat on the mat", "a quite different sentence about dogs", "open the door")


def check(split: Split, data: Data) -> list[Finding]:
    material = Material(data, "classification", split.train, split, find_duplicates(split.train))
    return contamination.check(material)


def examples(name: str, texts: Sequence[str]) -> tuple[Example, ...]:
    return tuple(Example(f"{name}:{line}", text=text, label="x") for line, text in enumerate(texts, start=2))


def test_findings_name_both_sides() -> None:
    test = examples("test.csv", ["Open the door!", "nothing of the kind", "The cat sat on a mat."])
    findings = check(Split(examples("train.csv", TRAIN), (), test), Data(train="train.csv"))
    exact, near = findings
    assert (exact.check, exact.severity, exact.count, exact.rows) == ("contamination", "warning", 1, (2,))
    assert exact.pairs == (("test.csv:2", "train.csv:4", 1.0),)
    assert near.pairs == (("test.csv:4", "train.csv:2", 0.833),)
    assert near.message == "1 of 3 test examples are nearly equal to a training text."
    assert "test.csv:4 “The cat sat on a mat.” – train.csv:2 “the cat sat on the mat” (0.83)" in near.examples
    assert near.fix


def test_validation_examples_are_looked_for_too() -> None:
    split = Split(examples("train.csv", TRAIN), examples("v.csv", TRAIN[:1]), examples("t.csv", ["no such text here"]))
    (finding,) = check(split, Data(train="train.csv"))
    assert finding.message.startswith("1 of 1 validation examples")


def test_answers_are_training_text_and_system_messages_are_not() -> None:
    turns = (Message("system", "be kind"), Message("user", "hello"), Message("assistant", "the moon is far away"))
    train = (Example("c.jsonl:1", turns),)
    assert asked(train[0]) == "hello"
    (finding,) = check(Split(train, (), examples("t.csv", ["The moon is far away"])), Data(train="c"))
    assert finding.pairs == (("t.csv:2", "c.jsonl:1", 1.0),)
    assert check(Split(train, (), examples("t.csv", ["be kind"])), Data(train="c")) == []


def test_near_rows_of_tables_are_no_leaks_and_images_are_not_compared() -> None:
    text = "age: 39, work: state, hours: 40"
    row = Example("t.csv:2", text=text, label="x", columns=(("age", 39.0),))
    other = Example("u.csv:2", text=text.replace("39", "38"), label="x", columns=(("age", 38.0),))
    assert check(Split((row,), (), (other,)), Data(train="t.csv")) == []
    assert len(check(Split((row,), (), (row,)), Data(train="t.csv"))) == 1
    seen = Example("i.csv:2", text="what is it?", label="x", image="a.png")
    assert check(Split((seen,), (), (seen,)), Data(train="i.csv")) == []


def test_off_looks_at_nothing() -> None:
    split = Split(examples("train.csv", TRAIN), (), examples("test.csv", TRAIN))
    assert check(split, Data.model_validate({"train": "train.csv", "contamination": False})) == []


def test_findings_reach_the_prepared_data(tmp_path: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    rows = [f"{a} {b} {a}{b} of them," for a in words for b in words]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f'"{r}",{i % 2}\n' for i, r in enumerate(rows)))
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"{r[:-1]}!,{i % 2}\n" for i, r in enumerate(rows[:9])))
    data = Data(train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    found = [f for f in prepare_data(data, "classification", 0).findings if f.check == "contamination"]
    exact = next(f for f in found if "test examples stand" in f.message)
    assert exact.pairs[0][0].startswith(str(tmp_path / "test.csv"))


class Letters:
    """A stand-in for a sentence encoder: how often each letter stands in a text."""


def count_letters(encoder: Any, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True), 0


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch")
    monkeypatch.setattr("tunesmith.model.embed.embed", count_letters)
    monkeypatch.setattr("tunesmith.model.embed.load_encoder", lambda folder: Letters())
    monkeypatch.setattr("tunesmith.sources.resolve_model", lambda name: Path(name))
    return Letters()


def test_the_nearest_by_meaning_has_the_same_numbers(letters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ["item 1 listen", "silent", "tinsel 2", "zzz 3"]
    places, cosines = nearest_by_meaning(letters, train, ["listens", "enlist 2", "xyz 9"])
    assert places[:2].tolist() == [1, 2]
    assert cosines[1] == pytest.approx(1)
    assert cosines[2] == -1
    monkeypatch.setattr(contamination, "BLOCK", 1)
    again = nearest_by_meaning(letters, train, ["listens", "enlist 2", "xyz 9"])
    assert (again[0].tolist(), again[1].tolist()) == (places.tolist(), pytest.approx(cosines.tolist()))


def test_paraphrases_are_for_review_and_only_when_asked_for(letters: Any) -> None:
    split = Split(examples("train.csv", TRAIN), (), examples("test.csv", ["door the open", "Open the door", "qqq"]))
    exact, meaning = check(split, Data(train="train.csv", contamination="meaning"))
    assert (exact.severity, exact.rows) == ("warning", (3,))
    assert (meaning.severity, meaning.pairs) == ("info", (("test.csv:2", "train.csv:4", 1.0),))
    assert "for review" in meaning.message
    assert len(check(split, Data(train="train.csv"))) == 1
