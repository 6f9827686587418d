"""Multi-task learning: several tasks trained at once, and each compared with being trained alone.

Every task is a run directory of its own below ``tasks/``, with its splits, plan, candidates and report. The model of
all tasks is trained once, in the run's own ``candidates/``; on each task's test examples it stands as one candidate
more, ``multi/<model>/<method>``, judged like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates import Context
from tunesmith.candidates.candidate import Listener, model_id
from tunesmith.candidates.tuned import Part, Tuned, one_interface
from tunesmith.config import FORMAT_VERSION, Config, Mixing, Mixture, TaskPart
from tunesmith.errors import ConfigError, RunError, TunesmithError
from tunesmith.evaluate.compare import Comparison, compare, standing
from tunesmith.hardware import peak_memory_bytes, reset_peak_memory
from tunesmith.measures.gradients import cosine_matrix
from tunesmith.measures.mixing import mixing_weights, normalized_weights
from tunesmith.measures.uncertainty import holm
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.report.mixture import write_mixture_page
from tunesmith.report.write import write_report
from tunesmith.run import Run, read_examples, read_json, read_predictions, write_json, write_predictions
from tunesmith.tasks import Task
from tunesmith.train.batches import Mixed
from tunesmith.workflow import (
    evaluate_candidate,
    fitted,
    is_evaluated,
    make_plan,
    measure,
    plan_in_words,
    prepare,
    start,
)

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.methods import Attached
    from tunesmith.train.objectives import Item, Objective

GRADIENT_ITEMS = 64  # items of each task whose gradient is compared with the other tasks'
Json = dict[str, Any]


def task_configs(config: Mixture) -> dict[str, Config]:
    """Every task's own project file."""
    return {name: config.with_task(part.task, part.data) for name, part in config.tasks.items()}


def run_mixture(config: Mixture, folder: Path, listener: Listener, command: str) -> Json:
    """Train each task alone and all together, and judge both on each task's test examples.

    Returns:
        report.json: per task the candidates and what multi-task training changed against the base and against
        training alone, with intervals; the mixture's rates; the cosines between the tasks' gradients.

    Raises:
        TunesmithError: What cannot be used or done; the problems of all tasks in one message.
    """
    directory = Run(folder)
    with directory.lock():
        start(config, directory, command)
        singles = task_configs(config)
        runs = {name: Run(folder / "tasks" / name) for name in singles}
        tasks, plans = _prepare_all(singles, runs, command, listener)
        parts = {name: _part(name, tasks[name], run) for name, run in runs.items()}
        methods = [method.kind for method in config.method]
        if "tune" in config.candidates:
            _refuse_what_does_not_mix(config, plans, list(parts.values()))
            for method in methods:
                _evaluate_together(config, directory, runs, plans, list(parts.values()), method, listener)
        for name, run in runs.items():
            waiting = [row for row in plans[name]["candidates"] if not is_evaluated(run, row["id"])]
            waiting = [row for row in waiting if row["family"] != "multi"]
            if waiting:
                run.count_test_look(", ".join(row["id"] for row in waiting))
            for row in waiting:
                evaluate_candidate(singles[name], run, tasks[name], plans[name], row, _named(listener, name))
        listener("report", 0, 0, {})
        reports = {name: write_report(run) for name, run in runs.items()}
        return _report(config, directory, runs, reports)


def _named(listener: Listener, name: str) -> Listener:
    return lambda stage, done, total, values: listener(f"{name}: {stage}", done, total, values)


