from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.train.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_weights,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from tunesmith.train.optim import build_adamw


def state(value: float = 1.0) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    weights = {"w": torch.nn.Parameter(torch.full((2, 3), value)), "b": torch.nn.Parameter(torch.zeros(3))}
    optimizer = build_adamw(weights, 0.0)
    for parameter in weights.values():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    return weights, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    weights, optimizer = state(3.0)
    save_checkpoint(tmp_path, 7, weights, optimizer, {"tokens": 12})
    expected = torch.rand(4)
    others, other = state(0.0)
    found, problems = find_checkpoint(tmp_path)
    assert found is not None and problems == []
    assert load_checkpoint(found, others, other) == {"step": 7, "tokens": 12}
    assert torch.equal(torch.rand(4), expected)  # the random state too
    for name, parameter in weights.items():
        assert torch.equal(others[name], parameter)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(other.state[others[name]][key], optimizer.state[parameter][key])


def test_the_best_and_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in range(6):
        save_checkpoint(tmp_path, step, *state(), {})
    prune_checkpoints(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000004", "step-000005"]


def test_weights_that_are_tied_are_stored_once(tmp_path: Path) -> None:
    shared = torch.nn.Parameter(torch.ones(2, 2))
    tied = {"embed": shared, "head": shared}
    folder = save_checkpoint(tmp_path, 1, tied, build_adamw({"embed": shared}, 0.0), {})
    with torch.no_grad():
        shared.zero_()
    load_weights(folder, tied)
    assert torch.equal(shared, torch.ones(2, 2))


def test_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, *state(), {})
    with pytest.raises(RunError, match="another model or method"):
        load_weights(folder, {"w": torch.nn.Parameter(torch.zeros(2, 3))})
    with pytest.raises(RunError, match="another shape"):
        load_weights(folder, {"w": torch.nn.Parameter(torch.zeros(2, 2)), "b": torch.nn.Parameter(torch.zeros(3))})


@pytest.mark.parametrize(
    "manifest",
    [
        "", "[]", "{}", '{"files": {"nothing": "0"}}',
        '{"files": 3}', '{"files": {}}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_damage_not_a_crash(tmp_path: Path, manifest: str) -> None:
    folder = save_checkpoint(tmp_path, 1, *state(), {})
    assert verify_checkpoint(folder) is None
    (folder / "manifest.json").write_text(manifest)
    assert verify_checkpoint(folder)
    found, problems = find_checkpoint(tmp_path)
    assert found is None
    assert "step-000001 is damaged" in problems[0]


def test_nothing_there(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "none") == (None, [])


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, *state(), {})
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {path.name for path in folder.iterdir()} - {"manifest.json"}
