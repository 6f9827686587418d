"""The optimizer and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

BETAS = (0.9, 0.999)  # PyTorch's defaults, and those of the runs behind the learning-rate rule
DECAY_SHARE = 0.2  # of the steps, for constant_decay: within the 10–20 % of Hägele et al. 2024, arXiv:2405.18392


def build_adamw(trainable: Mapping[str, torch.nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; decay moves matrices only, never norms and biases."""
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    vectors = [p for p in trainable.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=BETAS, fused=True)


def learning_rate_at(
    step: int, total: int, peak: float, warmup_ratio: float, schedule: Literal["cosine", "constant_decay"]
) -> float:
    """Rate of step ``step`` (from 0) of ``total``: a linear rise to ``peak``, then the schedule's shape, never 0."""
    warmup = round(warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    left = total - warmup
    progress = (step - warmup) / max(1, left)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    decay = max(1, round(DECAY_SHARE * total))
    return peak * min(1.0, (total - step) / decay)
