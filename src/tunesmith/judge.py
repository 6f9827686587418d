"""Judge again: a run's numbers from its stored predictions, or any model on any file of examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tunesmith.config import Config, Data, Fairness, parse_config
from tunesmith.config import Task as TaskSettings
from tunesmith.data.split import labels_of
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.evaluate.bias import bias_of_run
from tunesmith.evaluate.compare import choose, compare_all, read_contender
from tunesmith.records import Example, Prediction
from tunesmith.report.runs import compare_runs
from tunesmith.report.write import write_report
from tunesmith.run import (
    Run,
    read_examples,
    read_json,
    read_predictions,
    saved_model,
    saved_predictor,
    write_predictions,
)
from tunesmith.tasks import Task, build_task
from tunesmith.workflow import calibrated, measure, silent

if TYPE_CHECKING:
    from tunesmith.candidates.candidate import Listener

TOLERANCE = 1e-9  # relative; other versions of numpy may round differently
Json = dict[str, Any]


# ── a run, from its stored predictions ───────────────────────────────────────────────────────────────────
def recheck(folder: Path | str) -> Json:
    """Compute every number of a run that rests on predictions again, and compare it with report.json.

    Also checked: that the predictions answer the test split, all of it, in order, against its own answers. If all
    agrees, the report is written again; otherwise nothing is changed. Nothing is predicted, so the test split is
    not looked at.

    Returns:
        ``numbers`` compared, ``differences`` with where, what is reported and what was recomputed, ``equal``.

    Raises:
        NotFoundError: If the run has no report, or lacks a file.
        RunError: If a file is damaged, or another process is writing the run.
    """
    run = Run.open(Path(folder))
    with run.lock():
        config = parse_config(run.settings()["config"])
        report, data = read_json(run.report_file), read_json(run.data_file)
        task = build_task(config.task, data["task_labels"], data["instruction"])
        test = read_examples(run.split("test"))
        stored = {
            c["id"]: read_predictions(run.candidate(c["id"]) / "predictions.parquet")
            for c in report["candidates"]
            if c["status"] == "ok"
        }
        differences = [d for name, answers in stored.items() for d in _not_of(test, name, answers)]
        again = {name: measure(task, answers, config.seed) for name, answers in stored.items()}
        for name in again:
            if "calibration" in next(c for c in report["candidates"] if c["id"] == name):
                file = run.candidate(name) / "validation.parquet"
                held_out = read_predictions(file) if file.is_file() else ()
                again[name] |= calibrated(task, stored[name], held_out, config.seed)
        with_bias = config.data.sensitive or config.fairness != Fairness()
        bias, audit = bias_of_run(run, config.model_dump(mode="json"), stored)
        if with_bias:
            for name, found in bias.items():
                again[name]["bias"] = found
        candidates = [c | again.get(c["id"], {}) for c in report["candidates"]]
        comparisons = compare_all(stored, task.metric, np.random.default_rng(config.seed))
        contenders = [read_contender(c, task.metric, config.guardrails.model_dump()) for c in candidates]
        verdict = choose(contenders, comparisons, metric=task.metric, margin=config.margin)
        reported = {c["id"]: c for c in report["candidates"]}
        pairs = [
            *((name, {key: reported[name].get(key) for key in new}, new) for name, new in again.items()),
            ("comparisons", report["comparisons"], [c.to_json() for c in comparisons]),
            ("verdict", report["verdict"], verdict.to_json()),
        ]
        if with_bias:
            pairs.append(("data.bias", report["data"]["bias"], audit))
        compared = [leaf for pair in pairs for leaf in _leaves(*pair)]
        differences += [
            {"where": where, "reported": old, "recomputed": new} for where, old, new in compared if not _same(old, new)
        ]
        if not differences:
            write_report(run)
        return {
            "run": str(run.folder), "equal": not differences, "numbers": len(compared), "differences": differences,
        }  # fmt: skip


def _not_of(test: Sequence[Example], name: str, predictions: Sequence[Prediction]) -> list[Json]:
    """Where predictions are not those of the test split."""
    expected = [(example.id, example.answer, example.sensitive) for example in test]
    found = [(p.example_id, p.target, p.sensitive) for p in predictions]
    if expected == found:
        return []
    wrong = sum(a != b for a, b in zip(expected, found, strict=False)) + abs(len(expected) - len(found))
    return [{"where": f"{name}: test examples answered, with their targets", "reported": len(expected),
             "recomputed": len(expected) - wrong}]  # fmt: skip


def _leaves(where: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Both sides of every value in two JSON trees."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _leaves(f"{where}.{key}", old.get(key), new.get(key))
    elif isinstance(old, Sequence) and isinstance(new, Sequence) and not isinstance(old, str) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{where}[{index}]", a, b)
    else:
        yield where, old, new


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(old == new)


# ── a model, on a file of examples ───────────────────────────────────────────────────────────────────────
def evaluate(
    model: str,
    data: str,
    config: Config | None = None,
    *,
    text: str | None = None,
    label: str | None = None,
    out: Path | None = None,
    listener: Listener = silent,
) -> Json:
    """Score a model on every example of a file.

    A model that Tunesmith saved knows its task and how the rows of its training file were laid out; for any other,
    ``config`` says it. If the model or the file is a run's and the examples are among its test split, a look at the
    test split is counted in that run.

    Args:
        model: A catalog name, a path, ``hf:owner/name``, a saved model or adapter, a candidate's folder with a
            predictor on vectors (embedding, setfit), or the run that chose one of these.
        data: A file of examples, as in ``config.data``, or a split of a run.
        config: Task, layout of the data and seed; where the model knows its task, this one is taken instead.
        text: Column with the input, if not the config's.
        label: Column with the label or answer, if not the config's.
        out: Parquet file for the predictions.

    Returns:
        Metrics with 95 % intervals, seconds and tokens per example, and the looks counted, by run; of a predictor
        also how many texts were cut, being longer than its encoder reads.

    Raises:
        NotFoundError: If the model or the file is not there.
        ConfigError: If neither the model nor a config says what the task is, or which of its several tasks.
        DataError: If the file cannot be used, or has labels that the model does not know.
    """
    from tunesmith.candidates.predictor import SavedPredictor, load_predictor
    from tunesmith.model.load import load_model

    kept = saved_predictor(model)
    model = saved_model(model) if kept is None else str(kept)
    listener(f"loading {model}", 0, 0, {})
    asked = load_model(model, _interface(model, config)) if kept is None else load_predictor(kept)
    if config is None and "task" not in asked.origin:
        raise ConfigError(
            f"{model}: does not say what its task is; only a model that a run saved does. "
            "Give a project file with --config."
        )
    parts = [part["name"] for part in asked.origin.get("parts") or ()]
    if config is None and len(parts) > 1:
        raise ConfigError(
            f"{model}: was trained on several tasks ({', '.join(parts)}), and this file could be any one's. Say which "
            "with --config and a project file that has this task alone."
        )
    if kept is not None and config is not None and config.task.kind != asked.origin["task"]["kind"]:
        raise ConfigError(
            f"{model}: was fitted for task {asked.origin['task']['kind']}, and --config has {config.task.kind}. "
            "Leave the task as it was; data's layout and the seed may differ."
        )
    settings = config.task if config is not None and kept is None else _task_of(model, asked.origin)
    layout = config.data if config is not None else saved_layout(model, asked.origin) or Data(train=data)
    layout = layout.model_copy(update={k: v for k, v in (("text", text), ("label", label)) if v is not None})
    try:
        examples, instruction = _read(data, settings.kind, layout, asked.origin.get("columns") or ())
    except DataError as error:
        if config is not None or "data" not in asked.origin:
            raise
        raise DataError(
            f"{error}\nRows are read as those of the model's training file were; say otherwise with --text and "
            "--label, or give a project file with --config."
        ) from error
    task = _build_task(settings, asked.origin, examples, instruction, data)
    done = [0]

    def progress(n: int) -> None:
        done[0] += n
        listener("evaluating", done[0], len(examples), {})

    looks = {
        str(run.folder): run.count_test_look(f"evaluate {model} on {data}") for run in _looked_at(model, data, examples)
    }
    if isinstance(asked, SavedPredictor):
        predictions = asked.predict(examples, progress)
    else:
        predictions = task.predict(asked, examples, model, (), progress)
    if out is not None:
        write_predictions(out, predictions)
    return {
        "model": model, "data": data, "task": {"kind": task.kind, "metric": task.metric}, "n": len(predictions),
        **measure(task, predictions, config.seed if config is not None else 0),
        **({"texts_cut": asked.texts_cut} if isinstance(asked, SavedPredictor) else {}),
        "predictions": str(out) if out is not None else None, "test_looks": looks,
    }  # fmt: skip


def _interface(model: str, config: Config | None) -> str:
    """How a base model is asked; a saved one knows, and reads past this.

    Raises:
        ConfigError: If it is an encoder, which says nothing before it is trained.
    """
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import is_saved
    from tunesmith.sources import resolve_model

    if is_saved(model) or config is None:
        return "causal"
    kind = architecture(resolve_model(model))
    if kind in ("encoder", "image-encoder"):
        raise ConfigError(
            f"{model}: an {kind.replace('-', ' ')}, which gives no answers before a head on it is trained. "
            "Give the folder of a trained one, or a model that writes text."
        )
    by_kind = {"encoder-decoder": "seq2seq", "vision-language": "image_text"}
    return by_kind.get(kind, "preference" if config.task.kind == "preference" else "causal")


def _task_of(model: str, origin: Mapping[str, Any]) -> TaskSettings:
    """The task that a model's own file names."""
    try:
        stored: TaskSettings = TypeAdapter(TaskSettings).validate_python(origin["task"])
    except ValidationError as error:
        raise ModelError(f"{model}: its own file names a task that is not one. Train it again.") from error
    if not hasattr(stored, "instruction"):
        return stored
    # what training read from the data stands in the model's own words
    return stored.model_copy(update={"instruction": origin.get("instruction") or stored.instruction})


