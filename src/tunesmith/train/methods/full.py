"""Full fine-tuning: every weight moves.

What it changes: all parameters of the model, in place. When to prefer it, and over what: with many examples and a
task far from what the model knows; LoRA forgets less and reaches the same score on small sets. What data it needs:
any. What it costs: weights, gradients and two Adam moments, 16 bytes a parameter in float32; about 6 FLOPs a
parameter and token. Source: the learning rate is a tenth of LoRA's (Schulman 2025, "LoRA Without Regret").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config import Full
from tunesmith.train.methods.lora import learning_rate as lora_learning_rate
from tunesmith.train.methods.method import Attached, Method


def attach(model: Any, settings: Full) -> Attached:
    """Make every parameter trainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return Attached(model, dict(model.named_parameters()), save, "model")


def learning_rate(model_type: str, hidden_size: int) -> tuple[float, str]:
    """A tenth of LoRA's rate."""
    rate, source = lora_learning_rate(model_type, hidden_size)
    return rate / 10, f"a tenth of LoRA's: {source}"


FULL = Method(
    kind="full",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=lambda parameters, hidden_size, layers, settings: parameters,
    flops_per_token=lambda parameters: 6.0 * parameters,
)
