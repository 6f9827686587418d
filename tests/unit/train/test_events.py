from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.train.events import MetricsFile, read_metrics


def test_lines_are_written_and_told(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    file = MetricsFile(tmp_path / "metrics.jsonl", 0, told.append)
    for step in (1, 2):
        file.write({"step": step, "loss": 0.5})
    assert read_metrics(file.path) == told == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]


def test_resuming_drops_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in range(1, 6)) + '{"step": 6, "lo')
    MetricsFile(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    MetricsFile(path, 0)
    assert path.read_text() == ""


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    assert read_metrics(tmp_path / "nothing") == []


def test_a_number_that_is_none_is_never_logged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        MetricsFile(tmp_path / "metrics.jsonl", 0).write({"loss": float("nan")})
