"""The report of a run with stages, every number from what is stored of each task's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.config import FORMAT_VERSION, Stages, parse_any_config
from tunesmith.errors import ConfigError
from tunesmith.evaluate.compare import compare, standing
from tunesmith.evaluate.metrics import METRICS, bare_difference, difference_in_words
from tunesmith.evaluate.retention import TaskAnswers, retention
from tunesmith.measures.uncertainty import holm
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Finding, Prediction
from tunesmith.report.stages import write_stages_page
from tunesmith.run import Run, read_json, read_predictions, write_json
from tunesmith.schedules.places import (
    BASE,
    Place,
    after_id,
    joint_id,
    joint_problem,
    method_of,
    stage_configs,
    stage_id_of,
)
from tunesmith.workflow import is_evaluated

Json = dict[str, Any]


def stage_answers(folder: Path | str) -> list[TaskAnswers]:
    """Stored answers of a run with stages, for ``evaluate.retention``: one entry for each stage.

    The tasks of a stage that has several are pooled: each of their test examples counts the same.

    Raises:
        NotFoundError: If there is no run, or it was not finished.
        ConfigError: If the run has no stages, or a stage's tasks have different metrics or one that is no mean.
    """
    directory = Run.open(Path(folder))
    config = parse_any_config(directory.settings()["config"])
    if not isinstance(config, Stages):
        raise ConfigError(f"{folder}: a run without stages. Name one whose project file has 'stages'.")
    runs = []
    for k, name, one in stage_configs(config):
        stage, _, task = name.partition("/")
        below = directory.folder / "stages" / f"{k + 1}-{stage}" / (f"tasks/{task}" if task else "")
        runs.append((k, name, one.task.metric, Run(below)))
    return _answers(config, runs)


def _answers(config: Stages, runs: Sequence[tuple[int, str, str, Run]]) -> list[TaskAnswers]:
    found = []
    for k, stage in enumerate(config.stages):
        own = [(name, metric, run) for stage_of, name, metric, run in runs if stage_of == k]
        metrics = {metric for _, metric, _ in own}
        if len(own) > 1 and (len(metrics) > 1 or METRICS[own[0][1]].statistic is not None):
            raise ConfigError(
                f"stage {stage.name}: its tasks are measured by {', '.join(sorted(metrics))}, which cannot be pooled "
                "into one score of the stage."
            )
        after = [_pooled(own, after_id(i, other)) for i, other in enumerate(config.stages)]
        found.append(TaskAnswers(stage.name, own[0][1], _pooled(own, BASE), after))
    return found


def _pooled(own: Sequence[tuple[str, str, Run]], candidate_id: str) -> list[Prediction] | None:
    pooled: list[Prediction] = []
    for name, _, run in own:
        if not is_evaluated(run, candidate_id):
            return None
        answers = read_predictions(run.candidate(candidate_id) / "predictions.parquet")
        if len(own) > 1:  # examples of different tasks may be equal
            answers = [
                replace(p, example_id=f"{name}/{p.example_id}", cluster=p.cluster and f"{name}/{p.cluster}")
                for p in answers
            ]
        pooled += answers
    return pooled


def report_stages(config: Stages, directory: Run, places: Sequence[Place]) -> Json:
    settings = directory.settings()
    stages = [_stage_entry(config, directory, k) for k in range(len(config.stages))]
    held = _retention(config, places)
    joint = _joint_entry(config, directory, places) if config.joint else None
    report: Json = {
        "format_version": FORMAT_VERSION, "schedule": "stages", "name": settings["name"],
        "created": settings["created"], "model": config.model or DEFAULT_MODEL, "stages": stages,
        "tasks": {place.name: _task_entry(directory, place) for place in places},
        "retention": held, "joint": joint, "verdict": _verdict(held, joint),
        "findings": [f for stage in stages for f in stage.pop("findings")] + _overlaps(places),
        "candidates": [
            {"id": f"{place.name}: {row['id']}", "status": found["status"], "reason": found.get("reason", "")}
            for place in places
            for row in place.plan["candidates"]
            for found in [read_json(place.run.candidate(row["id"]) / "evaluation.json")]
        ],
        "settings": settings["config"], "command": settings["command"], "versions": settings["versions"],
        "hardware": settings["hardware"],
    }  # fmt: skip
    write_json(directory.report_file, report)
    write_stages_page(directory, report)
    return report


def _stage_entry(config: Stages, directory: Run, k: int) -> Json:
    stage, fit = config.stages[k], read_json(directory.candidate(stage_id_of(config, k)) / "fit.json")
    return {
        "name": stage.name, "method": method_of(config, stage).kind, "candidate": after_id(k, stage),
        "tasks": list(fit["train"]), "start": fit["lineage"]["start"],
        **{key: fit[key] for key in (
            "lineage", "train", "replayed", "train_seconds", "tokens_trained", "trainable_parameters",
            "peak_memory_bytes", "forgetting", "overfitting", "findings",
        )},
        "replay": stage.replay, "replay_from": stage.replay_from if stage.replay else None,
    }  # fmt: skip


def _task_entry(directory: Run, place: Place) -> Json:
    report = read_json(place.run.report_file)
    return {
        "stage": place.stage, "kind": place.task.kind, "metric": place.task.metric, "verdict": report["verdict"],
        "data": {part: report["data"][part] for part in ("train", "validation", "test")},
        "folder": str(place.run.folder.relative_to(directory.folder)),
    }  # fmt: skip


def _cell(place: Place, candidate_id: str) -> Json | None:
    if not is_evaluated(place.run, candidate_id):
        return None
    cell: Json = read_json(place.run.candidate(candidate_id) / "evaluation.json")["metrics"][place.task.metric]
    return cell


def _retention(config: Stages, places: Sequence[Place]) -> Json:
    """The matrix, a column for each task, and the measures, each stage's tasks pooled."""
    rows = [("base", BASE), *((stage.name, after_id(k, stage)) for k, stage in enumerate(config.stages))]
    found: Json = {
        "metric": {place.name: place.task.metric for place in places},
        "matrix": [
            {"after": name, "candidate": candidate, "cells": {place.name: _cell(place, candidate) for place in places}}
            for name, candidate in rows
        ],
    }  # fmt: skip
    measures = ("average_accuracy", "backward_transfer", "forward_transfer", "average_forgetting")
    try:
        answers = _answers(config, [(p.stage, p.name, p.task.metric, p.run) for p in places])
    except ConfigError as error:
        return {**found, **dict.fromkeys(measures), "reason": str(error)}
    held = retention(answers, np.random.default_rng([config.seed, 10])).to_json()
    return {**found, **{name: held[name] for name in measures}, "reason": held["reason"]}