def saved_task(model: str, origin: Mapping[str, Any]) -> Task:
    """The task that a saved model was trained for, with the labels and the instruction of its training.

    Args:
        model: Its name, for messages.
        origin: What was saved with it.

    Raises:
        ModelError: If what is saved with it is not a task.
    """
    return build_task(_task_of(model, origin), origin.get("labels") or (), None)


def saved_layout(model: str, origin: Mapping[str, Any]) -> Data | None:
    """How the rows of a saved model's training file were laid out; None where it does not say.

    Args:
        model: Its name, for messages.
        origin: What was saved with it.

    Raises:
        ModelError: If what is saved with it is no layout.
    """
    if "data" not in origin:
        return None
    try:
        return Data.model_validate({"train": model, **origin["data"]})
    except (ValidationError, TypeError) as error:
        raise ModelError(f"{model}: its own file holds a layout of data that is not one. Train it again.") from error


def _read(data: str, kind: str, layout: Data, columns: Sequence[str]) -> tuple[Sequence[Example], str | None]:
    """The examples of a file, or of a run's split, and the instruction that they share.

    Rows of a table get the ``columns`` that the model was trained on, where it says them.
    """
    from tunesmith.data.prepare import read_source
    from tunesmith.data.read.table import arranged

    path = Path(data).expanduser()
    if ":" not in data and _run_of_split(path) is not None:
        return read_examples(path), read_json(path.parent.parent / "data.json")["instruction"]
    found = read_source(data, layout, kind, "test")
    if layout.format == "table" and columns:
        return [arranged(example, columns, layout.template) for example in found.examples], found.instruction
    return found.examples, found.instruction


