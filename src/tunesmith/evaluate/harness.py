"""Tasks of EleutherAI's lm-evaluation-harness, from local files, scored by the harness itself."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import EvaluationError, MissingExtraError

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

METRICS = ("acc_norm", "acc", "exact_match")  # the first that a task has is its score of an item, 0 to 1
LOCAL = ("json", "csv", "parquet", "text")  # dataset_path of a task whose data lies in files
BATCH = 8


def harness_scores(lm: LanguageModel, path: str) -> dict[str, list[float]]:
    """Score of each item of one task, by the harness.

    Args:
        lm: A decoder.
        path: A task file as the harness's, with ``dataset_path: json`` (or csv, parquet, text) and the files under
            ``dataset_kwargs: {data_files: …}``, from the task file's folder or absolute.

    Raises:
        MissingExtraError: If the harness is not installed.
        EvaluationError: If the task is not from local files, names code, cannot be run, or scores no item.
    """
    require_harness()
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    task = read_task(path)
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("sdpa")
    try:
        with _quiet():
            asked = HFLM(lm.model, tokenizer=lm.tokenizer, batch_size=BATCH, max_length=lm.max_length)
            found: Any = simple_evaluate(asked, tasks=[task], bootstrap_iters=0, log_samples=True)
    except Exception as error:  # the harness raises whatever its parts do
        raise EvaluationError(
            f"{path}: lm-evaluation-harness could not run it: {type(error).__name__}: {error}"
        ) from error
    finally:
        lm.model.set_attn_implementation(before)
    samples = found["samples"][task["task"]]
    samples = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]  # one for each item
    samples.sort(key=lambda sample: sample["doc_id"])
    metric = next((name for name in METRICS if samples and name in samples[0]), None)
    if metric is None:
        raise EvaluationError(f"{path}: none of its metrics is {', '.join(METRICS)}, so its items have no score here.")
    return {"accuracy": [float(sample[metric]) for sample in samples]}


def require_harness() -> None:
    """Raise MissingExtraError where the harness is not installed."""
    if find_spec("lm_eval") is None:
        raise MissingExtraError(
            "lm-evaluation-harness is not installed. Run: pip install 'tunesmith[lm-eval]', or remove "
            "forgetting.harness."
        )


def read_task(path: str) -> dict[str, Any]:
    """A task file's settings, its data files made absolute.

    Raises:
        EvaluationError: If it cannot be read, names code, or its data is not in local files.
    """
    import yaml

    try:
        task = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # refuses !function, which is code
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EvaluationError(f"{path}: not a task file that can be read: {' '.join(str(error).split())}") from error
    if not isinstance(task, dict) or not isinstance(task.get("task"), str) or task.get("dataset_path") not in LOCAL:
        raise EvaluationError(
            f"{path}: expected a task of its own (task: NAME) with local data (dataset_path: {', '.join(LOCAL)})."
        )
    if "include" in task or task.get("unsafe_code"):
        raise EvaluationError(f"{path}: 'include' and 'unsafe_code' are not taken. Write the task's settings out.")
    files = (task.get("dataset_kwargs") or {}).get("data_files")
    if not files:
        raise EvaluationError(f"{path}: names no files. Write dataset_kwargs: {{data_files: {{test: FILE}}}}.")
    task["dataset_kwargs"] = {**task["dataset_kwargs"], "data_files": _absolute(files, Path(path).parent, path)}
    return task


def _absolute(files: Any, folder: Path, path: str) -> Any:
    if isinstance(files, dict):
        return {split: _absolute(part, folder, path) for split, part in files.items()}
    if isinstance(files, list):
        return [_absolute(part, folder, path) for part in files]
    file = (folder / str(files)).absolute()
    if not file.is_file():
        raise EvaluationError(f"{path}: {file} is not there. Data of a task is taken from local files only.")
    return str(file)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness's own logging and progress bars kept from the screen."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
