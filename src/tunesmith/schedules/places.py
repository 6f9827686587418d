"""The tasks of a run with stages, each with a run directory of its own; what cannot work is refused here.

Nothing here loads weights.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.candidates.candidate import Listener
from tunesmith.candidates.tuned import Part, one_interface
from tunesmith.config import Budget, Config, Data, Lora, Stage, Stages
from tunesmith.config import Task as TaskSettings
from tunesmith.errors import ConfigError, RunError, TunesmithError
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Example
from tunesmith.run import Run, read_examples, write_json
from tunesmith.sources import ModelFolder, resolve_model
from tunesmith.tasks import Task
from tunesmith.train.remedies.replay import text_task
from tunesmith.workflow import make_plan, prepare, start

BASE = "prompt/zero-shot"  # the base model, asked as the trained ones are
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """One task of a stage (``stage`` counts from 0): its settings, and the run directory that it has to itself."""

    stage: int
    name: str
    config: Config
    run: Run
    task: Task
    plan: Json

    def examples(self, part: str) -> tuple[Example, ...]:
        return read_examples(self.run.split(part))

    def to_part(self) -> Part:
        return Part(self.name, self.task, self.examples("train"), self.examples("validation"))


def task_configs(config: Stages) -> dict[str, Config]:
    """Every task's own project file, by ``stage`` or, where a stage has several, ``stage/task``."""
    return {name: one for _, name, one in stage_configs(config)}


def stage_configs(config: Stages) -> Iterator[tuple[int, str, Config]]:
    tasks: list[tuple[int, str, TaskSettings, Data]] = []
    for k, stage in enumerate(config.stages):
        if stage.task is not None and stage.data is not None:
            tasks.append((k, stage.name, stage.task, stage.data))
        for name, part in (stage.tasks or {}).items():
            tasks.append((k, f"{stage.name}/{name}", part.task, part.data))
    minutes = config.budget.minutes
    for k, name, task, data in tasks:
        stage = config.stages[k]
        yield k, name, config.with_task(
            task, data,
            method=(method_of(config, stage),), train=stage.train or config.train,
            candidates=(*(family for family in config.candidates if family != "tune"), "tune"),
            budget=Budget(minutes=minutes / len(tasks) if minutes is not None else None),
        )  # fmt: skip


def method_of(config: Stages, stage: Stage) -> Any:
    return stage.method or config.method[0]


def after_id(k: int, stage: Stage) -> str:
    return f"after/{k + 1}-{stage.name}"


def stage_id_of(config: Stages, k: int) -> str:
    stage = config.stages[k]
    return f"stage/{k + 1}-{stage.name}/{method_of(config, stage).kind}"


def joint_id(config: Stages) -> str:
    """Trained by the first stage's method, from the same base."""
    return f"joint/{method_of(config, config.stages[0]).kind}"


def prepare_stages(
    config: Stages, directory: Run, command: str, listener: Listener, held: contextlib.ExitStack
) -> list[Place]:
    """Read, split and plan every task; whatever of any stage cannot work is said here, all together."""
    places: list[Place] = []
    problems: list[str] = []
    for k, name, one in stage_configs(config):
        stage, _, task_name = name.partition("/")
        run = Run(directory.folder / "stages" / f"{k + 1}-{stage}" / (f"tasks/{task_name}" if task_name else ""))
        told = named(listener, name)
        try:
            held.enter_context(run.lock())
            start(one, run, command)
            task = prepare(one, run, told)
            places.append(Place(k, name, one, run, task, make_plan(one, run, told)))
        except RunError:
            raise
        except TunesmithError as error:
            problems += [f"stages.{name}: {line}" for line in str(error).splitlines()]
    problems += _unfit(config, places)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    jointly = config.joint and joint_problem(config, places) is None
    for place in places:
        _plan_rows(config, place, jointly)
    return places


def joint_problem(config: Stages, places: Sequence[Place]) -> str | None:
    """Why the stages cannot be trained at once, where they cannot."""
    try:
        parts = [Part(place.name, place.task, (), ()) for place in places]
        one_interface(parts, places[0].plan["facts"]["architecture"], method_of(config, config.stages[0]).kind)
    except ConfigError as error:
        return str(error)
    return None


def named(listener: Listener, name: str) -> Listener:
    return lambda stage, done, total, values: listener(f"{name}: {stage}", done, total, values)