def _joint_entry(config: Stages, directory: Run, places: Sequence[Place]) -> Json:
    """Training on everything at once, and how the last stage's model differs from it on every task."""
    problem = joint_problem(config, places)
    if problem is not None:
        return {"candidate": joint_id(config), "status": "not_run", "reason": problem, "cells": {}, "differences": {}}
    joint, last = joint_id(config), after_id(len(config.stages) - 1, config.stages[-1])
    failed = [
        entry
        for place in places
        if (entry := read_json(place.run.candidate(joint) / "evaluation.json"))["status"] != "ok"
    ]
    if failed:
        return {"candidate": joint, "status": "failed", "reason": failed[0]["reason"], "cells": {}, "differences": {}}
    fit = read_json(directory.candidate(joint) / "fit.json")
    differences: Json = {}
    for place in places:
        pair = [read_predictions(place.run.candidate(c) / "predictions.parquet") for c in (last, joint)]
        if METRICS[place.task.metric].comparable:
            rng = np.random.default_rng([config.seed, 11])
            differences[place.name] = compare(pair[0], pair[1], place.task.metric, rng).to_json()
    adjusted = holm([c["p_value"] for c in differences.values()])  # over the tasks
    for c, p in zip(differences.values(), adjusted, strict=True):
        c["adjusted_p_value"] = p
    return {
        "candidate": joint, "status": "ok", "cells": {place.name: _cell(place, joint) for place in places},
        "differences": differences, **{key: fit[key] for key in ("train_seconds", "tokens_trained", "forgetting")},
    }  # fmt: skip


def _overlaps(places: Sequence[Place]) -> list[Json]:
    """Test examples of one stage that another stage trains on: what would make forgetting look smaller."""
    learned = {place.name: {example.prompt_key for example in place.examples("train")} for place in places}
    findings = []
    for place in places:
        asked = [example.prompt_key for example in place.examples("test")]
        for name, keys in learned.items():
            shared = sum(key in keys for key in asked)
            if shared and name != place.name:
                message = f"{shared:,} test examples of {place.name} stand among the training examples of {name}."
                fix = "Remove them from one of the two: what is asked must not be taught by another stage."
                findings.append(Finding("overlap_between_stages", "warning", shared, message, fix=fix).to_json())
    return findings


def _verdict(held: Json, joint: Json | None) -> Json:
    """Whether the earlier tasks were kept, and whether the order cost anything against training all at once."""
    metrics = list(dict.fromkeys(held["metric"].values()))
    lost = held["average_forgetting"]
    if lost is None:
        forgot = None
        sentence = f"How much was forgotten has no single number: {held['reason'] or 'there is one stage only.'}"
    else:
        value, high = (difference_in_words(lost[key], metrics[0]) for key in ("value", "high"))
        low = bare_difference(lost["low"], metrics[0])
        forgot = lost["low"] > 0
        shown = "they forgot" if forgot else "forgetting is not shown"
        sentence = (
            f"After the last stage the earlier stages' tasks score {value} below their best on average (95 % interval "
            f"{low} to {high}): {shown}."
        )
    against: dict[str, list[str]] = {"better": [], "worse": [], "even": []}
    if joint is None:
        sentence += " Training on all stages at once was not asked for."
    elif joint["status"] != "ok":
        sentence += f" Training on all stages at once gave nothing to compare with: {joint['reason']}"
    else:
        for name, c in joint["differences"].items():
            against[standing(c)].append(name)
        said = [f"{what} on {', '.join(names)}" for what, names in against.items() if names and what != "even"]
        if against["even"]:
            said.append(f"not shown to differ on {', '.join(against['even'])}")
        sentence += f" Against training on all stages at once, the sequence is {'; '.join(said)}."
    return {"reason": sentence, "forgot": forgot, "against_joint": against}
