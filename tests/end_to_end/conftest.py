"""Runs that several tests look at, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.projects import build_encoder, call, write_labelled, write_pairs, write_project


@pytest.fixture(autouse=True, scope="session")
def known_speed() -> Iterator[None]:
    """The machine's speed, which only the plan's estimates rest on, is not measured for a second in every run."""
    from tunesmith import workflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "measure_sgemm", lambda: 5e10)
        yield


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a finished classification run with every family of candidates."""
    folder = tmp_path_factory.mktemp("classified")
    write_labelled(folder / "data.csv", 160)
    encoder = build_encoder(folder / "encoder")
    config = write_project(
        folder,
        candidates=["baseline", "prompt", "embedding", "tune"], encoder=str(encoder),
        method=[{"kind": "lora", "rank": 4}, "full"], data={"test_size": 30}, train={"epochs": 3},
    )  # fmt: skip
    result = call("run", config, "--out", folder / "run", "-q")
    assert result.code == 0, result.err
    (folder / "run.out").write_text(result.out)
    return folder / "run"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a finished generation run."""
    folder = tmp_path_factory.mktemp("generated")
    write_pairs(folder / "pairs.jsonl")
    config = write_project(
        folder, task={"kind": "generation", "max_new_tokens": 12, "instruction": "Answer."},
        data={"train": "pairs.jsonl", "test_size": 12},
    )  # fmt: skip
    result = call("run", config, "--out", folder / "run", "-q")
    assert result.code == 0, result.err
    return folder / "run"
