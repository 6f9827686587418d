"""A disk that fills up: a message that names the path, what was complete kept, and a run that goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from end_to_end.projects import call, read_strictly, write_project
from tunesmith import workflow
from tunesmith.errors import RunError
from tunesmith.run import write_json

SIZE = 6 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # weights may still be mapped


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def filling_at(stage_wanted: str, step: float, folder: Path) -> Any:
    def listener(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
        if stage_wanted in stage and done == step and not (folder / "filler").exists():
            fill(folder)

    return listener


@pytest.mark.parametrize(
    ("stage", "step"),
    [("data: reading", 0), ("plan: measuring", 0), ("training", 2), ("overfitting", 0), ("report", 0)],
)
def test_full_at_any_stage(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, step: float
) -> None:
    monkeypatch.setattr(workflow, "free_disk_bytes", lambda path: 10**12)
    monkeypatch.setattr(workflow, "measure_sgemm", lambda: 5e10)
    config = tunesmith.read_config(write_project(tmp_path, candidates=["baseline", "tune"]))
    run = small_disk / "run"
    with pytest.raises(RunError, match="the disk is full") as refused:
        tunesmith.run(config, run, filling_at(stage, step, small_disk))
    assert str(run) in str(refused.value)
    assert not (run / "report.json").exists()
    for file in run.rglob("*.json"):
        if file.name != "tokenizer.json":
            read_strictly(file)
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]

    (small_disk / "filler").unlink()
    report = tunesmith.run(config, run)
    whole = tunesmith.run(config, tmp_path / "whole")
    assert [c["metrics"] for c in report["candidates"]] == [c["metrics"] for c in whole["candidates"]]
    weights = "candidates/tune__tiny_llama__lora/adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_too_little_space_is_said_before_anything_is_done(small_disk: Path, tmp_path: Path) -> None:
    result = call("run", write_project(tmp_path), "--out", small_disk / "run", "-q")
    assert result.code == 1
    assert "MB free" in result.err
    assert not (small_disk / "run" / "run.yaml").exists()


def test_a_file_is_replaced_whole_or_not_at_all(small_disk: Path) -> None:
    file = small_disk / "report.json"
    write_json(file, {"old": True})
    fill(small_disk)
    with pytest.raises(RunError, match=r"report\.json: the disk is full"):
        write_json(file, {"new": "x" * 100_000})
    assert read_strictly(file) == {"old": True}
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "report.json"]


def test_a_disk_that_cannot_be_written(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = call("run", write_project(tmp_path), "--out", small_disk / "run", "-q")
    assert result.code == 1
    assert f"{small_disk / 'run'}: cannot be written here" in result.err
    assert "--out" in result.err
