"""Averaging with the start: before each validation the weights go part of the way back to where they started.

What it changes: W becomes (1 − share) · W + share · W₀, as often as validation loss is measured and at the end, so that
the step that is kept is always an averaged one. When to prefer it, and over what: over penalties in the loss, since it
did better than those and costs nothing. What data it needs: none. What it costs: a copy of the weights under ``full``;
with adapters nothing. Source: Kleiman et al. 2025, "Soup to go: mitigating forgetting during continual learning with
model averaging" (SFA), arXiv:2501.05559; the authors average at fixed shares of the run, four times or so. With
adapters the average of the update and none is the update times 1 − share, which B alone takes: A and B averaged apart
would be another update.
"""

from __future__ import annotations

import torch

from tunesmith.train.methods.method import Attached
from tunesmith.train.remedies.update import Weights, adapted_layers, low_rank


def average_with_start(attached: Attached, start: Weights | None, share: float) -> None:
    """Move the weights ``share`` of the way back to the start, in place; Adam's moments stay as they are."""
    with torch.no_grad():
        if start is None:
            for layer in adapted_layers(attached).values():
                low_rank(layer)[1].mul_(1.0 - share)
            return
        for name, parameter in attached.trainable.items():
            parameter.lerp_(start[name], share)
