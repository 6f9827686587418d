"""tunesmith search hyperparameters: from a project to a setting and its test score; resumed; refused with a minimum."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from end_to_end.projects import Result, build_encoder, call, read_strictly, write_labelled, write_project
from tunesmith.records import Interval
from tunesmith.report.hyperparameters import optimism_in_words, parallel, reason, render_hyperparameters
from tunesmith.run import Run, read_examples, read_predictions
from tunesmith.search import hyperparameters
from tunesmith.search.hyperparameters import optimism

SPACE = "train.learning_rate: {low: 0.001, high: 0.05, log: true}\nmethod.rank: [2, 4]\n"


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_labelled(folder / "data.csv", 200)
    (folder / "space.yaml").write_text(SPACE)
    return write_project(folder, candidates=["tune"], train={"epochs": 2, "global_batch_size": 4})


def search(folder: Path, *options: object, out: str = "s") -> Result:
    space = folder / "space.yaml"
    return call("search", "hyperparameters", folder / "project.yaml", "--out", folder / out, "--space", space, *options)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hyperparameters")
    write(folder)
    result = search(folder, "--trials", 4, "-q")
    assert result.code == 0, result.err
    (folder / "out.txt").write_text(result.out)
    return folder


def test_the_best_goes_to_the_end_and_is_judged_once_on_sealed_examples(searched: Path) -> None:
    report = read_strictly(searched / "s" / "search.json")
    trials = report["trials"]
    assert len(trials) == 4 and len(report["rungs"]) == 2
    assert trials[0]["setting"] == {"train.learning_rate": 0.01, "method.rank": 4}  # the project's own
    assert len(trials[0]["values"]) == 2
    assert sum(len(row["values"]) == 2 for row in trials) in (1, 2)
    best = min(value for row in trials for value in row["values"])
    chosen = trials[report["chosen"]]
    assert chosen["value"] == best
    assert set(report["test"]) == ({"chosen", "own"} if report["chosen"] else {"chosen"})
    assert report["test"]["chosen"]["n"] == report["data"]["test"]
    assert report["test_looks"] == 1 == Run(searched / "s").test_looks()
    assert report["tokens"] == sum(row["tokens"] for row in trials) > 0
    assert not list((searched / "s").glob("candidates/*/seen-*"))


def test_what_it_prints_can_be_run(searched: Path) -> None:
    import shlex

    printed = (searched / "out.txt").read_text()
    (line,) = [line for line in printed.splitlines() if line.startswith("  tunesmith run")]
    words = shlex.split(line.split("   #")[0])[1:]
    assert words[0] == "run"
    plan = call("plan", *words[1:], "--json")
    assert plan.code == 0, plan.err
    report = read_strictly(searched / "s" / "search.json")
    chosen = report["trials"][report["chosen"]]
    loop = json.loads(plan.out)["loop"]["lora"]
    assert loop["learning_rate"] == pytest.approx(chosen["setting"]["train.learning_rate"], rel=1e-3)
    assert loop["epochs"] == pytest.approx(chosen["epochs"], rel=1e-3) and loop["schedule"] == "constant_decay"


def test_the_same_command_shows_the_same_and_more_trials_go_on(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_strictly(searched / "s" / "search.json")
    shutil.copytree(searched / "s", searched / "more")
    monkeypatch.setattr(hyperparameters.Trainer, "reach", lambda *_: pytest.fail("trained again"))
    result = search(searched, "--trials", 4, "--json", "-q")
    assert result.code == 0, result.err
    again = json.loads(result.out)
    assert {k: v for k, v in again.items() if k != "command"} == {k: v for k, v in before.items() if k != "command"}
    monkeypatch.undo()
    result = search(searched, "--trials", 5, "--json", "-q", out="more")
    assert result.code == 0, result.err
    more = json.loads(result.out)
    assert [row["values"][0] for row in more["trials"][:4]] == [row["values"][0] for row in before["trials"]]
    assert len(more["trials"]) == 5


def test_killed_in_the_middle_it_comes_to_the_same(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    seen, reach = [0], hyperparameters.Trainer.reach

    def killed(self: Any, *values: Any) -> Any:
        seen[0] += 1
        if seen[0] == 3:
            raise KeyboardInterrupt
        return reach(self, *values)

    monkeypatch.setattr(hyperparameters.Trainer, "reach", killed)
    assert search(tmp_path, "--trials", 4, "-q").code == 130
    result = search(tmp_path, "--trials", 4, "--json", "-q")
    assert result.code == 0, result.err
    ours, theirs = json.loads(result.out), read_strictly(searched / "s" / "search.json")
    for key in ("chosen", "not_told_apart", "tokens", "test", "validation", "selection_optimism"):
        assert ours[key] == theirs[key]
    assert [row["values"] for row in ours["trials"]] == [row["values"] for row in theirs["trials"]]


def test_a_folder_of_another_search_is_refused(searched: Path) -> None:
    other = search(searched, "--trials", 4, "--objective", "accuracy", "-q")
    assert other.code == 1 and "another objective" in other.err and "--out" in other.err
    changed = search(searched, "--trials", 4, "--set", "seed=3", "-q")
    assert changed.code == 1 and "differing: seed" in changed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trials", 1), "at least 2"),
        (("--tokens", 10), "the least is"),
        (("--minutes", 1e-9), "the least is"),
        (("--trials", 3, "--minutes", 3), "give one of them"),
        (("--objective", "bleu"), "Take one of loss, accuracy"),
        (("--set", "remedies={l2_sp: 1}"), "search forgetting"),
        (("--set", "candidates=[prompt]", "--set", "method=gradual"), "unfreeze"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_searched_is_refused_with_the_minimum(
    tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    config = write(tmp_path)
    result = call("search", "hyperparameters", config, "--out", tmp_path / "s", *options, "-q")
    assert result.code == 3 and said in result.err, result.err
    assert not list(tmp_path.glob("s/candidates"))


def test_a_metric_decides_where_it_is_asked_to_and_a_budget_of_tokens_holds(tmp_path: Path) -> None:
    write(tmp_path)
    result = search(tmp_path, "--objective", "accuracy", "--tokens", 30_000, "--json", "-q", "--set", "train.epochs=1")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["objective"] == {"name": "accuracy", "higher_is_better": True}
    assert len(report["trials"]) >= 2 and 0 < report["tokens"] <= 30_000 * 1.1
    assert report["trials"][report["chosen"]]["value"] == report["validation"]["chosen"]["value"]


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────
def made_up(**changes: Any) -> dict[str, Any]:
    def interval(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 200}

    def trial(number: int, rate: float, rank: int, values: list[float | None], stopped: str | None) -> dict[str, Any]:
        known = [v for v in values if v is not None]
        return {
            "trial": number, "setting": {"train.learning_rate": rate, "method.rank": rank}, "values": values,
            "value": min(known, default=None), "best_rung": len(values) - 1 if known else None, "steps": 10,
            "epochs": 1.0, "warmup_ratio": 0.05, "tokens": 100, "seconds": 1.0,
            "stopped": stopped, "reason": "" if known else "the loss is <nan>",
        }  # fmt: skip

    return {
        "name": "s", "created": "2026-01-01T00:00:00", "task": {"kind": "classification", "metric": "accuracy"},
        "objective": {"name": "loss", "higher_is_better": False},
        "space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "method.rank": [8, 32]},
        "names": {}, "rungs": [100, 300], "data": {"train": 300, "validation": 50, "test": 200, "compared_on": 50},
        "trials": [
            trial(0, 1e-3, 8, [0.5, 0.4], None), trial(1, 2e-3, 32, [0.4, 0.3], None),
            trial(2, 1e-4, 8, [0.9], "worse"), trial(3, 1e-2, 8, [None], "failed"),
        ],
        "chosen": 1, "not_told_apart": [0], "importance": {"train.learning_rate": 0.8, "method.rank": 0.2},
        "selection_optimism": 0.01, "validation": {"chosen": interval(0.8), "own": interval(0.75)},
        "test": {"chosen": interval(0.77), "own": interval(0.74)},
        "gained": {"difference": 0.03, "low": -0.01, "high": 0.07, "p_value": 0.2, "n": 200},
        "optimism": {"difference": 0.03, "low": -0.01, "high": 0.07}, "tokens": 400, "seconds": 4.0, "test_looks": 1,
        "command": "tunesmith search", "versions": {}, "hardware": {},
    } | changes  # fmt: skip


def test_the_page_says_what_was_bought_and_what_flatters() -> None:
    page = render_hyperparameters(made_up())
    for said in (
        "learning rate 0.002", "+3.0 points (−1.0 points to +7.0 points)", "not told apart", "by up to 0.0100",
        "learning rate 80 %", "worse than the best beyond chance", "failed: the loss is &lt;nan&gt;", "77.0 %",
    ):  # fmt: skip
        assert said in page
    assert parallel(made_up()).count("<polyline") == 3 and 'class="thread choice"' in page
    sure = {"difference": 0.03, "low": 0.01, "high": 0.07, "p_value": 0.001, "n": 200}
    assert "better beyond chance" in reason(made_up(gained=sure))
    harm = {key: -value for key, value in sure.items()} | {"low": -0.07, "high": -0.01, "n": 200}
    assert "worse beyond chance" in reason(made_up(gained=harm))


def test_without_gain_or_selection_nothing_is_said_of_them() -> None:
    interval = made_up()["test"]["chosen"]
    alone = made_up(chosen=0, test={"chosen": interval}, validation={"chosen": interval}, selection_optimism=None)
    del alone["gained"]
    assert reason(alone).startswith("The project's own setting is the best of those tried")
    assert "Being the best" not in optimism_in_words(alone)
    assert parallel(made_up(trials=made_up()["trials"][:1])) == ""


def test_optimism_is_signed_as_better_and_holds_newcombes_example() -> None:
    # Newcombe 1998, table II (a): 56/70 − 48/80, Wilson intervals, method 10: 0.2, 0.0524 to 0.3339
    found = optimism(Interval(0.8, 0.6916, 0.8769, 70), Interval(0.6, 0.4904, 0.7003, 80), "accuracy")
    assert found["low"] == pytest.approx(0.0524, abs=2e-3) and found["high"] == pytest.approx(0.3339, abs=2e-3)
    turned = optimism(Interval(0.6, 0.49, 0.7, 80), Interval(0.8, 0.69, 0.88, 70), "mae")
    assert turned["difference"] == pytest.approx(0.2)


# ── forms of a table's rows ──────────────────────────────────────────────────────────────────────────────
def test_forms_of_a_table_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    words = {"yes": ["good", "fine", "sunny"], "no": ["bad", "cold", "grim"]}
    rows = [f"{words[label][i % 3]},{i},{label}" for i in range(60) for label in ("yes", "no")]
    (tmp_path / "data.csv").write_text("word,number,label\n" + "\n".join(rows) + "\n")
    config = write_project(
        tmp_path, model=str(build_encoder(tmp_path / "encoder")), method="head",
        data={"format": "table", "label": "label"}, train={"epochs": 8, "global_batch_size": 4},
    )  # fmt: skip
    out = tmp_path / "s"
    result = call("search", "formats", config, "--out", out, "--columns", "word", "--columns", "number", "-q")
    assert result.code == 0, result.err
    report = read_strictly(out / "search.json")
    names = [report["names"][row["setting"]["data.template"]] for row in report["trials"]]
    assert names[0] == "names" and set(names) == {"names", "sentence", "json", "markdown", "word", "number"}
    worth = {name: row["values"][0] for name, row in zip(names, report["trials"], strict=True)}
    assert worth["number"] == max(worth.values())  # the one form that does not show what decides
    assert "markdown" in (out / "report.html").read_text()
    answers = [read_predictions(file) for file in out.glob("candidates/*/rung-*-test.parquet")]
    ids = [[a.example_id for a in found] for found in answers]
    assert ids and all(other == ids[0] for other in ids)
    assert ids[0] == [e.id for e in read_examples(Run(out).split("test"))]
    refused = call("search", "formats", config, "--out", out, "--columns", "wort", "-q")
    assert refused.code == 3 and "no column 'wort'" in refused.err
