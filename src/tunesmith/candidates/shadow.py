"""Shadow trainings, on examples that were tampered with, then thrown away.

They take model, method and settings of training from the model that is kept; remedies and a guard they do without.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates.candidate import Context
from tunesmith.config import Method
from tunesmith.records import Example
from tunesmith.run import read_json, write_json
from tunesmith.tasks import Task

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.loop import LoopSettings, TrainResult
    from tunesmith.train.objectives import EncodeSettings


def canary_exposure(
    context: Context,
    name: str,
    method: Method,
    items: Sequence[Rendered],
    validation: Sequence[Rendered],
    settings: LoopSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train a decoder on examples and canaries, and see which it remembers.

    Writes exposure.json into the candidate's folder, where a run that is resumed finds it; the checkpoints of the
    training stand in shadow/ until then.
    """
    from tunesmith.data.render import Renderer
    from tunesmith.evaluate.canaries import draw_canaries, exposed, planted

    file = folder / "exposure.json"
    if file.is_file():
        kept: dict[str, Any] = read_json(file)
        return kept
    lm = _load(context, method, "causal")
    rng = np.random.default_rng([context.config.seed, 9])
    canaries = draw_canaries(Renderer(lm.tokenizer, context.max_length), rng)
    said = f"{name}: shadow training with canaries"
    _train(context, lm, method, [*items, *planted(canaries)], validation, settings, folder / "shadow", said)
    lm.model.eval()
    told = exposed(lm, canaries, rng)
    write_json(file, told)
    shutil.rmtree(folder / "shadow")
    return told


def permuted_control(
    context: Context,
    name: str,
    method: Method,
    task: Task,
    interface: str,
    examples: Sequence[Example],
    encoding: EncodeSettings,
    settings: LoopSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train on examples whose answers were permuted, and see how far their loss falls: by memorising alone.

    Writes control.json into the candidate's folder, as :func:`canary_exposure` does; checkpoints stand in control/.
    """
    from tunesmith.evaluate.overfitting import CONTROL_EXAMPLES, control, with_permuted_answers
    from tunesmith.train.objectives import OBJECTIVES

    file = folder / "control.json"
    if file.is_file():
        kept: dict[str, Any] = read_json(file)
        return kept
    rng = np.random.default_rng([context.config.seed, 13])
    chosen = [examples[i] for i in rng.permutation(len(examples))[:CONTROL_EXAMPLES]]
    lm = _load(context, method, interface)
    encoding = dataclasses.replace(encoding, overlong="drop")  # a long prompt may get another's long answer
    items, _ = OBJECTIVES[interface].encode(task, lm.tokenizer, with_permuted_answers(chosen, rng), encoding)
    if not items:
        return {"status": "not_run", "reason": "no example fits the model with another's answer"}
    settings = dataclasses.replace(settings, patience=0, select="loss")
    said = f"{name}: training on permuted answers"
    result = _train(context, lm, method, items, items, settings, folder / "control", said)
    told = control(len(items), result.first_validation_loss, result.best_validation_loss)
    write_json(file, told)
    shutil.rmtree(folder / "control")
    return told


def _load(context: Context, method: Method, interface: str) -> LanguageModel:
    from tunesmith.model.load import load_model
    from tunesmith.train.methods import METHODS

    return load_model(context.model, interface, getattr(context.task, "outputs", 0), METHODS[method.kind].four_bit)


def _train(
    context: Context,
    lm: LanguageModel,
    method: Method,
    items: Sequence[Any],
    validation: Sequence[Any],
    settings: LoopSettings,
    folder: Path,
    said: str,
) -> TrainResult:
    import torch

    from tunesmith.train.loop import train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives import OBJECTIVES

    micro, interface = settings.micro_batch_tokens, OBJECTIVES[lm.interface]
    torch.manual_seed(settings.seed)
    attached = METHODS[method.kind].attach(lm.model, method)
    lm.model = attached.model
    objective = interface.build(lm, micro, context.config.train.share_prefix)
    learned, followed = {"": list(items)}, {"": list(validation)}
    if interface.prepare is not None:
        start = METHODS[method.kind].start
        learned, followed = interface.prepare(lm.model, learned, followed, micro, start)
    return train(
        attached.model, attached.trainable, objective, learned[""], followed[""], settings, folder,
        paces=attached.paces, order=interface.order(learned[""]) if interface.order is not None else None,
        listener=lambda e: context.listener(said, e["step"], e["steps"], e),
    )  # fmt: skip
