"""Trials of a search: one project trained with other settings, as far as a rung, and later on from there.

A trial has a stem, trained at a constant rate after warm-up, and at each rung a branch off it that decays over the last
fifth of the rung's length. A branch is, to the last bit, the training of that length with ``schedule:
constant_decay``; the next rung goes on from the stem, as if there had been no decay. So a rung compares trainings that
are complete, whatever their length will be. Under a cosine to the last rung, the first would compare those whose rate
has not fallen yet.

Source: Hägele et al. 2024, arXiv:2405.18392.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.candidates.candidate import Listener
from tunesmith.candidates.tuned import Part, one_interface
from tunesmith.config import Config
from tunesmith.data.read.table import arranged
from tunesmith.errors import ConfigError
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Example, Prediction
from tunesmith.run import Run, read_examples
from tunesmith.search.space import TRAIN
from tunesmith.tasks import Task
from tunesmith.train.optim import DECAY_SHARE

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.loop import LoopSettings
    from tunesmith.train.methods import Attached
    from tunesmith.train.objectives import Objective

WATCHED = 500  # validation examples that trials are compared on, at most


class Reached(NamedTuple):
    """A trial at the end of a rung: loss and units of each validation example, shape (n, 2), and what it took.

    ``tokens`` are all that were read from the start, ``stem_tokens`` those of the stem alone; ``steps`` the
    length, ``epochs`` the same in passes over the training examples.
    """

    model: LanguageModel
    losses: NDArray[np.float64]
    tokens: int
    stem_tokens: int
    steps: int
    epochs: float
    warmup_ratio: float


class Trainer:
    """Trains trials of one project.

    Models are read anew for each. ``items`` are those of train and validation, encoded once for each template.
    """

    def __init__(self, config: Config, run: Run, task: Task, plan: Mapping[str, Any], listener: Listener) -> None:
        method = config.method[0]
        if getattr(method, "unfreeze", 0):
            raise ConfigError(
                "method gradual: when its layers start to move depends on how long training will be, so short "
                "trainings say nothing of long ones. Set method.unfreeze to 0, or take lora, full or head."
            )
        self.config, self.task, self.plan, self.listener = config, task, plan, listener
        self.model = config.model or DEFAULT_MODEL
        self.train, self.validation = (read_examples(run.split(part)) for part in ("train", "validation"))
        self.validation = self.validation[:WATCHED]
        self.items: dict[str, tuple[list[Any], list[Any]]] = {}

    def reach(self, config: Config, folder: Path, name: str, rungs: Sequence[float], rung: int) -> Reached:
        """Train a trial as far as a rung; what stands in its folder is gone on from.

        Args:
            config: The project with the trial's settings.
            folder: Of the trial: stem/ and a folder for each length.
            name: How it is called in what is shown.
            rungs: Examples seen at each rung: warm-up is a share of the last, and must fit into the first.
            rung: Which one is trained.

        Raises:
            TrainingError: If it diverged.
        """
        import torch

        from tunesmith.train.checkpoint import load_weights
        from tunesmith.train.loop import losses_and_units
        from tunesmith.train.loop import train as run_loop
        from tunesmith.train.objectives import OBJECTIVES

        lm, attached, objective, learned, followed = self._ready(config)
        said = config.train.model_dump(include=set(TRAIN), exclude_none=True)
        loop = {**self.plan["loop"][config.method[0].kind], **said, "seed": config.seed}
        batch = loop["global_batch_size"]
        order = OBJECTIVES[lm.interface].order
        ordered = order(learned) if order is not None else None
        per_epoch = -(-(ordered.size if ordered is not None else len(learned)) // batch)
        first, steps, whole = (max(1, round(rungs[k] / batch)) for k in (0, rung, -1))
        stem_steps, warmup = _stem(steps), min(round(loop["warmup_ratio"] * whole), _stem(first))

        def go(where: Path, length: int, schedule: str) -> Any:
            settings = _loop_settings(loop, length / per_epoch, schedule, warmup / length)
            return run_loop(  # one validation example, as the loop wants one: all are measured at the rung's end
                attached.model, attached.trainable, objective, learned, followed[:1], settings, where,
                paces=attached.paces, order=ordered,
                listener=lambda e: self.listener(f"{name}: training", e["step"], steps, e),
            )  # fmt: skip

        stem, branch, before = folder / "stem", _branch(folder, rungs[rung]), 0
        if stem_steps:
            before = go(stem, stem_steps, "constant").tokens
            _branch_off(stem, branch)
        result = go(branch, steps, "constant_decay")
        load_weights(branch / "checkpoints" / f"step-{steps:06d}", attached.trainable)
        losses = torch.stack(losses_and_units(lm.model, objective, followed), dim=1).numpy()
        return Reached(lm, losses, result.tokens, before, steps, steps / per_epoch, warmup / steps)

    def shown(self, examples: Sequence[Example], config: Config) -> Sequence[Example]:
        """Rows of a table as a trial's template has them; all others as they are."""
        template = config.data.template
        if template == self.config.data.template:
            return examples
        return [arranged(example, [name for name, _ in example.columns], template) for example in examples]

    def predict(self, lm: LanguageModel, examples: Sequence[Example], config: Config, name: str) -> list[Prediction]:
        """What a trial's model says of examples, under the ids that they have however they are shown."""
        done = [0]

        def progress(n: int) -> None:
            done[0] += n
            self.listener(f"{name}: asking", done[0], len(examples), {})

        answers = self.task.predict(lm, self.shown(examples, config), name, (), progress)
        return [replace(answer, example_id=e.id) for answer, e in zip(answers, examples, strict=True)]

    def _ready(self, config: Config) -> tuple[LanguageModel, Attached, Objective, list[Any], list[Any]]:
        """A model with what the method attaches, its objective, and the items that are learned and followed."""
        import torch

        from tunesmith.model.architecture import architecture
        from tunesmith.model.load import load_model
        from tunesmith.sources import resolve_model
        from tunesmith.train.methods import METHODS
        from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

        method = config.method[0]
        how = METHODS[method.kind]
        parts = [Part("", self.task, self.train, self.validation)]
        kind = one_interface(parts, architecture(resolve_model(self.model)), method.kind)
        torch.manual_seed(config.seed)
        lm = load_model(self.model, kind, getattr(self.task, "outputs", 0), how.four_bit)
        template = config.data.template
        if template not in self.items:
            encoding = EncodeSettings(self.plan["max_length"], config.train.train_on, config.data.overlong)
            encode = OBJECTIVES[kind].encode
            learned, followed = (
                encode(self.task, lm.tokenizer, self.shown(part, config), encoding)[0]
                for part in (self.train, self.validation)
            )
            self.items[template] = learned, followed
        torch.manual_seed(config.seed)
        attached = how.attach(lm.model, method)
        lm.model = attached.model
        micro_batch_tokens = self.plan["loop"][method.kind]["micro_batch_tokens"]
        objective = OBJECTIVES[kind].build(lm, micro_batch_tokens, config.train.share_prefix)
        learned, followed = self.items[template]
        if (prepare := OBJECTIVES[kind].prepare) is not None:
            by_part = prepare(lm.model, {"": learned}, {"": followed}, micro_batch_tokens, how.start)
            learned, followed = by_part[0][""], by_part[1][""]
            if how.start == "cached":  # features of a backbone that no trial moves
                self.items[template] = learned, followed
        return lm, attached, objective, learned, followed