def _prepare_all(
    singles: Mapping[str, Config], runs: Mapping[str, Run], command: str, listener: Listener
) -> tuple[dict[str, Task], dict[str, Json]]:
    """Read, split and plan every task; nothing is trained before all of them can be."""
    tasks: dict[str, Task] = {}
    plans: dict[str, Json] = {}
    problems: list[str] = []
    for name, one in singles.items():
        try:
            start(one, runs[name], command)
            tasks[name] = prepare(one, runs[name], _named(listener, name))
            plans[name] = make_plan(one, runs[name], _named(listener, name))
            listener(f"{name}: {plan_in_words(plans[name])}", 0, 0, {})
        except RunError:
            raise
        except TunesmithError as error:
            problems.append(f"tasks.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    for name, one in singles.items():
        if "tune" in one.candidates and not any(row["family"] == "multi" for row in plans[name]["candidates"]):
            plans[name]["candidates"] += [_row(one, method.kind) for method in one.method]
            write_json(runs[name].plan_file, plans[name])
    return tasks, plans


def _row(config: Config, method: str) -> Json:
    return {
        "id": _id(config.model, method), "family": "multi", "baseline": False, "estimated_seconds": 0,
        "estimated_memory_bytes": 0, "reason": "one model for all tasks; trained once",
    }  # fmt: skip


def _id(model: str | None, method: str) -> str:
    return f"multi/{model_id(model or DEFAULT_MODEL)}/{method}"


def _part(name: str, task: Task, run: Run) -> Part:
    return Part(name, task, read_examples(run.split("train")), read_examples(run.split("validation")))


def _refuse_what_does_not_mix(config: Mixture, plans: Mapping[str, Json], parts: Sequence[Part]) -> None:
    architecture = next(iter(plans.values()))["facts"]["architecture"]
    problems = []
    for method in config.method:
        try:
            one_interface(parts, architecture, method.kind)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


# ── training together ────────────────────────────────────────────────────────────────────────────────────
def drawing_rates(tasks: Mapping[str, TaskPart], mixing: Mixing, sizes: Sequence[int]) -> list[float]:
    """Share of each task in what is drawn: the weights given, or by size with temperature and cap."""
    given = [part.weight for part in tasks.values() if part.weight is not None]
    return normalized_weights(given) if given else mixing_weights(sizes, mixing.temperature, mixing.cap)


def mixture_rates(config: Mixture, sizes: Mapping[str, int]) -> dict[str, float]:
    """The rates of a mixture by task."""
    rates = drawing_rates(config.tasks, config.mixing, [sizes[name] for name in config.tasks])
    return dict(zip(config.tasks, rates, strict=True))


def _evaluate_together(
    config: Mixture,
    directory: Run,
    runs: Mapping[str, Run],
    plans: Mapping[str, Json],
    parts: Sequence[Part],
    method: str,
    listener: Listener,
) -> None:
    """Train one model on all tasks, and judge it on each; a task's results that are complete are kept."""
    candidate_id = _id(config.model, method)
    waiting = [part for part in parts if not is_evaluated(runs[part.name], candidate_id)]
    if not waiting:
        return
    sizes = {part.name: len(part.train) for part in parts}
    rates = mixture_rates(config, sizes)
    one = task_configs(config)[parts[0].name]
    planned = plans[parts[0].name]
    loop = {method: joint_loop(list(plans.values()), method)}
    context = Context(one, parts[0].task, config.model or DEFAULT_MODEL, loop, planned["max_length"], listener)
    folder = directory.candidate(candidate_id)
    tuned = Tuned(context, candidate_id, folder)

    def mixed(item_counts: Sequence[int]) -> Mixed:
        return Mixed(tuple(item_counts), tuple(rates[part.name] for part in parts), sum(item_counts))

    def probe(lm: LanguageModel, attached: Attached, objective: Objective, items: Mapping[str, Sequence[Item]]) -> None:
        write_json(folder / "gradients.json", _gradient_cosines(attached, objective, items, config.seed))

    reset_peak_memory()
    shared: Json
    try:
        fit = tuned.fit_parts(parts, mixed, probe=probe)
        fit.details |= {"rates": rates, "items": sizes}
        shared = {"status": "ok", **fitted(fit)}
    except TunesmithError as error:
        if isinstance(error, RunError):
            raise
        shared = {"status": "failed", "reason": str(error), "metrics": {}}
    for part in waiting:
        run = runs[part.name]
        entry: Json = {"id": candidate_id, "baseline": False, **shared}
        if shared["status"] == "ok":
            run.count_test_look(candidate_id)
            predictions = tuned.predict_for(part.task, read_examples(run.split("test")))
            write_predictions(run.candidate(candidate_id) / "predictions.parquet", predictions)
            entry |= measure(part.task, predictions, config.seed)
        entry["peak_memory_bytes"] = peak_memory_bytes()
        write_json(run.candidate(candidate_id) / "evaluation.json", entry)


def joint_loop(plans: Sequence[Json], method: str) -> Json:
    """The loop's settings for several tasks at once: the first one's, with the passes that they get alone on average.

    The mean is weighted by the tasks' sizes, and whole where they differ.
    """
    loops = [plan["loop"].get(method) or next(iter(plan["loop"].values())) for plan in plans]
    sizes = [plan["facts"]["train"] for plan in plans]
    passes = [loop["epochs"] for loop in loops]
    mean = sum(n * epochs for n, epochs in zip(sizes, passes, strict=True)) / sum(sizes)
    return {**loops[0], "epochs": passes[0] if len(set(passes)) == 1 else float(max(1, round(mean)))}


def _gradient_cosines(attached: Attached, objective: Objective, items: Mapping[str, Sequence[Item]], seed: int) -> Json:
    """Cosines between the tasks' mean gradients before training: a diagnosis, nothing is changed by it."""
    import torch

    rng = np.random.default_rng([seed, 8])
    gradients = []
    for part in items.values():
        chosen = [part[i] for i in rng.permutation(len(part))[:GRADIENT_ITEMS]]
        attached.model.eval()
        for loss in objective.losses(attached.model, chosen, 1.0 / sum(item.units for item in chosen)):
            loss.backward()
        parameters = attached.trainable.values()
        flat = [
            torch.zeros(p.numel()) if p.grad is None else p.grad.detach().float().cpu().flatten() for p in parameters
        ]
        gradients.append(torch.cat(flat).numpy())
        for parameter in parameters:
            parameter.grad = None
    return {"tasks": list(items), "cosines": cosine_matrix(np.stack(gradients)).tolist(), "items": GRADIENT_ITEMS}


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────
def _report(config: Mixture, directory: Run, runs: Mapping[str, Run], reports: Mapping[str, Json]) -> Json:
    settings = directory.settings()
    results = {name: _task_result(config, runs[name], reports[name]) for name in reports}
    found = [(name, c) for name in results for c in results[name]["comparisons"]]
    for (_, c), p in zip(found, holm([c["p_value"] for _, c in found]), strict=True):
        c["adjusted_p_value"] = p  # over all tasks, so that many tasks do not make a difference by chance
    gradients = {}
    for method in config.method:
        file = directory.candidate(_id(config.model, method.kind)) / "gradients.json"
        if file.is_file():
            gradients[method.kind] = read_json(file)
    report: Json = {
        "format_version": FORMAT_VERSION, "schedule": "mixture", "name": settings["name"],
        "created": settings["created"], "tasks": results, "gradients": gradients,
        "rates": mixture_rates(config, {name: reports[name]["data"]["train"] for name in reports}),
        "verdict": _verdict(results), "settings": settings["config"], "command": settings["command"],
        "versions": settings["versions"], "hardware": settings["hardware"],
        "candidates": [
            {"id": f"{name}: {c['id']}", "status": c["status"], "reason": c.get("reason", "")}
            for name in reports
            for c in reports[name]["candidates"]
        ],
    }  # fmt: skip
    write_json(directory.report_file, report)
    write_mixture_page(directory, report)
    return report


def _task_result(config: Mixture, run: Run, report: Json) -> Json:
    """One task: every candidate's metric, and what multi-task training changed, on the same test examples."""
    metric = report["task"]["metric"]
    candidates = {c["id"]: c for c in report["candidates"]}
    comparisons: list[Json] = []
    for method in config.method:
        multi = _id(config.model, method.kind)
        alone = f"tune/{model_id(config.model or DEFAULT_MODEL)}/{method.kind}"
        for other in (alone, "prompt/zero-shot"):
            if all(candidates.get(c, {}).get("status") == "ok" for c in (multi, other)):
                answers = [read_predictions(run.candidate(c) / "predictions.parquet") for c in (multi, other)]
                found: Comparison = compare(answers[0], answers[1], metric, np.random.default_rng(config.seed))
                comparisons.append(found.to_json())
    return {
        "kind": report["task"]["kind"], "metric": metric, "verdict": report["verdict"],
        "data": {part: report["data"][part] for part in ("train", "validation", "test")},
        "folder": f"tasks/{run.folder.name}", "comparisons": comparisons,
        "metrics": {c["id"]: c["metrics"][metric] for c in report["candidates"] if c["status"] == "ok"},
    }  # fmt: skip


def _verdict(results: Mapping[str, Json]) -> Json:
    """How many tasks gained and lost by being trained together, beyond chance and beyond each other."""
    better: list[str] = []
    worse: list[str] = []
    even: list[str] = []
    missing: list[str] = []
    for name, result in results.items():
        against = [c for c in result["comparisons"] if c["b"].startswith("tune/")]
        if not against:
            missing.append(name)
        for c in against:
            {"better": better, "worse": worse, "even": even}[standing(c)].append(name)
    sentences = []
    for names, what in ((better, "better"), (worse, "worse"), (even, "neither shown better nor worse")):
        if names:
            sentences.append(f"{what} on {len(names)} ({', '.join(dict.fromkeys(names))})")
    reason = "Trained together, against each task trained alone: " + ("; ".join(sentences) or "nothing was compared")
    if missing:
        reason += f". Not compared: {', '.join(missing)}"
    return {"better": better, "worse": worse, "even": even, "not_compared": missing, "reason": reason + "."}
