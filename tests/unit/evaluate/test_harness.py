from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tunesmith.config import Forgetting
from tunesmith.errors import DataError, EvaluationError, MissingExtraError
from tunesmith.evaluate import suites
from tunesmith.evaluate.harness import harness_scores, read_task
from tunesmith.evaluate.suites import Suite, read_own, suite_scores
from tunesmith.model.load import load_model

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness (extra lm-eval) is absent")

TASK = {
    "task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "own.jsonl"}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "options", "doc_to_target": "{{options.index(answer)}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}  # fmt: skip
OPTIONS = ["cold", "sunny and warm", "the news report says that it rains", "no"]


def write_task(folder: Path, **changes: object) -> str:
    rows = [
        {"question": f"what is the weather of day {i * i}?", "options": OPTIONS[i % 2 :], "answer": OPTIONS[1 + i % 3]}
        for i in range(24)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({**TASK, **changes}))
    return str(file)


@installed
@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_our_scores_equal_the_harness_item_by_item(tiny_model_path: Path, tmp_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    task = write_task(tmp_path)
    path = str(tmp_path / "own.jsonl")
    suite = read_own(Forgetting(suites=(path,), tier="full"))[path]
    assert isinstance(suite, Suite) and len(suite.items) == 24
    ours = dict(zip((item.prompt for item in suite.items), suite_scores(lm, suite)["accuracy"], strict=True))
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    theirs = harness_scores(lm, task)["accuracy"]
    assert [ours[f"Question: {row['question']}\nAnswer:"] for row in rows] == theirs
    by_sum = dict(zip(ours, suite_scores(lm, Suite("", "yes_no", suite.items))["accuracy"], strict=True))
    sums = harness_scores(lm, write_task(tmp_path, metric_list=[{"metric": "acc"}]))["accuracy"]
    assert [by_sum[f"Question: {row['question']}\nAnswer:"] for row in rows] == sums
    assert 0 < sum(theirs) < 24
    assert lm.model.config._attn_implementation == "tunesmith"


@installed
@pytest.mark.filterwarnings("ignore")
def test_a_task_that_cannot_be_run_is_said(tiny_model_path: Path, tmp_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    with pytest.raises(EvaluationError, match="could not run it"):
        harness_scores(lm, write_task(tmp_path, test_split="nowhere"))
    with pytest.raises(EvaluationError, match="none of its metrics"):
        harness_scores(lm, write_task(tmp_path, metric_list=[{"metric": "mcc"}]))


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_without_the_extra_the_command_that_installs_it_is_said(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[lm-eval\]'"):
        harness_scores(load_model(str(tiny_model_path)), write_task(tmp_path))
    with pytest.raises(MissingExtraError):
        read_own(Forgetting(harness=(write_task(tmp_path),)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_path": "allenai/ai2_arc"}, "with local data"), ({"task": None}, "a task of its own"),
        ({"include": "other.yaml"}, "'include'"), ({"dataset_kwargs": {}}, "names no files"),
        ({"dataset_kwargs": {"data_files": {"test": "https://host/x.jsonl"}}}, "is not there"),
    ],
)  # fmt: skip
def test_only_local_tasks_are_taken(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        read_task(write_task(tmp_path, **changes))


def test_tasks_are_looked_at_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "require_harness", lambda: None)
    with pytest.raises(DataError, match="2 problems") as caught:
        read_own(Forgetting(harness=(write_task(tmp_path, include="x"), str(tmp_path / "none.yaml"))))
    assert "'include'" in str(caught.value) and "none.yaml" in str(caught.value)


def test_a_task_that_names_code_is_refused(tmp_path: Path) -> None:
    file = Path(write_task(tmp_path))
    file.write_text(file.read_text() + "process_docs: !function utils.process\n")
    with pytest.raises(EvaluationError, match="function"):
        read_task(str(file))


def test_files_are_found_from_the_tasks_folder(tmp_path: Path) -> None:
    found = read_task(write_task(tmp_path))
    assert found["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "own.jsonl")}
