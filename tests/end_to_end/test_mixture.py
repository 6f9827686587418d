"""Several tasks in one model, from a project file to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from end_to_end.projects import TINY, call, read_strictly, write_labelled, write_pairs
from tunesmith.config import parse_any_config
from tunesmith.evaluate.compare import compare
from tunesmith.run import read_predictions

MULTI, ALONE = "multi/tiny_llama/lora", "tune/tiny_llama/lora"


def project(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_labelled(folder / "mood.csv", 80)
    write_pairs(folder / "say.jsonl", 60)
    made: dict[str, Any] = {
        "model": str(TINY), "method": {"kind": "lora", "rank": 4}, "forgetting": "off",
        "candidates": ["baseline", "prompt", "tune"],
        "tasks": {
            "mood": {"kind": "classification", "data": {"train": "mood.csv"}},
            "say": {"kind": "generation", "max_new_tokens": 4, "data": {"train": "say.jsonl"}},
        },
        "train": {"epochs": 2, "learning_rate": 0.01, "global_batch_size": 8},
    }  # fmt: skip
    config = folder / "project.yaml"
    config.write_text(yaml.safe_dump(made | changes))
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    code, _, err = call("run", str(project(folder)), "--out", str(folder / "run"), "-q")
    assert code == 0, err
    return folder / "run"


def test_every_task_is_judged_alone_and_together(finished: Path) -> None:
    report = read_strictly(finished / "report.json")
    assert report["schedule"] == "mixture"
    assert set(report["tasks"]) == {"mood", "say"}
    assert sum(report["rates"].values()) == pytest.approx(1)
    for name, task in report["tasks"].items():
        assert {"prompt/zero-shot", ALONE, MULTI} <= set(task["metrics"])
        own = finished / "tasks" / name
        assert (own / "report.html").is_file()
        assert [c["b"] for c in task["comparisons"]] == [ALONE, "prompt/zero-shot"]
        answers = [
            read_predictions(own / "candidates" / c.replace("/", "__") / "predictions.parquet") for c in (MULTI, ALONE)
        ]
        again = compare(answers[0], answers[1], task["metric"], np.random.default_rng(0)).to_json()
        for key in ("difference", "low", "high", "p_value", "n"):
            assert task["comparisons"][0][key] == pytest.approx(again[key])
    both = [c["adjusted_p_value"] >= c["p_value"] for task in report["tasks"].values() for c in task["comparisons"]]
    assert all(both)


def test_memorised_data_is_measured_of_one_task_alone(finished: Path) -> None:
    for name in ("mood", "say"):
        candidates = {c["id"]: c for c in read_strictly(finished / "tasks" / name / "report.json")["candidates"]}
        assert candidates[MULTI]["memorization"]["status"] == "not_run"
        assert "drawn" in candidates[MULTI]["memorization"]["reason"]
        assert "drawn" not in candidates[ALONE]["memorization"].get("reason", "")


def test_a_model_of_several_tasks_is_evaluated_on_the_one_that_is_named(finished: Path, tmp_path: Path) -> None:
    model = finished / "candidates" / MULTI.replace("/", "__") / "adapter"
    data = finished.parent / "mood.csv"
    code, out, err = call("evaluate", model, data, "-q")
    assert (code, out) == (3, "")
    assert "several tasks (mood, say)" in err and "--config" in err
    one = tmp_path / "mood.yaml"
    one.write_text(yaml.safe_dump({"task": "classification", "data": {"train": str(data)}}))
    code, out, err = call("evaluate", model, data, "--config", one, "--json", "-q")
    assert code == 0, err
    assert json.loads(out)["metrics"]["accuracy"]["n"] == 80


def test_the_loss_of_each_task_is_followed_and_their_gradients_compared(finished: Path) -> None:
    folder = finished / "candidates" / MULTI.replace("/", "__")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    watched = [line["validation_losses"] for line in lines if line["validation_loss"] is not None]
    assert watched and all(set(losses) == {"mood", "say"} for losses in watched)
    assert watched[-1]["mood"] < watched[0]["mood"]
    found = read_strictly(finished / "report.json")["gradients"]["lora"]
    cosines = np.array(found["cosines"])
    assert found["tasks"] == ["mood", "say"]
    assert np.diag(cosines) == pytest.approx([1, 1])
    assert cosines[0, 1] == pytest.approx(cosines[1, 0])
    assert abs(cosines).max() <= 1


def test_the_page_shows_both_and_runs_no_script(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "tasks/mood/report.html" in page and "tasks/say/report.html" in page
    assert "<script" not in page
    assert "together − alone" in page


def test_run_again_it_keeps_what_is_there(finished: Path) -> None:
    before = read_strictly(finished / "report.json")
    stamps = {p: p.stat().st_mtime_ns for p in finished.rglob("predictions.parquet")}
    assert len(stamps) == 10  # majority, zero-shot, few-shot, alone and together, for each task
    code, out, err = call("run", str(finished.parent / "project.yaml"), "--out", str(finished), "-q")
    assert code == 0, err
    assert "together" in out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("predictions.parquet")} == stamps
    assert read_strictly(finished / "report.json")["tasks"] == before["tasks"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": {"a": {"kind": "classification", "data": {"train": "mood.csv"}, "weight": 1},
                    "b": {"kind": "generation", "data": {"train": "say.jsonl"}}}}, "'b'"),
        ({"tasks": {"A b": {"kind": "generation", "data": {"train": "say.jsonl"}},
                    "b": {"kind": "generation", "data": {"train": "say.jsonl"}}}}, "A b"),
        ({"tasks": {"a": {"kind": "classification", "data": {"train": "no.csv"}},
                    "b": {"kind": "generation", "data": {"train": "nor.jsonl"}}}}, "nor.jsonl"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused_at_once(tmp_path: Path, changes: Any, said: str) -> None:
    code, _, err = call("run", str(project(tmp_path, **changes)), "--out", str(tmp_path / "run"), "-q")
    assert code in (3, 4)
    assert said in err
    assert not list((tmp_path / "run").rglob("checkpoints"))


def test_two_tasks_with_one_name_are_refused(tmp_path: Path) -> None:
    config = project(tmp_path)
    text = config.read_text()
    config.write_text(text.replace("  say:\n", "  mood:\n"))
    code, _, err = call("run", str(config), "--out", str(tmp_path / "run"), "-q")
    assert code == 3
    assert "'mood' stands twice" in err


def test_a_mixture_is_told_from_one_task() -> None:
    one = {"kind": "generation", "data": {"train": "x"}}
    assert type(parse_any_config({"tasks": {"a": one, "b": one}})).__name__ == "Mixture"
    assert type(parse_any_config({"task": "generation", "data": {"train": "x"}})).__name__ == "Config"