def _unfit(config: Stages, places: Sequence[Place]) -> list[str]:
    """What of the stages' methods, starts and replay does not fit, of those that could be planned."""
    problems = []
    folder = resolve_model(config.model or DEFAULT_MODEL)
    for k, stage in enumerate(config.stages):
        method, own = method_of(config, stage), [place for place in places if place.stage == k]
        where = f"stages.{stage.name}"
        problems += [f"{where}: {problem}" for problem in _unknown_layers(folder, method)]
        if k > 0 and stage.start == "continue":
            problems += [f"{where}.start: {problem}" for problem in _cannot_continue(config, k)]
        if not own:
            continue
        architecture = own[0].plan["facts"]["architecture"]
        replayed = _replayed_tasks(stage, [place for place in places if place.stage < k])
        try:
            tasks = [(place.name, place.task) for place in own] + replayed
            kind = one_interface([Part(name, task, (), ()) for name, task in tasks], architecture, method.kind)
        except ConfigError as error:
            problems.append(f"{where}: {error}")
            continue
        if kind == "head":
            problems.append(
                f"{where}: a classification head has the labels of one task, so it cannot go through stages. Use a "
                "decoder and a method that trains its text, such as lora."
            )
    return problems


def _replayed_tasks(stage: Stage, earlier: Sequence[Place]) -> list[tuple[str, Task]]:
    if not stage.replay:
        return []
    if stage.replay_from == "base":
        return [("replay of the base model's texts", text_task())]
    return [(f"replay of {place.name}", place.task) for place in earlier]


def _cannot_continue(config: Stages, k: int) -> list[str]:
    before, method = (method_of(config, stage) for stage in config.stages[k - 1 : k + 1])
    advice = "Set the stage's start to merge, or give it the method of the stage before."
    if method != before:
        changed = [name for name in type(method).model_fields if getattr(method, name) != getattr(before, name, None)]
        return [
            f"continue, but its method ({method.kind}) is not that of stage {config.stages[k - 1].name} "
            f"({before.kind}; differing: {', '.join(changed)}), and an adapter keeps its shape. {advice}"
        ]
    if isinstance(method, Lora) and method.init == "pissa":
        return [f"continue, but an adapter with init: pissa is saved at twice its rank. {advice}"]
    return []


def _unknown_layers(folder: ModelFolder, method: Any) -> list[str]:
    """Names of layers that the model's files do not have, from the headers of its weights."""
    wanted = getattr(method, "target_modules", ())
    if not wanted:
        return []
    found = {name.removesuffix(".weight") for file in folder.path.glob("*.safetensors") for name in _tensors(file)}
    unknown = [name for name in wanted if not any(f".{layer}".endswith(f".{name}") for layer in found)]
    known = sorted({layer.rsplit(".", 1)[-1] for layer in found})
    return [
        f"method.target_modules: the model has no layer '{name}'. It has {', '.join(known)}. Use one of these."
        for name in unknown
    ]


def _tensors(file: Path) -> list[str]:
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header: Json = json.loads(handle.read(length))
    return [name for name, about in header.items() if name != "__metadata__" and len(about["shape"]) > 1]


def _plan_rows(config: Stages, place: Place, jointly: bool) -> None:
    """Put the models of the sequence into the plan of a task, in place of one trained on it alone."""
    rows = place.plan["candidates"]
    if any(row["family"] == "after" for row in rows):
        return
    alone = next(row for row in rows if row["family"] == "tune")
    asked = next((row["estimated_seconds"] for row in rows if row["id"] == BASE), 0)
    rows = [row for row in rows if row["family"] != "tune"]
    if not any(row["id"] == BASE for row in rows):
        reason = "what the stages start from"
        rows.append({**alone, "id": BASE, "family": "prompt", "baseline": True, "reason": reason,
                     "estimated_seconds": asked})  # fmt: skip
    for k, stage in enumerate(config.stages):
        rows.append({
            **alone, "id": after_id(k, stage), "family": "after", "reason": f"the model after stage {stage.name}",
            "estimated_seconds": alone["estimated_seconds"] if k == place.stage else asked,
        })  # fmt: skip
    if jointly:
        rows.append({**alone, "id": joint_id(config), "family": "joint", "reason": "all stages trained at once"})
    place.plan["candidates"] = rows
    write_json(place.run.plan_file, place.plan)
