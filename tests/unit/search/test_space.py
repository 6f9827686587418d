"""What is tried: the space from rules and files, and proposals that do not depend on interruptions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import Config, parse_config
from tunesmith.errors import ConfigError, MissingExtraError, NotFoundError
from tunesmith.search.space import Proposals, configured, default_space, in_options, own_setting, read_space, size

LOOP = {"learning_rate": 1e-3, "global_batch_size": 16, "warmup_ratio": 0.05, "weight_decay": 0.0}


def project(**changes: Any) -> Config:
    return parse_config({"task": "classification", "data": {"train": "x.csv"}} | changes)


def write(folder: Path, text: str) -> Path:
    file = folder / "space.yaml"
    file.write_text(text)
    return file


def test_the_rules_space_is_two_octaves_round_the_rate() -> None:
    space = default_space(project(), LOOP, 20)
    assert space["train.learning_rate"] == {"low": 2.5e-4, "high": 4e-3, "log": True}
    assert space["train.global_batch_size"] == [8, 16]  # no batch larger than the data
    assert own_setting(project(), LOOP, space) == {
        "train.learning_rate": 1e-3, "train.global_batch_size": 16, "train.warmup_ratio": 0.05, "method.rank": 16,
    }  # fmt: skip
    assert "method.rank" not in default_space(project(method="full"), LOOP, 20)


def test_a_file_gives_lists_and_ranges(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "train.learning_rate: {low: 1e-4, high: 1e-2, log: true}\nmethod.rank: [4, 8]\nmethod.dora: [true, false]",
    )
    assert read_space(file, project()) == {
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "method.rank": [4, 8], "method.dora": [True, False],
    }  # fmt: skip


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "train.learning_rte: [1, 2]\ntrain.epochs: [1, 2]\nmethod.rank: [8]\n"
        "train.weight_decay: {low: 0.1, high: 0.01}\nmethod.alpha: [16, -1]\ntrain.max_grad_norm: {low: a, high: b}",
    )
    with pytest.raises(ConfigError) as caught:
        read_space(file, project())
    for said in (
        "Did you mean 'train.learning_rate'", "set train.epochs in the project", "'method.rank': [8] is neither",
        "low < high", "greater than 0", "'a' is no number",
    ):  # fmt: skip
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match=r"Known: train.learning_rate, .*method.decay"):
        read_space(write(tmp_path, "alpha: [8, 16]"), project(method="gradual"))


@pytest.mark.parametrize("text", ["", "{}", "[]", "# nothing"])
def test_an_empty_space_is_refused_with_what_is_needed(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"empty\. Name at least one setting with two values"):
        read_space(write(tmp_path, text), project())
    with pytest.raises(NotFoundError):
        read_space(tmp_path / "nowhere.yaml", project())


def test_a_setting_becomes_a_project_and_options_that_give_it_again() -> None:
    from tunesmith.config import _apply

    config = project(method={"kind": "lora", "dropout": 0.1})
    setting = {"train.learning_rate": 0.00123, "method.rank": 8, "train.global_batch_size": 4}
    built = configured(config, setting)
    assert (built.train.learning_rate, built.method[0].rank, built.method[0].dropout) == (0.00123, 8, 0.1)
    raw: dict[str, Any] = {"task": "classification", "data": {"train": "x.csv"}}
    for option in in_options(config, setting)[1::2]:
        _apply(raw, option)
    assert parse_config(raw) == built


SPACE = {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "method.rank": [4, 8, 16]}


def worth(setting: dict[str, Any]) -> float:
    return abs(setting["train.learning_rate"] - 3e-3) + 0.0001 * setting["method.rank"]


def test_proposals_are_the_same_after_an_interruption(tmp_path: Path) -> None:
    own = {"train.learning_rate": 1e-3, "method.rank": 8}

    def search(storage: str, interrupted: bool) -> list[dict[str, Any]]:
        found = [own]
        study = Proposals(storage, SPACE, higher_is_better=False, seed=3)
        study.tell(0, own, worth(own))
        for number in range(1, 12):
            if interrupted and number in (5, 9):
                study.propose(number)  # killed before anything was kept of it
                study = Proposals(storage, SPACE, higher_is_better=False, seed=3)
                study.tell(number - 1, found[-1], worth(found[-1]))  # told again
            found.append(study.propose(number))
            study.tell(number, found[-1], worth(found[-1]))
        return found

    whole = search(f"sqlite:///{tmp_path}/a.db", False)
    assert search(f"sqlite:///{tmp_path}/b.db", True) == whole
    assert len({str(setting) for setting in whole}) == len(whole)
    study = Proposals(f"sqlite:///{tmp_path}/a.db", SPACE, higher_is_better=False, seed=3)
    share = study.importance()
    assert set(share) == set(SPACE) and sum(share.values()) == pytest.approx(1)
    assert share["train.learning_rate"] > share["method.rank"]


def test_small_spaces_are_gone_through_without_repeating() -> None:
    small = {"method.rank": [4, 8, 16], "method.dora": [True, False]}
    own = {"method.rank": 5, "method.dora": True}
    assert (size(small, own), size(small, own | {"method.rank": 4}), size(SPACE, own)) == (7, 6, sys.maxsize)
    study, taken = Proposals(None, small, higher_is_better=True, seed=0), [own]
    for number in range(1, 7):
        taken.append(study.propose(number, taken))
        study.tell(number, taken[-1], float(number))
    assert len({str(setting) for setting in taken}) == 7


def test_an_own_setting_outside_the_space_is_no_part_of_the_study() -> None:
    study = Proposals(None, SPACE, higher_is_better=True, seed=0)
    study.tell(0, {"train.learning_rate": 1.0, "method.rank": 5}, 1.0)
    assert study.importance() == {}
    assert study.propose(1)["method.rank"] in (4, 8, 16)


def test_without_optuna_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[search\]'"):
        Proposals(None, SPACE, higher_is_better=True, seed=0)
