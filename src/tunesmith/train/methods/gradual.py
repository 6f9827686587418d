"""Gradual: the head first, then the layers from the top, each slower than the one above it.

What it changes: all weights in the end. The head starts as the best linear model on the frozen features (logistic or
ridge regression), so that the backbone is not torn by the gradients of a random head; then layer after layer begins to
move, from the top, at learning rates that shrink by ``decay`` with depth. When to prefer it, and over what: over full
fine-tuning on few examples, and where the data the model will meet differs from the training data; over the head
where moving the backbone pays. What data it needs: labels, several labels, or numbers. What it costs: that of full
fine-tuning, and one pass more over the examples. Source: LP-FT, Kumar et al. 2022, arXiv:2202.10054 (the head fitted
first); ULMFiT, Howard and Ruder 2018, arXiv:1801.06146 (gradual unfreezing, rates divided by 2.6). There one layer is
unfrozen an epoch; here the starts are spread evenly over a share of the steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.config import Gradual
from tunesmith.errors import ConfigError
from tunesmith.train.methods.lora import learning_rate as lora_learning_rate
from tunesmith.train.methods.method import Attached, Method, Pace


def attach(model: Any, settings: Gradual) -> Attached:
    """Make everything trainable, each layer at its own pace.

    Raises:
        ConfigError: If the model has no head of its own, or no layers that can be told apart.
    """
    if isinstance(model, PreTrainedModel):
        raise ConfigError("method: gradual needs a task that a head can do: classification, multi_label or regression.")
    depths = layer_depths(model.backbone)
    deepest = max(depths.values())
    paces = {
        f"backbone.{name}": Pace(settings.decay**-depth, settings.unfreeze * depth / deepest)
        for name, depth in depths.items()
    }
    model.requires_grad_(True)

    def save(folder: Path) -> None:
        from tunesmith.model.head import save_head_model

        save_head_model(model, folder)

    return Attached(model, dict(model.named_parameters()), save, "model", paces)


def layer_depths(backbone: torch.nn.Module) -> dict[str, int]:
    """How far below the head each parameter of a backbone lies: 1 for the top layer and what stands above it.

    What stands below the lowest layer, such as the embeddings, is one deeper than that.

    Raises:
        ConfigError: If the backbone has no list of layers.
    """
    lists = ((n, m) for n, m in backbone.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m))
    stack, layers = max(lists, key=lambda pair: len(pair[1]), default=("", None))
    if layers is None:
        kind = type(backbone).__name__
        raise ConfigError(f"method: gradual needs a model made of layers, and {kind} has no list of them. Use full.")
    depths = {}
    above = False
    for name, _ in backbone.named_parameters():
        inside = name.startswith(f"{stack}.")
        above = above or inside
        if inside:
            depths[name] = len(layers) - int(name[len(stack) + 1 :].split(".", 1)[0])
        else:
            depths[name] = 1 if above else len(layers) + 1
    return depths


def learning_rate(model_type: str, hidden_size: int) -> tuple[float, str]:
    """LoRA's, for the head, as with full; layers below it learn at shares of it, about full's rate in their midst."""
    rate, source = lora_learning_rate(model_type, hidden_size)
    return rate, f"as LoRA, for the head: {source}"


GRADUAL = Method(
    kind="gradual",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=lambda parameters, hidden_size, linears, settings: parameters,
    flops_per_token=lambda parameters: 6.0 * parameters,
    start="fitted",
)
