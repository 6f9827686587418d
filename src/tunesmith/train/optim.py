"""The optimizer and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from tunesmith.train.methods.method import Pace

BETAS = (0.9, 0.999)  # PyTorch's defaults, and those of the runs behind the learning-rate rule
DECAY_SHARE = 0.2  # of the steps, for constant_decay: within the 10–20 % of Hägele et al. 2024, arXiv:2405.18392


def build_adamw(
    trainable: Mapping[str, torch.nn.Parameter], weight_decay: float, paces: Mapping[str, Pace] | None = None
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; decay moves matrices only, never norms and biases.

    Parameters of one pace form a group, which keeps ``factor`` and ``start`` for :func:`set_pace`.
    """
    by_kind: dict[tuple[Pace, float], list[torch.nn.Parameter]] = {}
    for name, parameter in trainable.items():
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        by_kind.setdefault(((paces or {}).get(name, Pace()), decay), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "factor": pace.factor, "start": pace.start}
        for (pace, decay), parameters in by_kind.items()
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)


def set_pace(optimizer: torch.optim.Optimizer, rate: float, step: int, total: int) -> None:
    """Give every group its learning rate for ``step`` (from 0) of ``total``; those whose time has not come stand still.

    A group that stands still has no gradient computed, so that the optimizer passes it over.
    """
    for group in optimizer.param_groups:
        moves = step >= round(group["start"] * total)
        group["lr"] = rate * group["factor"] if moves else 0.0
        for parameter in group["params"]:
            parameter.requires_grad_(moves)


def learning_rate_at(
    step: int, total: int, peak: float, warmup_ratio: float, schedule: Literal["cosine", "constant_decay", "constant"]
) -> float:
    """Rate of step ``step`` (from 0) of ``total``: a linear rise to ``peak``, then the schedule's shape, never 0."""
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    left = total - warmup
    progress = (step - warmup) / max(1, left)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    decay = max(1, round(DECAY_SHARE * total))
    return peak * min(1.0, (total - step) / decay)
