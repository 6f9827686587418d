"""Two tasks learned one after another, from a project file to the report."""

from __future__ import annotations

import hashlib
import html
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from end_to_end.projects import TINY, read_strictly, write_labelled
from tunesmith.candidates import tuned
from tunesmith.cli.models import command as models
from tunesmith.config import Stages, read_any_config
from tunesmith.errors import ConfigError, ModelError, NotFoundError
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.retention import recovery
from tunesmith.measures.retention import average_accuracy, average_forgetting, backward_transfer, forward_transfer
from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.forward import head_logits, hidden_states
from tunesmith.model.load import load_model
from tunesmith.model.merge import export_merged, merge_adapter
from tunesmith.model.score import score_continuations
from tunesmith.run import Run, read_examples, read_predictions
from tunesmith.schedules.stages import run_stages, stage_answers, task_configs
from tunesmith.workflow import silent

ROWS = [("base", "prompt/zero-shot"), ("mood", "after/1-mood"), ("count", "after/2-count")]
PLACES = {"mood": "stages/1-mood", "count": "stages/2-count"}
MEASURES = {
    "average_accuracy": average_accuracy, "backward_transfer": backward_transfer,
    "average_forgetting": average_forgetting,
}  # fmt: skip


def write_counts(path: Path, n: int = 60) -> Path:
    """Texts whose label is the number they name; none of the labels of ``write_labelled``."""
    rng = random.Random(1)
    lines = [f"{rng.choice(['call', 'send', 'get'])} {('one', 'two')[i % 2]} things {i}" for i in range(n)]
    labelled = [f"{line},{('single', 'double')[i % 2]}" for i, line in enumerate(lines)]
    path.write_text("text,label\n" + "\n".join(labelled) + "\n")
    return path


def project(folder: Path, second: dict[str, Any] | None = None, **changes: Any) -> Stages:
    folder.mkdir(parents=True, exist_ok=True)
    write_labelled(folder / "mood.csv", 80)
    write_counts(folder / "count.csv")
    data = {name: {"train": f"{name}.csv", "test_size": 12, "validation_size": 8} for name in ("mood", "count")}
    made: dict[str, Any] = {
        "model": str(TINY), "method": {"kind": "lora", "rank": 4}, "forgetting": "off", "candidates": ["baseline"],
        "stages": [
            {"name": "mood", "task": "classification", "data": data["mood"]},
            {"name": "count", "task": "classification", "data": data["count"], "replay": 0.2} | (second or {}),
        ],
        "train": {"epochs": 3, "learning_rate": 0.02, "global_batch_size": 8},
    }  # fmt: skip
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(made | changes, sort_keys=False))
    config = read_any_config(path)
    assert isinstance(config, Stages)
    return config


