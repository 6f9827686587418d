"""tunesmith learning-curve: subsets nested, sealed test, resumed, told in the report; what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from end_to_end.projects import build_encoder, call, read_strictly, write_labelled, write_project
from tunesmith.candidates.embedding import Embedding
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Example
from tunesmith.report.learning_curve import back_tested, doubling, price
from tunesmith.run import Run
from tunesmith.search.learning_curve import _choose, learning_curve, nested_subsets, points_of, subset_sizes
from tunesmith.workflow import silent


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    write_labelled(folder / "data.csv", 240)
    encoder = str(build_encoder(folder / "encoder"))
    config = write_project(folder, candidates=["baseline", "embedding"], encoder=[encoder])
    result = call("learning-curve", config, "--out", folder / "run", "--target", "0.999", "--draws", "2", "-q")
    assert result.code == 0, result.err
    (folder / "out.txt").write_text(result.out)
    return folder


def test_the_curve_is_measured_on_validation_and_told(measured: Path) -> None:
    run = Run.open(measured / "run")
    report = read_strictly(run.folder / "learning_curve.json")
    curve, out = report["curve"], (measured / "out.txt").read_text()
    sizes = [point["size"] for point in curve["points"]]
    assert sizes == subset_sizes(report["data"]["train"], 2)
    assert [len(point["draws"]) for point in curve["points"]] == [2] * (len(sizes) - 1) + [1]
    assert run.test_looks() == 0
    assert curve["doubled"]["size"] == 2 * sizes[-1] == curve["band"][-1]["size"]
    assert curve["doubled"]["low"] <= curve["doubled"]["value"] <= curve["doubled"]["high"] <= 1.1
    assert report["loss"]["metric"] == "nll"
    assert set(report["loss"]["laws"]) > {"POW3"}
    assert "Twice the data" in out and "99.9 %" in out and "Back-test" in out
    assert f"nothing is claimed beyond {2 * sizes[-1]:,}" in " ".join(out.split())
    page = (run.folder / "learning_curve.html").read_text()
    assert page.count("<svg") == 2 and "polygon" in page and "NaN" not in page
    assert not [path for path in (run.folder / "curve").glob("*/*") if path.is_dir()]


def test_a_score_of_the_curve_is_the_candidates_own(measured: Path) -> None:
    """The largest subset's score equals that of the candidate fitted without kept vectors."""
    from tunesmith import workflow
    from tunesmith.candidates import Context
    from tunesmith.config import parse_config
    from tunesmith.run import read_examples

    run = Run.open(measured / "run")
    config = parse_config(run.settings()["config"])
    report = read_strictly(run.folder / "learning_curve.json")
    task = workflow.prepare(config, run, silent)
    train, held = read_examples(run.split("train")), read_examples(run.split("validation"))
    (*_, largest) = nested_subsets(train, subset_sizes(len(train), 2), np.random.default_rng([0, 12, 0]), task.kind)
    candidate = Embedding(Context(config, task, "m", {}, 0, silent), report["candidate"], measured / "alone")
    candidate.fit(largest, held)
    alone = workflow.measure(task, candidate.predict(held), 0)["metrics"]["accuracy"]["value"]
    assert alone == report["curve"]["points"][-1]["value"]


