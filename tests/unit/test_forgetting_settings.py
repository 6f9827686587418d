from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import Forgetting, parse_config, read_config
from tunesmith.errors import ConfigError

PROJECT: dict[str, Any] = {"task": "classification", "data": {"train": "data.csv"}}


@pytest.mark.parametrize(
    ("written", "tier"),
    [("quick", "quick"), ("full", "full"), ("off", "off"), (False, "off"), ({"tier": False}, "off"), ({}, "quick")],
)
def test_one_word_is_the_tier(written: Any, tier: str) -> None:
    assert parse_config({**PROJECT, "forgetting": written}).forgetting == Forgetting(tier=tier)  # type: ignore[arg-type]


def test_one_file_may_stand_alone_and_is_found_beside_the_project(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "project.yaml").write_text(
        "task: classification\ndata: {train: data.csv}\nforgetting: {suites: own.jsonl, texts: [notes, other.jsonl]}\n"
    )
    found = read_config(tmp_path / "project.yaml", ("forgetting.guard=0.5",)).forgetting
    assert found.suites == (str(tmp_path / "own.jsonl"),)
    assert found.texts == (str(tmp_path / "notes"), "other.jsonl")
    assert (found.tier, found.guard, found.on_guard) == ("quick", 0.5, "roll_back")


def test_a_word_can_be_overridden_as_a_group(tmp_path: Path) -> None:
    (tmp_path / "project.yaml").write_text("task: classification\ndata: {train: data.csv}\nforgetting: standard\n")
    found = read_config(tmp_path / "project.yaml", ("forgetting.guard=1",)).forgetting
    assert (found.tier, found.guard) == ("standard", 1)
    assert read_config(tmp_path / "project.yaml", ("forgetting=off",)).forgetting.tier == "off"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("quik", "forgetting.tier"), ({"teir": "quick"}, "Did you mean 'tier'?"),
        ({"tier": "off", "suites": "a.jsonl"}, "a.jsonl would not be asked"),
        ({"suites": ["a.jsonl"], "texts": ["a.jsonl"]}, "each file may stand once"),
        ({"guard": 0}, "forgetting.guard"), ({"on_guard": "stop"}, "there is no guard"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(written: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**PROJECT, "forgetting": written})
    assert said in str(caught.value)


@pytest.mark.parametrize(("more", "said"), [
    ({"forgetting": {"guard": 0.5}}, "forgetting.guard: nothing is fine-tuned"),
    ({"overfitting": "control"}, "overfitting: nothing is fine-tuned"),
])  # fmt: skip
def test_what_needs_a_training_is_refused_without_one(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({**PROJECT, **more, "candidates": ["prompt"]})
    parse_config({**PROJECT, **more, "candidates": ["prompt", "tune"]})