def _build_task(
    settings: TaskSettings,
    origin: Mapping[str, Any],
    examples: Sequence[Example],
    instruction: str | None,
    data: str,
) -> Task:
    labels: Sequence[str] = ()
    if settings.kind in ("classification", "multi_label"):
        found = Counter(label for example in examples for label in labels_of(example, settings.kind))
        labels = origin.get("labels") or sorted(found)
        if (words := getattr(settings, "labels", None)) is not None:
            labels = list(words)
        unknown = [f"'{label}' ({n})" for label, n in sorted(found.items()) if label not in labels]
        if unknown:
            raise DataError(
                f"{data}: has labels that the model does not know: {', '.join(unknown[:20])}. It knows "
                f"{', '.join(map(str, labels[:20]))}. Rename them, or is --label the right column?"
            )
    return build_task(settings, labels, instruction)


def _run_of_split(path: Path) -> Run | None:
    folder = path.resolve().parent.parent
    return Run(folder) if path.parent.name == "splits" and (folder / "run.yaml").is_file() else None


def _looked_at(model: str, data: str, examples: Sequence[Example]) -> list[Run]:
    """Runs, of the model or of the file, to whose test split some of the examples belong."""
    place = Path(model).expanduser().resolve()
    runs = {}
    for folder in place.parents[1:3]:  # of a candidate, or of the weights in one
        if (folder / "run.yaml").is_file():
            runs[folder] = Run(folder)
    of_split = None if ":" in data else _run_of_split(Path(data).expanduser())
    if of_split is not None:
        runs[of_split.folder] = of_split
    ids = {example.id for example in examples}
    return [
        run
        for run in runs.values()
        if run.split("test").is_file() and ids & {example.id for example in read_examples(run.split("test"))}
    ]


def compare(first: Path | str, second: Path | str, candidate: str | None = None) -> Json:
    """Compare two runs on the test examples they share; see :func:`tunesmith.report.runs.compare_runs`."""
    return compare_runs(Run.open(Path(first)), Run.open(Path(second)), candidate)
