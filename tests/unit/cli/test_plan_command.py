from __future__ import annotations

import json
from pathlib import Path

import pytest

from end_to_end.projects import call, write_project
from tunesmith.cli.plan import duration


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith import workflow

    monkeypatch.setattr(workflow, "measure_sgemm", lambda: 5e10)


def test_a_plan_writes_nothing_and_says_what_a_run_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    result = call("plan", config)
    assert result.code == 0, result.err
    assert sorted(tmp_path.rglob("*")) == before
    for words in ("56 train, 8 validation, 16 test, 2 labels", "50 GFLOP/s", "tune/tiny_llama/lora", "prompt/few-shot"):
        assert words in result.out
    assert "With 16 test examples a difference of 42.2 points or more can be detected" in result.out
    assert "train.max_length" in result.out
    assert "learning_rate" not in result.out  # which the project sets
    assert "plan: counting tokens" in result.err


def test_as_json_it_is_the_plan_that_a_run_writes(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline", "prompt"])
    plan = json.loads(call("plan", config, "--json", "-q", "--set", "seed=3").out)
    assert call("run", config, "--set", "seed=3", "--out", tmp_path / "run", "-q").code == 0
    written = json.loads((tmp_path / "run" / "plan.json").read_text())
    for found in (plan, written):
        del found["facts"]["available_bytes"]
    data = plan.pop("data")
    assert plan == written
    assert data["test"] == 16
    assert data["findings"] == json.loads((tmp_path / "run" / "data.json").read_text())["findings"]


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
