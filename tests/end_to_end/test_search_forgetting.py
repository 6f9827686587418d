"""tunesmith search forgetting: the same splits for all, shared trainings, resumed, sealed test; front and knee."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from end_to_end.projects import call, read_strictly, write_project
from end_to_end.test_remedies_run import write_chats
from tunesmith.config import parse_config
from tunesmith.errors import ConfigError
from tunesmith.report.search import reason, render_search
from tunesmith.run import Run, read_examples
from tunesmith.search.forgetting import judge, search_forgetting
from tunesmith.search.variants import build_variants, default_names
from tunesmith.workflow import silent

NAMES = "none,rate=2,full,replay=0.1+kl=1,scale=0.5,replay=0.1+kl=1+scale"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_chats(folder / "chats.jsonl", 120)
    config = write_project(
        folder, candidates=["tune"], train={"epochs": 1}, remedies={"replay": 0.1, "replay_from": "chats.jsonl"}
    )
    result = call("search", "forgetting", config, "--out", folder / "search", "--remedies", NAMES, "-q")
    assert result.code == 0, result.err
    (folder / "out.txt").write_text(result.out)
    return folder


def test_each_variant_is_a_run_with_the_same_splits_and_a_sealed_test(searched: Path) -> None:
    report = read_strictly(searched / "search" / "search.json")
    rows = report["variants"]
    assert [row["name"] for row in rows] == ["base", *NAMES.split(",")]
    splits = []
    for row in rows[1:]:
        run = Run.open(searched / "search" / row["folder"])
        splits.append([[e.id for e in read_examples(run.split(part))] for part in ("train", "validation", "test")])
        assert run.test_looks() == 0
        assert row["quality"]["n"] == len(splits[0][1]) == row["gained"]["n"]
        assert row["kl_to_base"]["value"] > 0
        assert not list(run.folder.glob("candidates/*/predictions.parquet"))
    assert all(other == splits[0] for other in splits)
    assert rows[2]["learning_rate"] == pytest.approx(2 * rows[1]["learning_rate"])
    assert report["knee"] in (searched / "out.txt").read_text()


def test_a_variant_that_differs_in_scale_only_takes_the_training_there_is(searched: Path) -> None:
    curves = {}
    for name in ("none", "scale-0.5"):
        (folder,) = (searched / "search" / name / "candidates").iterdir()
        curves[name] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert curves["none"] == curves["scale-0.5"]  # to the second: it was not trained again
    rows = {row["name"]: row for row in read_strictly(searched / "search" / "search.json")["variants"]}
    assert rows["scale=0.5"]["kl_to_base"]["value"] < rows["none"]["kl_to_base"]["value"]
    assert len(rows["replay=0.1+kl=1+scale"]["scales"]) == 5
    assert not list((searched / "search").glob("*/candidates/*/checkpoints"))  # nothing goes on from them


def test_again_it_goes_on_and_shows_the_same(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith import workflow

    before = read_strictly(searched / "search" / "search.json")
    monkeypatch.setattr(workflow, "train_candidate", lambda *_: pytest.fail("trained again"))
    result = call(
        "search", "forgetting", searched / "project.yaml", "--out", searched / "search", "--remedies", NAMES, "--json",
        "--exchange", "1000",
    )  # fmt: skip
    assert result.code == 0, result.err
    again = json.loads(result.out)
    assert [row["quality"] for row in again["variants"]] == [row["quality"] for row in before["variants"]]
    least = min(again["variants"], key=lambda row: (row[again["axis"]]["value"], -row["quality"]["value"]))
    assert again["knee"] == least["name"]


def test_without_time_no_further_variant_is_begun(tmp_path: Path) -> None:
    from tunesmith.config import read_config

    config = read_config(write_project(tmp_path, candidates=["tune"], train={"epochs": 1}))
    found = search_forgetting(config, tmp_path / "s", silent, names=("none", "full"), minutes=1e-6)
    assert [row["status"] for row in found["variants"]] == ["ok", "not_run", "not_run"]
    assert "minutes of the search" in found["variants"][1]["reason"]
    assert "not run" in render_search(found)


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────────────
def row(name: str, quality: float, loss: float | None, kl: float = 0.1, half: float = 0.001) -> dict[str, Any]:
    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half, "n": 100}

    known = interval(loss) if loss is not None else {"status": "not_run", "reason": "no network"}
    return {"name": name, "folder": name, "status": "ok", "quality": interval(quality), "loss": known,
            "gained": {"difference": quality - 0.5, "low": 0.0, "high": 1.0, "n": 100},
            "kl_to_base": interval(kl), "train_seconds": 1.0, "method": "lora"}  # fmt: skip


ROWS = [row("base", 0.5, 0.0), row("a", 0.8, 0.1), row("b", 0.9, 1.0), row("worse", 0.79, 0.2), row("c", 0.75, 0.01)]


@pytest.mark.parametrize(("exchange", "knee"), [(0.01, "b"), (0.2, "a"), (1.0, "c"), (100.0, "base")])
def test_the_knee_is_best_at_the_exchange_rate(exchange: float, knee: str) -> None:
    found = judge(ROWS, "accuracy", exchange)
    assert found["front"] == ["base", "c", "a", "b"]
    assert (found["axis"], found["knee"], found["not_told_apart"]) == ("loss", knee, [])


def test_what_the_intervals_do_not_tell_apart_is_said() -> None:
    found = judge([row("a", 0.8, 0.1, half=0.03), row("b", 0.77, 0.1, half=0.03)], "accuracy", 0.2)
    assert (found["knee"], found["not_told_apart"]) == ("a", ["b"])
    report = found | {"task": {"metric": "accuracy"}, "exchange": 0.2}
    assert "Not told apart from it at this rate: b." in reason(report)


def test_lower_is_better_is_turned_and_missing_general_text_gives_way_to_divergence() -> None:
    rows = [row("base", 0.5, 0.0, 0.0), row("a", 0.3, None, 0.2)]
    found = judge(rows, "mae", 0.1)
    assert (found["axis"], found["knee"], found["front"]) == ("kl_to_base", "a", ["base", "a"])
    assert judge([{"name": "a", "status": "failed"}], "accuracy", 1.0)["knee"] is None


def test_nothing_is_recommended_where_nothing_was_trained_or_no_rate_is_known() -> None:
    alone = judge([row("base", 0.5, 0.0), {"name": "a", "status": "not_run"}], "accuracy", 0.2)
    assert alone["knee"] is None
    assert "Nothing was trained" in reason(alone | {"task": {"metric": "accuracy"}, "exchange": 0.2})
    rows = [row("base", 0.5, 0.0, 0.0), row("a", 0.95, None, 3.3)]
    unknown = judge(rows, "accuracy", 0.2, of_text=True)
    assert unknown["knee"] is None
    assert "Give --exchange" in reason(unknown | {"task": {"metric": "accuracy"}, "exchange": 0.2})


def test_the_project_is_told_only_what_a_single_scale_leaves_to_say() -> None:
    from tunesmith.cli.search import _settings

    remedies = {"scale": [0.7], "exchange": 2.0, "replay_from": "texts.jsonl"}
    found = _settings(
        {"name": "lora+scale+seed=1", "method": "lora", "remedies": remedies, "learning_rate": 0.001},
        {"settings": {"method": [{"kind": "lora"}]}},
    )
    assert found == ["--set", "seed=1", "--set", 'remedies={"scale": [0.7]}']


def test_tasks_without_written_answers_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    config = write_project(tmp_path, task={"kind": "classification", "by": "head"}, candidates=["tune"])
    result = call("search", "forgetting", config, "--out", tmp_path / "search", "-q")
    assert result.code == 3
    assert "not a head" in result.err


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────
def project(**changes: Any) -> Any:
    return parse_config({"task": "classification", "data": {"train": "x.csv"}, "method": "full"} | changes)


def test_names_become_projects() -> None:
    config = project(remedies={"l2_sp": 1}, train={"learning_rate": 0.1})
    names = ("none", "project", "lora+rate=0.5+scale=auto", "replay+averaging=0.2+seed=3")
    built = build_variants(config, names, lambda c: 0.4 if c.method[0].kind == "lora" else 9.0)
    assert built["none"].remedies == project().remedies
    assert built["project"].remedies == config.remedies
    lora, replay = built["lora+rate=0.5+scale=auto"], built["replay+averaging=0.2+seed=3"]
    assert (lora.method[0].kind, lora.train.learning_rate, len(lora.remedies.scale)) == ("lora", 0.2, 5)
    assert (replay.seed, replay.remedies.replay, replay.remedies.averaging) == (3, 0.03, 0.2)
    assert replay.train.learning_rate == 0.1
    assert default_names(config)[0] == "project" and "lora" in default_names(config)
    assert "lora" not in default_names(project(method="lora"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("replai=0.1", "Did you mean 'replay'"), ("full=2", "takes no value"), ("kl=much", "'much' is no number"),
     ("qlora+ewc", "not with qlora"), ("replay=7", "less than or equal to 1")],
)  # fmt: skip
def test_names_that_mean_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_variants(project(), (name, "none"), lambda c: 1.0)
