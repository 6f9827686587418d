"""Predictors on vectors that a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from end_to_end.projects import TINY, build_encoder, call, sentences, settings, write_labelled, write_project
from tunesmith.candidates import FAMILIES, Context
from tunesmith.candidates.predictor import WEIGHTS, load_predictor
from tunesmith.config import parse_config
from tunesmith.errors import ModelError, NotFoundError, RunError
from tunesmith.measures import predictor as choices
from tunesmith.records import Example
from tunesmith.run import PREDICTOR, Run, read_json, write_json
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def made(task: str) -> list[Example]:
    answers = {"classification": str, "multi_label": str, "regression": lambda label: "1.5" if label == "yes" else "-2"}
    return [Example(f"f:{i}", text=text, label=answers[task](label)) for i, (text, label) in enumerate(sentences(60))]


def fitted(folder: Path, encoder: str, task: str) -> tuple[Any, list[Example]]:
    examples = made(task)
    raw = {"task": task, "data": {"train": "x"}, "model": str(TINY), "encoder": encoder}
    config = parse_config(raw)
    context = Context(
        config, build_task(config.task, [e.label or "" for e in examples], None), str(TINY), {}, 64, silent
    )
    name = TINY.name if encoder == "model" else Path(encoder).name
    candidate = FAMILIES["embedding"].build(context, f"embedding/{name}", folder)
    candidate.fit(examples[:40], examples[40:50])
    return candidate, examples[50:]


KINDS = [(task, only) for task in ("classification", "multi_label") for only in ("logistic", "ridge", "neighbours")]


@pytest.mark.parametrize(("task", "only"), [*KINDS, ("regression", "ridge"), ("regression", "neighbours")])
def test_what_is_kept_answers_as_the_candidate_did(
    encoder: Path, tmp_path: Path, task: str, only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of predictor, on a sentence encoder and on a decoder's scaled features."""
    real = choices.fit_predictor

    def this_one(*data: Any) -> Any:
        fits = {"logistic": choices.fit_linear, "neighbours": choices.fit_neighbours}
        ridge = choices.fit_linear if task == "regression" else choices.fit_ridge_classifier
        return choices.PredictorFit(only, fits.get(only, ridge)(*data[:6]), real(*data).score, ())

    monkeypatch.setattr("tunesmith.candidates.embedding.fit_predictor", this_one)
    for name in (str(encoder), "model"):
        folder = tmp_path / Path(name).name
        candidate, asked = fitted(folder, name, task)
        expected = candidate.predict(asked)
        kept = load_predictor(folder)
        found = kept.predict(asked)
        assert (kept.scale is not None) == (name == "model")
        assert [p.candidate for p in found] == [p.candidate for p in expected]
        assert [p.prediction for p in found] == [p.prediction for p in expected]
        assert [p.probabilities for p in found] == [p.probabilities for p in expected]
        assert [p.score for p in found] == [p.score for p in expected]


