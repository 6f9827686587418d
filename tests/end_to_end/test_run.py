"""From a file of examples to a report, through the command line."""

from __future__ import annotations

import html
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tunesmith
from end_to_end.projects import TINY, build_encoder, call, read_strictly, sentences, settings, write_project
from tunesmith.measures.metrics import token_f1

LORA, FULL = "tune/tiny_llama/lora", "tune/tiny_llama/full"
INTERVAL = {"value", "low", "high", "n"}


def stored(run: Path, candidate: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        run / "candidates" / candidate.replace("/", "__") / "predictions.parquet"
    ).to_pylist()
    return rows


def finite_files(run: Path) -> list[Path]:
    return [*run.glob("*.json"), *run.glob("candidates/*/evaluation.json")]


def test_report_json_keeps_to_its_contract(classified: Path) -> None:
    report = read_strictly(classified / "report.json")
    assert report["format_version"] == 1
    assert report["task"] == {"kind": "classification", "metric": "accuracy"}
    assert report["data"]["train"] + report["data"]["validation"] + report["data"]["test"] == 160
    assert report["data"]["test"] == 30
    assert [c["id"] for c in report["candidates"]] == [
        "baseline/majority", "prompt/zero-shot", "prompt/few-shot", "prompt/nearest",
        next(c["id"] for c in report["candidates"] if c["id"].startswith("embedding/")), LORA, FULL,
    ]  # fmt: skip
    for candidate in report["candidates"]:
        assert candidate["status"] == "ok"
        assert set(candidate["metrics"]) == {"accuracy", "macro_f1"}
        for value in candidate["metrics"].values():
            assert set(value) == INTERVAL
            assert value["low"] <= value["value"] <= value["high"]
        for key in ("trainable_parameters", "train_seconds", "tokens_trained", "seconds_per_example"):
            assert candidate[key] >= 0
        assert candidate["peak_memory_bytes"] > 0
        assert candidate["bias"]["status"] == candidate["memorization"]["status"] == "not_run"
        assert candidate["bias"]["reason"]
    tuned = report["candidates"][-2]
    assert not tuned["baseline"]
    needed = {"train_loss", "validation_loss", "gap", "low", "high", "best_step", "last_step", "verdict"}
    assert needed <= set(tuned["overfitting"])
    assert tuned["forgetting"]["status"] == "not_run"
    for comparison in report["comparisons"]:
        wanted = {"a", "b", "metric", "difference", "low", "high", "p_value", "n", "minimum_detectable_effect"}
        assert wanted <= set(comparison)
    assert {"choice", "confident", "reason", "would_change"} <= set(report["verdict"])
    assert report["test_looks"] == 1


def test_every_json_is_free_of_nan(classified: Path, generated: Path) -> None:
    files = finite_files(classified) + finite_files(generated)
    assert len(files) > 10
    for file in files:
        read_strictly(file)


def test_the_numbers_are_those_of_the_stored_predictions(classified: Path) -> None:
    report = read_strictly(classified / "report.json")
    test = pq.read_table(classified / "splits" / "test.parquet").to_pylist()
    for candidate in report["candidates"]:
        rows = stored(classified, candidate["id"])
        assert [row["example_id"] for row in rows] == [row["id"] for row in test]
        assert [row["target"] for row in rows] == [row["label"] for row in test]
        right = sum(row["prediction"] == row["target"] for row in rows)
        assert candidate["metrics"]["accuracy"]["value"] == pytest.approx(right / 30)
        assert candidate["metrics"]["accuracy"]["n"] == 30
        assert candidate["seconds_per_example"] == pytest.approx(sum(row["seconds"] for row in rows) / 30)
    values = {c["id"]: c["metrics"]["accuracy"]["value"] for c in report["candidates"]}
    for comparison in report["comparisons"]:
        expected = values[comparison["a"]] - values[comparison["b"]]
        assert comparison["difference"] == pytest.approx(expected)


def test_training_was_worth_it_on_what_can_be_learned(classified: Path) -> None:
    report = read_strictly(classified / "report.json")
    values = {c["id"]: c["metrics"]["accuracy"]["value"] for c in report["candidates"]}
    assert values["baseline/majority"] == pytest.approx(0.5, abs=0.1)
    assert values[FULL] > values["baseline/majority"] + 0.2


def test_what_the_terminal_says(classified: Path) -> None:
    said = (classified.parent / "run.out").read_text()
    report = read_strictly(classified / "report.json")
    assert report["verdict"]["reason"] in " ".join(said.split())
    assert str(classified / "report.html") in said
    for candidate in report["candidates"]:
        assert f"{candidate['id']} " in said
    assert report["verdict"]["choice"] in (classified / "report.html").read_text()


