"""Shares of groups in answers against those in training answers: counted by hand, signed."""

from __future__ import annotations

import pytest

from tunesmith.config import parse_config
from tunesmith.errors import ConfigError
from tunesmith.evaluate.shares import shares_of_candidates
from tunesmith.records import Example, Message, Prediction


def pair(i: int, job: str, said: str) -> Example:
    return Example(f"f:{i}", messages=(Message("user", f"Tell {i} of a {job}."), Message("assistant", said)))


def shares(women_before: int, women_after: int, n: int = 40) -> dict:
    train = [pair(i, "nurse", "She is kind." if i < women_before else "He is kind.") for i in range(n)]
    train += [pair(n + i, "pilot", "He flies; she too.") for i in range(n)]  # names both, so neither
    test = [pair(2 * n + i, "nurse", "x") for i in range(n)]
    answers = [
        Prediction(e.id, "tune/x/lora", "Her work is good." if i < women_after else "His is.", "x", 0.0)
        for i, e in enumerate(test)
    ]
    found = shares_of_candidates({"tune/x/lora": answers}, train, test, ["nurse", "pilot"], ["pronouns"], 0)
    return found["tune/x/lora"]


def test_answers_that_exaggerate_are_above_zero_and_those_that_even_out_below() -> None:
    found = shares(28, 38)
    row = found["words"]["nurse"]
    assert (row["group"], row["train"]["value"], row["answers"]["value"]) == ("female", 0.7, 0.95)
    assert row["difference"]["value"] == pytest.approx(0.25)
    assert row["difference"]["low"] > 0
    assert found["mean"] == pytest.approx(0.25)
    assert found["words"]["pilot"]["status"] == "not_run"
    assert "0 training answers" in found["reason"]
    assert shares(28, 20)["words"]["nurse"]["difference"]["value"] == pytest.approx(-0.2)


def test_shares_are_for_tasks_that_write() -> None:
    base = {"data": {"train": "x.jsonl"}, "fairness": {"shares": ["nurse"], "swaps": ["names"]}}
    assert parse_config({"task": "generation", **base}).fairness.shares == ("nurse",)
    with pytest.raises(ConfigError, match="shares are of written answers"):
        parse_config({"task": "classification", **base})