def test_the_same_predictor_is_the_same_bytes(encoder: Path, tmp_path: Path) -> None:
    for name in ("one", "again"):
        fitted(tmp_path / name, str(encoder), "classification")
    for file in (PREDICTOR, WEIGHTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [PREDICTOR, WEIGHTS]


def test_another_encoder_or_a_damaged_file_is_refused(encoder: Path, tmp_path: Path) -> None:
    _, asked = fitted(tmp_path / "p", str(encoder), "classification")
    origin = read_json(tmp_path / "p" / PREDICTOR)
    write_json(tmp_path / "p" / PREDICTOR, origin | {"fingerprint": "other"})
    with pytest.raises(ModelError, match=r"fitted on vectors of .* fingerprint other"):
        load_predictor(tmp_path / "p").predict(asked)
    for wrong in ({"format_version": 99}, {"task": {"kind": "none"}}, {"kind": "neighbours"}):
        write_json(tmp_path / "p" / PREDICTOR, origin | wrong)
        with pytest.raises(RunError, match=r"format 99|damaged"):
            load_predictor(tmp_path / "p")
    write_json(tmp_path / "p" / PREDICTOR, origin)
    (tmp_path / "p" / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(RunError, match="damaged"):
        load_predictor(tmp_path / "p")
    with pytest.raises(NotFoundError):
        load_predictor(tmp_path)


# ── through the command line ─────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def run(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    config = write_project(folder, candidates=["baseline", "prompt", "embedding"], encoder=str(encoder))
    assert call("run", config, "--out", folder / "run", "-q").code == 0
    return folder / "run"


def choose(run: Path, choice: str) -> None:
    report = read_json(run / "report.json")
    write_json(run / "report.json", report | {"verdict": report["verdict"] | {"choice": choice}})


def test_a_run_that_chose_an_encoder_is_asked_like_a_model(run: Path, encoder: Path, tmp_path: Path) -> None:
    name = f"embedding/{encoder.name}"
    choose(run, name)
    reported = next(c for c in read_json(run / "report.json")["candidates"] if c["id"] == name)
    looks = Run.open(run).test_looks()
    for place in (run, Run(run).candidate(name)):
        found = json.loads(call("evaluate", place, run / "splits" / "test.parquet", "--json", "-q").out)
        assert found["metrics"] == reported["metrics"]
        assert found["model"] == str(Run(run).candidate(name))
    assert Run.open(run).test_looks() == looks + 2
    fresh = write_labelled(tmp_path / "fresh.csv", 30, seed=9)
    config = tmp_path / "task.yaml"
    config.write_text(yaml.safe_dump(settings(data={"text": "text"})))
    for more in ([], ["--config", config]):
        found = json.loads(call("evaluate", run, fresh, *more, "--json", "-q").out)
        assert (found["n"], found["task"]["kind"]) == (30, "classification")
    config.write_text(yaml.safe_dump(settings(task="regression")))
    wrong = call("evaluate", run, fresh, "--config", config, "-q")
    assert (wrong.code, "fitted for task classification" in wrong.err) == (3, True)


def test_what_is_no_model_says_what_to_do_with_it(run: Path, encoder: Path) -> None:
    folder = Run(run).candidate(f"embedding/{encoder.name}")
    choose(run, f"embedding/{encoder.name}")
    refused = call("models", "merge", run, "--out", "merged")
    assert (refused.code, f"'tunesmith chat {run}' asks it" in refused.err) == (4, True)
    for choice, said in (
        ("prompt/few-shot", f"asked with the prompt in {Run(run).candidate('prompt/few-shot')}/evaluation.json"),
        ("prompt/zero-shot", f"'tunesmith chat {TINY}'"),
        ("baseline/majority", "the same answer"),
        ("rag/bm25", f"'tunesmith rag ask {run / 'index'} QUESTION --model {TINY} --retriever bm25'"),
    ):
        choose(run, choice)
        for command in (["chat", run, "--message", "hi"], ["models", "merge", run, "--out", "merged"]):
            refused = call(*command)
            assert (refused.code, said in refused.err) == (4, True), (command, refused.err)
    refused = call("models", "merge", folder, "--out", "merged")
    assert (refused.code, f"tunesmith chat {folder}" in refused.err) == (4, True)
    choose(run, "prompt/few-shot")
    refused = call("evaluate", run, run / "splits" / "test.parquet")
    assert (refused.code, "details.prompt" in refused.err) == (4, True)


def test_answers_need_no_label(run: Path, encoder: Path) -> None:
    kept = load_predictor(Run(run).candidate(f"embedding/{encoder.name}"))
    answers = kept.predict([Example(f"mine:{i}", text=text) for i, text in enumerate(["the day is good", "x"])])
    assert {p.prediction for p in answers} <= {"no", "yes"}
    assert np.allclose([sum(p.probabilities or ()) for p in answers], 1)
