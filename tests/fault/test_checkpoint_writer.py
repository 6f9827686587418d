"""The checkpoint writer stopped at each of its file operations: the old checkpoint or the new one is whole."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.train import checkpoint
from tunesmith.train.checkpoint import find_checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint
from tunesmith.train.optim import build_adamw

MOST = 60  # file operations tried; the writer must end before


class Crash(BaseException):
    """The process is gone: nothing that would clean up runs."""


def state(value: float) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    weights = {"w": torch.nn.Parameter(torch.full((3, 2), value)), "b": torch.nn.Parameter(torch.full((2,), value))}
    optimizer = build_adamw(weights, 0.0)
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the rate is 0, so weights keep their value and moments come into being
    return weights, optimizer


class Files:
    """Counts the writer's file operations, and fails at the n-th."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int, failure: Callable[[], BaseException]) -> None:
        self.seen, self.fail_at, self.failure, self.armed = 0, fail_at, failure, True
        for owner, name in (
            (os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text"),
            (shutil, "rmtree"), (checkpoint, "save_file"),
        ):  # fmt: skip
            patch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.armed:
                self.seen += 1
                if self.seen == self.fail_at:
                    self.armed = False
                    raise self.failure()
            return real(*arguments, **keywords)

        return call


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("failure", [Crash, no_space], ids=["crash", "disk full"])
def test_stopped_at_every_operation(tmp_path: Path, failure: Callable[[], BaseException]) -> None:
    completed = False
    outcomes = set()
    for n in range(1, MOST):
        folder = tmp_path / str(n)
        for step in (1, 2):
            save_checkpoint(folder, step, *state(float(step)), {"note": step})
        with pytest.MonkeyPatch.context() as patch:
            files = Files(patch, n, failure)
            try:
                save_checkpoint(folder, 3, *state(3.0), {"note": 3})
                prune_checkpoints(folder, 1)
                completed = files.armed
            except Crash:
                assert failure is Crash
            except (RunError, OSError) as error:
                assert failure is no_space
                assert error.args[0] == errno.ENOSPC or f"{folder / 'step-000003'}: the disk is full" in str(error)
        found, problems = find_checkpoint(folder)
        assert found is not None
        assert not problems  # nothing half-written stands under a checkpoint's name
        weights, optimizer = state(0.0)
        loaded = load_checkpoint(found, weights, optimizer)
        outcomes.add(loaded["step"])
        assert loaded["step"] == loaded["note"] in (2, 3)
        assert all(bool((p == float(loaded["step"])).all()) for p in weights.values())
        save_checkpoint(folder, 4, *state(4.0), {"note": 4})  # a later one is written, and leavings are swept
        assert not list(folder.glob(".tmp-*"))
        if completed:
            break
    gc.collect()  # folders whose listing the crash cut short are closed here, not in some later test
    assert completed
    assert n > 12
    assert outcomes == {2, 3}
