"""Full fine-tuning: every weight moves.

What it changes: all parameters of the model, in place. When to prefer it, and over what: with many examples and a
task far from what the model knows; LoRA forgets less and reaches the same score on small sets. What data it needs:
any. What it costs: weights, gradients and two Adam moments, 16 bytes a parameter in float32; about 6 FLOPs a
parameter and token. Source: the learning rate is a tenth of LoRA's (Schulman 2025, "LoRA Without Regret").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tunesmith.config import Full
from tunesmith.train.methods.lora import learning_rate as lora_learning_rate
from tunesmith.train.methods.method import Attached, Method, Pace

HEAD_FACTOR = 10.0  # on a new head's rate: that of LoRA, which starts from nothing too


def attach(model: Any, settings: Full) -> Attached:
    """Make every parameter trainable; a head of its own (``model.head``) moves faster, since it starts from nothing."""
    model.requires_grad_(True)
    head = {} if isinstance(model, PreTrainedModel) else dict(model.head.named_parameters(prefix="head"))

    def save(folder: Path) -> None:
        if not head:
            model.save_pretrained(folder)
            return
        from tunesmith.model.head import save_head_model

        save_head_model(model, folder)

    return Attached(model, dict(model.named_parameters()), save, "model", {name: Pace(HEAD_FACTOR) for name in head})


def learning_rate(model_type: str, hidden_size: int) -> tuple[float, str]:
    """A tenth of LoRA's rate."""
    rate, source = lora_learning_rate(model_type, hidden_size)
    return rate / 10, f"a tenth of LoRA's: {source}"


FULL = Method(
    kind="full",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=lambda parameters, hidden_size, linears, settings: parameters,
    flops_per_token=lambda parameters: 6.0 * parameters,
)
