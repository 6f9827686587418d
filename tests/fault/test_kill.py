"""A run killed anywhere and started again ends as if it had never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from end_to_end.projects import call, write_project
from tunesmith.train.checkpoint import find_checkpoint

SCRIPT = Path(__file__).with_name("killed.py")
ENDINGS = ("point", "first", "second")


def ends(folder: Path, points: list[Any], changes: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    config = write_project(folder, **(changes or {"candidates": ["prompt", "tune"]}))
    arguments = [sys.executable, "-W", "ignore", str(SCRIPT), str(config), str(folder), json.dumps(points)]
    paths = [str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def assert_all_end_like_the_first(results: list[dict[str, Any]]) -> None:
    whole, *killed = results
    assert whole["first"] == whole["second"] == 0
    expected = {key: value for key, value in whole.items() if key not in ENDINGS}
    assert any("weights" in key for key in expected)
    for result in killed:
        assert result["first"] == -signal.SIGKILL, result["point"]  # the point was reached
        assert result["second"] == 0, result["point"]
        assert {key: value for key, value in result.items() if key not in ENDINGS} == expected, result["point"]


def test_killed_in_training_and_while_saving(tmp_path: Path) -> None:
    points = [None, ["training", 4], ["fsync", 25]]
    assert_all_end_like_the_first(ends(tmp_path, points))


STAGES = ("data: reading", "plan: model", "zero-shot: test", "overfitting", "lora: test", "report")


@pytest.mark.slow
@pytest.mark.parametrize(
    "points",
    [
        [*(["training", n] for n in (1, 2, 3, 5, 8, 11, 14)), *([stage, 1] for stage in STAGES)],
        [["fsync", n] for n in range(1, 60, 2)],
    ],
    ids=["in any stage", "at any file"],
)
def test_killed_at_many_points(tmp_path: Path, points: list[Any]) -> None:
    assert_all_end_like_the_first(ends(tmp_path, [None, *points]))


@pytest.mark.slow
def test_killed_with_dropout_whose_randomness_goes_on(tmp_path: Path) -> None:
    changes = {"candidates": ["tune"], "method": {"kind": "lora", "rank": 4, "dropout": 0.2}}
    assert_all_end_like_the_first(ends(tmp_path, [None, ["training", 3], ["training", 9]], changes))


# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────────────────
def test_ctrl_c_saves_and_exits_130(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["tune"], train={"epochs": 400, "patience": 0})
    command = [sys.executable, "-m", "tunesmith.cli.main", "run", str(config), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    metrics = tmp_path / "run" / "candidates" / "tune__tiny_llama__lora" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (metrics.is_file() and metrics.stat().st_size > 1000):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    found, problems = find_checkpoint(metrics.parent / "checkpoints")
    assert found is not None and not problems
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert json.loads((found / "state.json").read_text())["step"] == last
    assert not (metrics.parent / "evaluation.json").exists()


def interrupt_at_step_3(times: int) -> Any:
    def listener(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
        if "training" in stage and done == 3:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return listener


@pytest.mark.parametrize(("times", "saved"), [(1, 3), (2, 2)])
def test_the_second_ctrl_c_does_not_wait_for_the_checkpoint(tmp_path: Path, times: int, saved: int) -> None:
    import tunesmith

    config = tunesmith.read_config(write_project(tmp_path, candidates=["tune"], train={"evals_per_epoch": 3}))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tunesmith.run(config, tmp_path / "run", interrupt_at_step_3(times))
    assert signal.getsignal(signal.SIGINT) is before
    found, _ = find_checkpoint(tmp_path / "run" / "candidates" / "tune__tiny_llama__lora" / "checkpoints")
    assert found is not None
    assert json.loads((found / "state.json").read_text())["step"] == saved
    assert call("run", tmp_path / "project.yaml", "--out", tmp_path / "run", "-q").code == 0
