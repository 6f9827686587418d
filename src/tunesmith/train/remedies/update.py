"""What training changed: the update ΔW of each weight, at a scale λ, whatever the method trains.

Under ``full`` the update is W − W₀, with W₀ a copy that is kept from the start. Under LoRA it is scale · B A, and only
ever that product is scaled or measured: A and B by themselves mean nothing, since the same update has many such pairs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tunesmith.train.methods.lora import ADAPTER, is_adapted
from tunesmith.train.methods.method import Attached

Weights = dict[str, torch.Tensor]


def adapted_layers(attached: Attached) -> dict[str, Any]:
    """Layers with an adapter beside them, by name; none under ``full``."""
    return {name: layer for name, layer in attached.model.named_modules() if is_adapted(layer)}


def low_rank(layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A (rank, in), B (out, rank) and the scale of an adapted layer, whose update is scale · B A."""
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]


def copied(attached: Attached) -> Weights:
    """The trained weights as they are now, by name."""
    return {name: parameter.detach().clone() for name, parameter in attached.trainable.items()}


@contextlib.contextmanager
def adapters_off(attached: Attached) -> Iterator[None]:
    """The base model, where adapters are beside it; under ``full``, the weights as they are."""
    layers = adapted_layers(attached).values()
    for layer in layers:
        layer._disable_adapters = True  # peft's own switch changes requires_grad as well
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def scaler(attached: Attached, start: Weights | None) -> Callable[[float], None]:
    """How to put λ times the update into the model; what is saved then is the scaled one.

    At λ = 1 the weights are those that training left, bit for bit, and at λ = 0 the model is the base.

    Args:
        attached: The model once it is trained.
        start: The weights before training, under ``full``; with adapters they are not needed.
    """
    layers = adapted_layers(attached)
    if not layers:
        if start is None:
            raise ValueError("without adapters, the weights before training are needed")
        trained = copied(attached)

        def mix(factor: float) -> None:
            with torch.no_grad():
                for name, parameter in attached.trainable.items():
                    parameter.copy_(torch.lerp(start[name], trained[name], factor))  # exact at both ends

        return mix
    config = attached.model.peft_config[ADAPTER]
    alpha = config.lora_alpha

    def scale(factor: float) -> None:
        config.lora_alpha = alpha * factor
        for layer in layers.values():  # as peft computes it when the saved adapter is loaded
            rank = layer.r[ADAPTER]
            layer.scaling[ADAPTER] = config.lora_alpha / (math.sqrt(rank) if config.use_rslora else rank)

    return scale