def test_a_generation_run(generated: Path) -> None:
    report = read_strictly(generated / "report.json")
    assert report["task"] == {"kind": "generation", "metric": "token_f1"}
    for candidate in report["candidates"]:
        rows = stored(generated, candidate["id"])
        expected = sum(token_f1(row["prediction"], row["target"]) for row in rows) / len(rows)
        assert candidate["metrics"]["token_f1"]["value"] == pytest.approx(expected)
        assert candidate["truncated_answers"] == sum(row["truncated"] for row in rows)
    values = {c["id"]: c["metrics"]["token_f1"]["value"] for c in report["candidates"]}
    assert values[LORA] > values["prompt/zero-shot"]


def test_the_saved_model_says_where_it_came_from(classified: Path) -> None:
    for name, folder in ((LORA, "adapter"), (FULL, "model")):
        origin = json.loads(
            (classified / "candidates" / name.replace("/", "__") / folder / "tunesmith.json").read_text()
        )
        assert origin["base_model"] == str(TINY)
        assert origin["candidate"] == name
        assert origin["labels"] == ["no", "yes"]
        assert origin["instruction"].startswith("Classify the text.")


def test_running_again_repeats_nothing(classified: Path, known_speed: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in classified.glob("candidates/*/*") if path.is_file()}
    report = read_strictly(classified / "report.json")
    said: list[str] = []
    config = tunesmith.read_config(classified.parent / "project.yaml")
    again = tunesmith.run(config, classified, lambda stage, *_: said.append(stage))
    assert again == report
    assert [stage for stage in said if not stage.startswith("plan: ")] == ["report"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_are_refused_where_candidates_were_begun(classified: Path) -> None:
    report = (classified / "report.json").read_bytes()
    config = classified.parent / "project.yaml"
    result = call("run", config, "--out", classified, "--set", "seed=7", "--set", "train.epochs=1")
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "other settings (differing: seed, train)" in result.err
    assert (classified / "report.json").read_bytes() == report


def test_a_mended_mistake_needs_no_new_folder(tmp_path: Path) -> None:
    wrong = write_project(tmp_path, model="no-such-model", candidates=["baseline"])
    assert call("run", wrong, "--out", tmp_path / "run", "-q").code == 4
    mended = write_project(tmp_path, candidates=["baseline"], seed=3)
    result = call("run", mended, "--out", tmp_path / "run", "-q", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["settings"]["seed"] == 3
    assert json.loads(result.out)["settings"]["model"] == str(TINY)


def test_a_deleted_result_is_made_again_and_counts_as_a_look(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline", "prompt"])
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    first = stored(tmp_path / "run", "prompt/zero-shot")
    (tmp_path / "run" / "candidates" / "prompt__zero-shot" / "predictions.parquet").unlink()
    result = call("run", config, "--out", tmp_path / "run", "-q", "--json")
    assert json.loads(result.out)["test_looks"] == 2
    timeless = [
        {k: v for k, v in row.items() if k != "seconds"} for row in stored(tmp_path / "run", "prompt/zero-shot")
    ]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in first]


def test_a_candidate_that_fails_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.train.objectives import causal

    real = causal.summed_loss
    monkeypatch.setattr(causal, "summed_loss", lambda *a: real(*a) * float("nan"))
    config = write_project(tmp_path)
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 1
    report = read_strictly(tmp_path / "run" / "report.json")
    failed = report["candidates"][-1]
    assert failed["id"] == LORA
    assert failed["status"] == "failed"
    assert "step 1: the loss is nan" in failed["reason"]
    assert failed["metrics"] == {}
    assert failed["forgetting"]["status"] == failed["overfitting"]["status"] == "not_run"
    assert [c["status"] for c in report["candidates"][:-1]] == ["ok"] * 3
    assert report["verdict"]["choice"] in [c["id"] for c in report["candidates"][:-1]]
    assert "failed: step 1" in result.out

    monkeypatch.setattr(causal, "summed_loss", real)
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    report = read_strictly(tmp_path / "run" / "report.json")
    assert report["candidates"][-1]["status"] == "ok"
    assert report["test_looks"] == 2


def test_forgetting_is_measured_on_suites_and_the_base_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.evaluate import forgetting, suites
    from tunesmith.evaluate.suites import Item, Suite

    asked: list[str] = []
    text = tuple(Item("", (f"the news report of day {i} says that it is cold",), 0) for i in range(12))
    choice = tuple(Item(f"Question: {i}\nAnswer:", (" yes", " no"), i % 2) for i in range(12))

    def suite(name: str, limit: int) -> Suite:
        return Suite(name, "text", text) if name == "general-text" else Suite(name, "multiple_choice", choice)

    def counted(lm: Any, suite: Suite) -> Any:
        asked.append(suite.name)
        return suites.suite_scores(lm, suite)

    monkeypatch.setattr(suites, "read_suite", suite)
    monkeypatch.setattr(forgetting, "suite_scores", counted)
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(
        json.dumps({"question": f"Is {i} odd?", "options": ["yes", "no"], "answer": "yes"}) for i in range(10)
    ))  # fmt: skip
    project = settings(
        candidates=["tune"], method=["lora", "full"], data={"train": str(tmp_path / "data.csv")},
        forgetting={"suites": str(own), "guard": 1e-9, "on_guard": "stop"}, train={"evals_per_epoch": 4},
    )  # fmt: skip
    write_project(tmp_path)
    report = tunesmith.run(tunesmith.parse_config(project), tmp_path / "run")
    names = ["general-text", "piqa", "commonsenseqa", "openbookqa", str(own)]
    assert sorted(set(asked)) == sorted(names)
    assert asked.count(str(own)) == asked.count("general-text") == 3  # the base once, each tuned model once
    for candidate in report["candidates"]:
        found = candidate["forgetting"]
        assert list(found["suites"]) == names
        for name, values in found["suites"].items():
            assert values["n"] == 12 - 2 * (name == str(own))
            assert values["difference"] == pytest.approx(values["tuned"] - values["base"])
            assert ("nats" in values["unit"]) == (name == "general-text")
        assert found["kl_to_base"]["value"] > 0 and found["kl_on_general"]["n"] > 0
        assert set(found["collapse"]) == {"refusal", "other_language", "valid_json", "length", "distinct_2"}
        assert found["verdict"] in ("none", "mild", "severe")
        guard = found["guard"]
        assert guard["over_budget"]["step"] == candidate["overfitting"]["last_step"] == guard["curve"][-1][0]
        assert guard["over_budget"]["kl"] > 1e-9
        assert guard["sentence"] in html.unescape((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    bases = [c["forgetting"]["suites"]["general-text"]["base"] for c in report["candidates"]]
    assert bases[0] == bases[1]


def test_a_guard_within_which_nothing_is_learned_says_so(tmp_path: Path) -> None:
    config = write_project(tmp_path, candidates=["baseline", "tune"], forgetting={"tier": "off", "guard": 1e-12})
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 1
    (tuned,) = (c for c in read_strictly(tmp_path / "run" / "report.json")["candidates"] if c["status"] == "failed")
    assert "above the guard's budget of 1e-12" in tuned["reason"] and "raise forgetting.guard" in tuned["reason"]


def test_a_suite_that_cannot_be_had_is_not_reported_as_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.errors import SourceError
    from tunesmith.evaluate import suites

    def unreachable(name: str, limit: int) -> suites.Suite:
        raise SourceError(f"{name}: could not be fetched.")

    monkeypatch.setattr(suites, "read_suite", unreachable)
    config = write_project(tmp_path, candidates=["baseline", "tune"], forgetting="quick")
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    found = read_strictly(tmp_path / "run" / "report.json")["candidates"][-1]["forgetting"]
    assert found["status"] == "not_run"
    assert "general-text: could not be fetched." in found["reason"]
    assert found["verdict"] == "unknown"


def test_own_suites_with_bad_rows_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "a", "options": ["x", "y"], "answer": "z"}\n{\n')
    config = write_project(tmp_path, candidates=["tune"], forgetting={"suites": "own.jsonl"})
    result = call("plan", config)
    assert result.code == 3
    assert "own.jsonl line 1: 'answer' is \"z\"" in result.err and "own.jsonl line 2: broken JSON" in result.err


def test_training_first_and_running_later_trains_once(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    run = tmp_path / "run"
    result = call("train", config, "--out", run, "-q", "--json")
    assert result.code == 0, result.err
    (trained,) = json.loads(result.out)["candidates"]
    assert not (run / "test_looks.jsonl").exists()
    assert not (run / "report.json").exists()
    assert not list(run.glob("candidates/*/predictions.parquet"))
    metrics = Path(trained["model"]).parent / "metrics.jsonl"
    weights = (Path(trained["model"]) / "adapter_model.safetensors").read_bytes()
    lines = metrics.read_text()

    again = json.loads(call("train", config, "--out", run, "-q", "--json").out)["candidates"][0]
    assert call("run", config, "--out", run, "-q").code == 0
    evaluated = read_strictly(run / "report.json")["candidates"][-1]
    for later in (again, evaluated):
        for key in ("train_seconds", "tokens_trained", "trainable_parameters"):
            assert later[key] == trained[key]
        for key in ("overfitting", "forgetting"):
            assert later[key] == trained[key] | later[key]
    assert metrics.read_text() == lines
    assert (Path(trained["model"]) / "adapter_model.safetensors").read_bytes() == weights

    after = json.loads(call("train", config, "--out", run, "-q", "--json").out)["candidates"][0]
    assert after["model"] == trained["model"]
    assert after["tokens_trained"] == trained["tokens_trained"]


def test_a_table_is_always_compared_with_boosting(tmp_path: Path) -> None:
    rows = [f"{20 + i % 50},{'York' if i % 3 else 'Bern'},{'old' if i % 50 > 25 else 'young'}" for i in range(120)]
    (tmp_path / "people.csv").write_text("age,town,group\n" + "\n".join(rows) + "\n")
    data = {"train": "people.csv", "format": "table", "label": "group"}
    config = write_project(tmp_path, data=data, candidates=["baseline", "prompt"])
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    report = read_strictly(tmp_path / "run" / "report.json")
    entries = {c["id"]: c for c in report["candidates"]}
    assert entries["boosting/histogram"]["metrics"]["accuracy"]["value"] == 1.0
    assert "age: 20" in json.dumps(
        [e["text"] for e in pq.read_table(tmp_path / "run/splits/train.parquet").to_pylist()]
    )


def test_bias_is_measured_by_a_group_that_no_model_sees(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [(text, label, "woman" if rng.random() < (0.7 if label == "yes" else 0.3) else "man")
            for text, label in sentences(200)]  # fmt: skip
    (tmp_path / "data.csv").write_text("text,label,gender\n" + "".join(",".join(row) + "\n" for row in rows))
    config = write_project(
        tmp_path, data={"sensitive": "gender", "test_size": 100}, guardrails={"bias": 0.9},
        task={"kind": "classification", "temperature_scaling": True},
        candidates=["baseline", "prompt", "embedding", "tune"], encoder=[str(build_encoder(tmp_path / "encoder"))],
    )  # fmt: skip
    run = tmp_path / "run"
    result = call("run", config, "--out", run, "-q")
    assert result.code == 0, result.err
    report = read_strictly(run / "report.json")
    entries = {c["id"]: c for c in report["candidates"]}
    for name, entry in entries.items():
        part = entry["bias"]["columns"]["gender"]
        assert (entry["bias"]["status"], part["n"]) == ("ok", 100), name
        assert part["against_base"]["status"] == ("ok" if name.startswith("tune/") else "not_run")
    gap = entries["baseline/majority"]["bias"]["columns"]["gender"]["labels"]["yes"]
    assert gap["gap"]["value"] == 0
    assert gap["amplification"]["value"] == -gap["label_gap"]["value"] < 0
    assert report["data"]["bias"]["status"] == "ok"
    assert any(f["check"] == "group_and_label" for f in report["data"]["findings"])
    assert "bias" not in report["verdict"]["reason"]  # it was measured, and nothing is near the limit
    page = (run / "report.html").read_text()
    assert "Bias between groups" in page
    assert "Labels by gender" in page
    assert "- Bias: " in next(run.glob("candidates/tune__*/adapter/README.md")).read_text()

    shown = json.dumps([c.get("details") for c in report["candidates"]]) + call("data", "preview", config, "-n", 3).out
    assert "woman" not in shown
    for part in ("train", "test"):
        assert all("man" not in row["text"] for row in pq.read_table(run / f"splits/{part}.parquet").to_pylist())
    predictions = pq.read_table(run / "candidates/baseline__majority/predictions.parquet").to_pylist()
    assert {json.loads(row["sensitive"])["gender"] for row in predictions} == {"woman", "man"}

    assert entries["prompt/zero-shot"]["calibration"]["temperature"]["value"] > 0
    again = call("evaluate", run, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["equal"]
    entries["prompt/zero-shot"]["calibration"]["expected_calibration_error"]["value"] += 0.01
    (run / "report.json").write_text(json.dumps(report))
    (difference,) = json.loads(call("evaluate", run, "--json").out)["differences"]
    assert difference["where"] == "prompt/zero-shot.calibration.expected_calibration_error.value"


def test_a_limit_on_bias_that_was_not_measured_is_not_passed(tmp_path: Path) -> None:
    config = write_project(tmp_path, guardrails={"bias": 0.05}, candidates=["baseline", "prompt"])
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    report = read_strictly(tmp_path / "run" / "report.json")
    assert {c["bias"]["reason"] for c in report["candidates"]} == {"no data.sensitive"}
    assert report["data"]["bias"] == {"status": "not_run", "reason": "no data.sensitive"}
    assert not report["verdict"]["confident"]
    assert "Its bias was not measured." in report["verdict"]["reason"]
