"""Two processes train what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("train_script.py")


def start(folder: Path, processes: int) -> None:
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, str(SCRIPT), str(folder)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    for processes in (1, 2):
        start(tmp_path / str(processes), processes)
    losses = [json.loads((tmp_path / str(n) / "losses.json").read_text()) for n in (1, 2)]
    assert len(losses[0]) == len(losses[1]) == 12
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-4)
    before = load_file(tmp_path / "1" / "start.safetensors")
    alone = load_file(tmp_path / "1" / "0.safetensors")
    for rank in (0, 1):  # both hold the best weights at the end
        found = load_file(tmp_path / "2" / f"{rank}.safetensors")
        apart = sum(float((found[n] - alone[n]).double().square().sum()) for n in alone) ** 0.5
        moved = sum(float((alone[n] - before[n]).double().square().sum()) for n in alone) ** 0.5
        assert moved > 0
        assert apart < 1e-3 * moved