def run(config: Stages, folder: Path, listener: Any = silent) -> dict[str, Any]:
    return run_stages(config, folder, listener, "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, known_speed: None) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    run(project(folder), folder / "run")
    return folder / "run"


def answers(run_folder: Path, task: str, candidate: str) -> list[Any]:
    place = run_folder / PLACES[task] / "candidates" / candidate.replace("/", "__")
    return read_predictions(place / "predictions.parquet")


def outcome(run_folder: Path) -> dict[str, Any]:
    """What must not depend on whether a run was stopped."""
    found: dict[str, Any] = {
        str(file.relative_to(run_folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run_folder.glob("candidates/*/adapter/adapter_model.safetensors"))
    }
    for task in PLACES:
        for _, candidate in [*ROWS, ("", "joint/lora")]:
            said = [
                (p.example_id, p.prediction, p.target, p.nll, p.probabilities)
                for p in answers(run_folder, task, candidate)
            ]
            found[f"{task} {candidate}"] = said
    return found


def test_the_matrix_is_complete_and_that_of_the_stored_predictions(finished: Path) -> None:
    report = read_strictly(finished / "report.json")
    assert report["schedule"] == "stages"
    held = report["retention"]
    assert [(row["after"], row["candidate"]) for row in held["matrix"]] == ROWS
    scores = np.zeros((3, 2))
    for i, row in enumerate(held["matrix"]):
        for j, task in enumerate(PLACES):
            stored = answers(finished, task, row["candidate"])
            test = read_examples(Run(finished / PLACES[task]).split("test"))
            assert [p.example_id for p in stored] == [e.id for e in test]
            scores[i, j] = np.mean([p.prediction == p.target for p in stored])
            assert row["cells"][task]["value"] == pytest.approx(scores[i, j])
            assert row["cells"][task]["low"] <= scores[i, j] <= row["cells"][task]["high"]
            assert row["cells"][task]["n"] == 12
    for name, measure in MEASURES.items():
        assert held[name]["value"] == pytest.approx(float(measure(scores[1:]))), name
    assert held["forward_transfer"]["value"] == pytest.approx(float(forward_transfer(scores[1:], scores[0])))
    assert scores[1, 0] > scores[0, 0] + 0.2  # the first stage learned its task


def test_joint_training_stands_beside_the_stages(finished: Path) -> None:
    report = read_strictly(finished / "report.json")
    assert report["joint"]["status"] == "ok"
    for task in PLACES:
        pair = [answers(finished, task, c) for c in ("after/2-count", "joint/lora")]
        again = compare(pair[0], pair[1], "accuracy", np.random.default_rng([0, 11])).to_json()
        found = report["joint"]["differences"][task]
        assert {k: found[k] for k in again if k != "adjusted_p_value"} == {
            k: again[k] for k in again if k != "adjusted_p_value"
        }
        assert found["adjusted_p_value"] >= found["p_value"]
    sizes = json.loads((finished / "candidates" / "joint__lora" / "fit.json").read_text())["train"]
    assert sizes == {"mood": 60, "count": 40}


def test_what_each_stage_came_from_and_was_shown_again(finished: Path) -> None:
    first, second = read_strictly(finished / "report.json")["stages"]
    assert (first["start"], first["replayed"], first["lineage"]["adapter"]) == ("base", {}, None)
    assert second["start"] == "continue"
    assert second["lineage"]["stage"] == "mood"
    adapter = finished / "candidates" / "stage__1-mood__lora" / "adapter" / "adapter_model.safetensors"
    assert hashlib.sha256(adapter.read_bytes()).hexdigest().startswith(second["lineage"]["adapter_sha256"])
    assert second["train"] == {"count": 40}
    assert second["replayed"] == {"replay of mood": 8}  # a fifth of 40
    assert second["tokens_trained"] > 0
    origin = json.loads((finished / "candidates" / "stage__2-count__lora" / "adapter" / "tunesmith.json").read_text())
    assert origin["parts"] == [{"name": "count", "train": 40}, {"name": "replay of mood", "train": 8}]
    lines = (finished / "candidates" / "stage__2-count__lora" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["steps"] == 3 * 6  # 48 examples, 8 a step, 3 epochs


def test_the_pages(finished: Path) -> None:
    page = html.unescape((finished / "report.html").read_text())
    report = read_strictly(finished / "report.json")
    assert report["verdict"]["reason"] in page
    for task, folder in PLACES.items():
        assert f'href="{folder}/report.html"' in page
        own = (finished / folder / "report.html").read_text()
        for _, candidate in ROWS:
            assert candidate in own
        candidates = read_strictly(finished / folder / "report.json")["candidates"]
        assert [c["status"] for c in candidates] == ["ok"] * len(candidates)
        assert not any(c["id"].startswith("tune/") for c in candidates), task
        costs = {c["id"]: c["train_seconds"] for c in candidates}
        assert costs["after/2-count"] > costs["after/1-mood"]  # the stages before are part of a stage's cost
    assert "<script" not in page
    assert read_strictly(finished / "stages/1-mood/report.json")["test_looks"] == 1


def test_stopped_in_the_second_stage_it_goes_on_there(finished: Path, tmp_path: Path) -> None:
    config = project(tmp_path)

    def stop(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
        if stage == "stage/2-count/lora: training" and done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", stop)
    kept = [
        *tmp_path.glob("run/candidates/stage__1-mood__lora/adapter/*.safetensors"),
        *tmp_path.glob("run/stages/*/candidates/after__1-mood/evaluation.json"),
    ]
    assert len(kept) == 3
    before = {path: path.stat().st_mtime_ns for path in kept}
    said: list[tuple[str, float]] = []
    run(config, tmp_path / "run", lambda stage, done, *_: said.append((stage, done)))
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    stages = [stage for stage, _ in said]
    assert not any(stage.startswith("stage/1-mood") for stage in stages)
    steps = [done for stage, done in said if stage == "stage/2-count/lora: training"]
    assert 1 < min(steps) <= 11 and max(steps) == 18  # from its checkpoint
    assert outcome(tmp_path / "run") == outcome(finished)

    said.clear()
    report = run(config, tmp_path / "run", lambda stage, done, *_: said.append((stage, done)))
    assert {stage for stage, _ in said if not stage.startswith("plan")} == {"report"}
    assert report["retention"] == read_strictly(finished / "report.json")["retention"]


@pytest.mark.parametrize("variant", [{"dora": True}, {"rank_stabilised": True, "alpha": 8}])
def test_a_stage_starts_with_the_predictions_that_the_one_before_ended_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: dict[str, Any]
) -> None:
    pack = build_pack([], [[Segment(list(range(5, 25)))]])
    continued = tuned.continue_adapter
    compared: list[tuple[torch.Tensor, ...]] = []

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return head_logits(model, hidden_states(model.eval(), pack))

    def compare_logits(attached: Any, folder: Path) -> None:
        new = logits(attached.model)
        continued(attached, folder)
        compared.append((new, logits(attached.model), logits(load_model(str(folder)).model)))

    monkeypatch.setattr(tuned, "continue_adapter", compare_logits)
    method = {"kind": "lora", "rank": 4, **variant}
    run(project(tmp_path, method=method, joint=False, candidates=["tune"]), tmp_path / "run")
    ((new, begun, ended),) = compared
    assert (ended - new).abs().max() > 0.1
    torch.testing.assert_close(begun, ended, atol=1e-5, rtol=0)


def test_what_starts_at_the_largest_directions_cannot_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.model.load.load_model", lambda *_: pytest.fail("weights were loaded"))
    config = project(tmp_path, method={"kind": "lora", "rank": 4, "init": "pissa"}, candidates=["tune"])
    with pytest.raises(ConfigError, match=r"stages\.count\.start: continue, but .* twice its rank\. Set .* merge"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "candidates").exists()


def test_a_merged_model_says_what_its_adapter_said(finished: Path, tmp_path: Path) -> None:
    adapter = finished / "candidates" / "stage__1-mood__lora" / "adapter"
    merge_adapter(adapter, str(TINY), tmp_path / "merged")
    ids = torch.randint(3, 384, (21,), generator=torch.Generator().manual_seed(0)).tolist()
    base, adapted, merged = (
        torch.tensor(score_continuations(load_model(str(name)), [ids[:1]], [[ids[1:]]])[0][0])
        for name in (TINY, adapter, tmp_path / "merged")
    )
    assert (adapted - base).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_merged_by_a_command_that_proves_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = finished / "candidates" / "stage__1-mood__lora"
    told = CliRunner().invoke(models, ["merge", str(candidate), "--out", str(tmp_path / "merged"), "--json"])
    assert told.exit_code == 0, told.output
    assert 0 <= json.loads(told.stdout)["largest_difference_nats"] < 1e-3
    assert load_model(str(tmp_path / "merged")).origin["merged"] == "stage/1-mood/lora"

    with pytest.raises(ModelError, match="not empty"):
        export_merged(candidate / "adapter", tmp_path / "merged")
    with pytest.raises(NotFoundError, match="no adapter"):
        export_merged(TINY, tmp_path / "other")
    monkeypatch.setattr("tunesmith.model.merge.merge_adapter", lambda *_: shutil.copytree(TINY, tmp_path / "base"))
    with pytest.raises(ModelError, match="differs from its adapter"):
        export_merged(candidate / "adapter", tmp_path / "base")


def test_a_merged_stage_of_two_tasks_with_texts_of_the_base(tmp_path: Path) -> None:
    few = {"test_size": 8, "validation_size": 2}
    tasks = {
        "count": {"kind": "classification", "weight": 3, "data": few | {"train": "count.csv"}},
        "again": {"kind": "classification", "weight": 1, "data": few | {"train": "mood.csv"}},
    }
    second = {"task": None, "data": None, "tasks": tasks, "start": "merge", "replay": 0.03, "replay_from": "base"}
    config = project(tmp_path, second | {"method": {"kind": "lora", "rank": 2}}, joint=False, candidates=["tune"])
    assert list(task_configs(config)) == ["mood", "count/count", "count/again"]
    report = run(config, tmp_path / "run")
    stage = report["stages"][1]
    assert stage["start"] == "merge"
    merged = tmp_path / "run" / "candidates" / "stage__1-mood__lora" / "merged"
    assert stage["lineage"]["model"] == str(merged)
    origin = json.loads((merged.parents[1] / "stage__2-count__lora" / "adapter" / "tunesmith.json").read_text())
    assert origin["base_model"] == str(merged)
    texts = read_examples(tmp_path / "run" / "replay" / "count.parquet")
    wanted = round(0.03 * sum(stage["train"].values()))
    assert len(texts) == sum(stage["replayed"].values()) <= wanted
    assert all([m.role for m in e.messages] == ["user", "assistant"] for e in texts)
    # mood and again are one file, split in two ways
    assert "overlap_between_stages" in {finding["check"] for finding in report["findings"]}
    assert ("replay" in {finding["check"] for finding in report["findings"]}) == (len(texts) < wanted)
    assert set(report["retention"]["metric"]) == {"mood", "count/count", "count/again"}
    last = report["retention"]["matrix"][-1]["cells"]
    pooled = stage_answers(tmp_path / "run")
    assert [task.name for task in pooled] == ["mood", "count"]
    expected = (last["mood"]["value"] + (last["count/count"]["value"] + last["count/again"]["value"]) / 2) / 2
    assert report["retention"]["average_accuracy"]["value"] == pytest.approx(expected)
    assert report["joint"] is None


def test_what_replay_kept_is_computed_from_two_runs(finished: Path) -> None:
    same = [stage_answers(finished), stage_answers(finished)]
    found = recovery(same[0], same[1], np.random.default_rng(0), 200)
    assert (found.kept.value, found.last_task.value) == (0.0, 0.0)
    held = read_strictly(finished / "report.json")["retention"]
    assert found.forgotten.value == pytest.approx(held["average_forgetting"]["value"])


def test_every_problem_of_every_stage_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("tunesmith.model.load.load_model", refuse)
    config = project(tmp_path, {"method": {"kind": "lora", "rank": 8, "target_modules": ["q_prog"]}})
    third = {
        "name": "headed", "task": {"kind": "classification", "by": "head"}, "data": {"train": "missing.csv"},
        "method": "full",
    }  # fmt: skip
    fourth = {"name": "fourth", "task": {"kind": "classification", "by": "head"}, "data": {"train": "mood.csv"}}
    raw = yaml.safe_load((tmp_path / "project.yaml").read_text())
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(raw | {"stages": [*raw["stages"], third, fourth]}))
    config = read_any_config(tmp_path / "project.yaml")
    assert isinstance(config, Stages)
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run")
    said = str(error.value)
    assert "stages.count: method.target_modules: the model has no layer 'q_prog'. It has" in said
    assert (
        "stages.count.start: continue, but its method (lora) is not that of stage mood (lora; differing: rank" in said
    )
    assert "stages.headed: missing.csv: no such file" in said
    assert "stages.headed.start: continue, but its method (full) is not that of stage count (lora" in said
    assert "stages.fourth: a classification head has the labels of one task" in said
    assert not (tmp_path / "run" / "candidates").exists()