def test_killed_in_between_it_goes_on_and_says_the_same(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = measured / "run"
    before = read_strictly(folder / "learning_curve.json")
    files = sorted((folder / "curve").glob("*/*.json"))
    for file in files[3:5]:
        file.unlink()
    fitted: list[int] = []
    fit = Embedding.fit
    monkeypatch.setattr(Embedding, "fit", lambda self, train, held: fitted.append(len(train)) or fit(self, train, held))
    command = ("learning-curve", measured / "project.yaml", "--out", folder, "--target", "0.999", "--draws", "2")
    result = call(*command, "--json")
    assert result.code == 0, result.err
    again = json.loads(result.out)
    assert sorted(fitted) == sorted(int(file.stem.partition("-")[0]) for file in files[3:5])
    assert (again["curve"], again["loss"]) == (before["curve"], before["loss"])
    assert "learning curve" in result.err
    changed = call(*command, "--set", "seed=5")
    assert changed.code != 0 and "other settings" in changed.err


def test_a_run_in_the_same_folder_says_what_more_data_would_buy(measured: Path) -> None:
    result = call("run", measured / "project.yaml", "--out", measured / "run", "-q")
    assert result.code == 0, result.err
    report = read_strictly(measured / "run" / "report.json")
    curve = read_strictly(measured / "run" / "learning_curve.json")
    assert report["learning_curve"]["doubled"] == curve["curve"]["doubled"]
    assert " ".join(report["learning_curve"]["told"].split()) in " ".join(result.out.split())
    assert report["learning_curve"]["told"].split(":")[0] in (measured / "run" / "report.html").read_text()
    assert call("evaluate", measured / "run").code == 0  # its numbers still agree


def test_a_tuned_candidate_is_trained_on_each_subset(tmp_path: Path) -> None:
    write_labelled(tmp_path / "data.csv", 120)
    config = write_project(tmp_path, candidates=["baseline", "tune"], train={"epochs": 1})
    result = call("learning-curve", config, "--out", tmp_path / "run", "--draws", "2", "--candidate", "tune")
    assert result.code == 0, result.err
    report = read_strictly(tmp_path / "run" / "learning_curve.json")
    assert report["candidate"].startswith("tune/")
    assert len(report["curve"]["points"]) >= 4
    assert "min left" in result.err
    assert not list((tmp_path / "run" / "curve").rglob("checkpoints"))


def test_subset_begins_small_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_project(tmp_path, candidates=["baseline"])
    assert call("run", config, "--subset", "20", "-q").code == 0
    assert read_strictly(tmp_path / "runs" / "project-20" / "report.json")["data"]["train"] == 20


# ── subsets ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("train", "labels"), [(64, 0), (130, 2), (1000, 2), (10_003, 77), (128, 8)])
def test_twice_a_size_is_a_size(train: int, labels: int) -> None:
    sizes = subset_sizes(train, labels)
    assert sizes == sorted(set(sizes))
    assert len(sizes) in (7, 9)
    assert train - 16 < sizes[-1] <= train
    assert all(2 * size in sizes for size in sizes[:-2])
    assert sizes[0] >= max(8, 2 * labels)


def test_subsets_are_nested_and_keep_the_labels_shares() -> None:
    train = [Example(f"x:{i}", text=str(i), label="a" if i % 4 else "b") for i in range(400)]
    subsets = nested_subsets(train, subset_sizes(400, 2), np.random.default_rng(0), "classification")
    for smaller, larger in pairwise(subsets):
        assert len({e.id for e in smaller} - {e.id for e in larger}) <= 1  # rounding of shares
        assert abs(sum(e.label == "b" for e in smaller) - len(smaller) / 4) <= 1
    other = nested_subsets(train, subset_sizes(400, 2), np.random.default_rng(1), "classification")
    assert {e.id for e in other[0]} != {e.id for e in subsets[0]}


# ── what is refused, and what is said ────────────────────────────────────────────────────────────────────
def test_too_few_examples_for_four_sizes_are_refused_with_the_minimum() -> None:
    with pytest.raises(DataError, match=r"63 training examples: a learning curve needs at least four sizes.*64"):
        subset_sizes(63)
    with pytest.raises(DataError, match="1232 examples"):
        subset_sizes(1000, 77)


def test_a_candidate_that_learns_nothing_from_more_examples_is_refused(tmp_path: Path) -> None:
    from tunesmith.config import read_config

    write_labelled(tmp_path / "data.csv", 120)
    config = read_config(write_project(tmp_path, candidates=["baseline", "prompt"]))
    with pytest.raises(ConfigError, match=r"learns from many examples.*Add embedding or tune"):
        learning_curve(config, tmp_path / "run", silent)


def test_the_fastest_candidate_is_the_default_and_a_name_must_be_one() -> None:
    rows = [
        {"id": name, "family": name.partition("/")[0], "estimated_seconds": seconds}
        for name, seconds in (("baseline/majority", 0), ("tune/m/lora", 90), ("tune/m/full", 200), ("embedding/e", 9))
    ]
    assert _choose(rows, None)["id"] == "embedding/e"
    assert _choose(rows, "tune/m/lora")["id"] == "tune/m/lora"
    with pytest.raises(ConfigError, match=r"several have that name.*tune/m/full"):
        _choose(rows, "tune")
    with pytest.raises(ConfigError, match="none has that name"):
        _choose(rows, "baseline")


def test_noise_of_a_share_is_binomial() -> None:
    from tunesmith.measures.uncertainty import wilson_interval

    interval = wilson_interval(300, 400)
    (point,) = points_of([{"size": 9, "metrics": {"accuracy": interval.to_json()}}], "accuracy")
    assert point.noise == pytest.approx(0.75 * 0.25 / 400, rel=0.02)


CURVE = {
    "metric": "accuracy", "now": 0.80, "back_tests": [],
    "doubled": {"size": 400, "value": 0.83, "low": 0.82, "high": 0.85,
                "gain": 0.03, "gain_low": 0.02, "gain_high": 0.05},
}  # fmt: skip


def test_the_words_hold_the_numbers() -> None:
    assert doubling(CURVE) == (
        "Twice the data (400 examples) would bring accuracy from 80.0 % to about 83.0 % (82.0 % to 85.0 %): "
        "+3.0 points (+2.0 to +5.0)"
    )
    assert back_tested(CURVE).startswith("Back-test: not run")
    test = {"size": 200, "value": 0.8, "low": 0.79, "high": 0.81, "seen": 0.85, "inside": False}
    assert "foretold its own points badly" in back_tested(CURVE | {"back_tests": [test]})
    near = {"value": 0.82, "size": 300, "low": 250, "high": 390, "reached": 1.0, "ever": 1.0}
    assert price(CURVE | {"target": near}) == "For 82.0 % you need about 300 examples (250 to 390)."
    far = {"value": 0.9, "size": None, "low": None, "high": None, "reached": 0.0, "ever": 0.4}
    assert price(CURVE | {"target": far}) == (
        "90.0 % takes more than 400 examples, or it may be out of reach: 60 % of the curves that fit never get there."
    )
