"""A report in a metric whose unit is the targets' and of which less is better."""

import json

import numpy as np
import pytest
import yaml

from tunesmith.evaluate.compare import metric_interval
from tunesmith.records import Prediction
from tunesmith.report.findings import headline, key_findings
from tunesmith.report.runs import compare_runs, describe
from tunesmith.report.write import write_report
from tunesmith.run import read_predictions, write_json, write_predictions
from unit.report.synthetic_run import build_run

ERRORS = {"baseline/mean": 1.0, "embedding/minilm-l6": 0.5, "tune/smollm2-135m-instruct/lora": 0.2}


def build_regression(folder, metric):
    """A run whose candidates are off by about the given errors; the baseline always says the same."""
    run = build_run(folder, shares=dict.fromkeys(ERRORS, 0.5), test=200, kind="generation")
    settings = yaml.safe_load(run.settings_file.read_text())
    settings["config"] |= {"task": {"kind": "regression", "metric": metric}, "margin": None}
    run.settings_file.write_text(yaml.safe_dump(settings))
    targets = np.random.default_rng(0).normal(size=200)
    for seed, (name, error) in enumerate(ERRORS.items()):
        place = run.candidate(name)
        said = targets + error * np.random.default_rng(seed + 1).normal(size=200)
        predictions = [
            Prediction(p.example_id, name, "0.0" if name == "baseline/mean" else repr(float(x)), repr(float(t)), 0.0)
            for p, x, t in zip(read_predictions(place / "predictions.parquet"), said, targets, strict=True)
        ]
        write_predictions(place / "predictions.parquet", predictions)
        evaluation = json.loads((place / "evaluation.json").read_text())
        evaluation["metrics"] = {metric: metric_interval(predictions, metric, np.random.default_rng(0)).to_json()}
        evaluation["baseline"] = name == "baseline/mean"
        if name.startswith("tune/"):
            evaluation["forgetting"] = {"status": "not_applicable", "reason": "the model writes no text"}
        write_json(place / "evaluation.json", evaluation)
    return run


@pytest.mark.parametrize("metric", ["mae", "pearson"])
def test_numbers_are_judged_in_their_own_unit_and_direction(tmp_path, metric):
    run = build_regression(tmp_path / "run", metric)
    report = write_report(run)
    tuned = "tune/smollm2-135m-instruct/lora"
    assert (report["verdict"]["choice"], report["verdict"]["confident"]) == (tuned, True)
    assert headline(report) == "Fine-tuning is worth it"
    assert report["minimum_detectable_effect"] is None
    page = run.html_file.read_text()
    assert f"1. {tuned}" in page
    assert "3. baseline/mean" in page
    assert (">mean absolute error, lower is better<" in page) == (metric == "mae")
    assert ("Down and left is better" in page) == (metric == "mae")
    card = (run.candidate(tuned) / "adapter" / "README.md").read_text()
    findings = key_findings(report)
    assert not any("forgot was not measured" in sentence for sentence in findings)
    assert "Forgetting does not apply: the model writes no text." in card
    for text in (page, card, *findings, report["verdict"]["reason"]):
        assert "points of mean" not in text
        assert "in points" not in text
    gain = findings[0]
    if metric == "mae":
        assert "against embedding/minilm-l6: −0." in gain
        assert "of mean absolute error, of which less is better" in gain
        assert "(lower is better)" in card
    else:
        assert "against embedding/minilm-l6: +0." in gain
        assert any("baseline/mean answers always the same" in sentence for sentence in findings)


def test_two_runs_are_compared_in_the_right_direction(tmp_path):
    first, second = (build_regression(tmp_path / name, "mae") for name in ("first", "second"))
    for run in (first, second):
        write_report(run)
    baseline = read_predictions(second.candidate("baseline/mean") / "predictions.parquet")
    write_predictions(second.candidate("tune/smollm2-135m-instruct/lora") / "predictions.parquet", baseline)
    found = compare_runs(first, second, "tune/smollm2-135m-instruct/lora")
    assert found["comparison"]["difference"] < 0
    assert "The first is better: first − second −0." in describe(found)
    assert "points" not in describe(found)