def _stem(steps: int) -> int:
    """Steps of a length that come before the rate falls."""
    return steps - max(1, round(DECAY_SHARE * steps))


def _branch(folder: Path, examples: float) -> Path:
    return folder / f"seen-{round(examples)}"


def _branch_off(stem: Path, branch: Path) -> None:
    """Begin a branch with what the stem has, by links where the disk has them; one that was begun stays."""
    if branch.exists():
        return
    temporary = branch.with_name(f".{branch.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(stem / "checkpoints", temporary / "checkpoints", copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(stem / "checkpoints", temporary / "checkpoints")
    for curve in ("metrics.jsonl", "validations.jsonl"):
        shutil.copy(stem / curve, temporary / curve)
    temporary.rename(branch)


def forget(folder: Path, keep: float | None = None) -> None:
    """Delete a trial's trainings, which nothing goes on from, but for that of one length."""
    for path in [folder / "stem", *folder.glob("seen-*")]:
        if path.is_dir() and (keep is None or path != _branch(folder, keep)):
            shutil.rmtree(path)


def _loop_settings(loop: Mapping[str, Any], epochs: float, schedule: str, warmup_ratio: float) -> LoopSettings:
    from tunesmith.train.loop import LoopSettings

    changed = {"epochs": epochs, "schedule": schedule, "warmup_ratio": warmup_ratio, "evals_per_epoch": 1}
    return LoopSettings(**{**loop, **changed, "patience": 0, "select": "loss"})
