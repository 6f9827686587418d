"""A shadow training with canaries: the same settings and examples as the model that is kept, and planted secrets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates.candidate import Context
from tunesmith.config import Method
from tunesmith.run import read_json, write_json

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered
    from tunesmith.train.loop import LoopSettings


def canary_exposure(
    context: Context,
    name: str,
    method: Method,
    items: Sequence[Rendered],
    validation: Sequence[Rendered],
    settings: LoopSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train a decoder on examples and canaries, see which it remembers, and throw it away.

    Writes exposure.json into the candidate's folder, where a run that is resumed finds it; the checkpoints of the
    training stand in shadow/ until then.
    """
    import torch

    from tunesmith.data.render import Renderer
    from tunesmith.evaluate.canaries import draw_canaries, exposed, planted
    from tunesmith.model.load import load_model
    from tunesmith.train.loop import train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives import OBJECTIVES

    file = folder / "exposure.json"
    if file.is_file():
        kept: dict[str, Any] = read_json(file)
        return kept
    config = context.config
    lm = load_model(context.model, "causal", 0, METHODS[method.kind].four_bit)
    rng = np.random.default_rng([config.seed, 9])
    canaries = draw_canaries(Renderer(lm.tokenizer, context.max_length), rng)
    torch.manual_seed(settings.seed)
    attached = METHODS[method.kind].attach(lm.model, method)
    lm.model = attached.model
    objective = OBJECTIVES["causal"].build(lm, settings.micro_batch_tokens, config.train.share_prefix)
    train(
        attached.model, attached.trainable, objective, [*items, *planted(canaries)], validation, settings,
        folder / "shadow", paces=attached.paces,
        listener=lambda e: context.listener(f"{name}: shadow training with canaries", e["step"], e["steps"], e),
    )  # fmt: skip
    lm.model.eval()
    told = exposed(lm, canaries, rng)
    write_json(file, told)
    shutil.rmtree(folder / "shadow")
    return told
