"""EWC: each weight is pulled back to where it started, the harder the more the base's own texts depend on it.

What it changes: the loss of every step has ½ · weight · Σ F · ΔW² added, F being the diagonal of the base's Fisher
information per token. To second order that is the divergence from the base per token of its own texts, in nats, so
that weights of ``ewc`` and of ``kl`` mean the same. When to prefer it, and over what: hardly; see ``l2_sp``. What data
it needs: texts that the base wrote, at which the squared gradient of their likelihood estimates the Fisher information
itself; given texts make it the so-called empirical one. What it costs: a backward pass through the whole base for each
text, once; as many numbers as the weights that are adapted, and with adapters their product B A at every step. Source:
Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", arXiv:1612.00796.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tunesmith.train.methods.method import Attached
from tunesmith.train.objectives import Objective
from tunesmith.train.remedies.update import Weights, adapted_layers, adapters_off, low_rank


def fisher(attached: Attached, objective: Objective, texts: Sequence[Any]) -> Weights:
    """Diagonal of the Fisher information per token of the base's weights that training changes, by weight or layer.

    Args:
        attached: The model before training.
        objective: Its loss is the texts' negative log-likelihood.
        texts: Encoded; the gradient of each by itself is squared.
    """
    layers = adapted_layers(attached)
    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()} or attached.trainable
    needed = {name: weight.requires_grad for name, weight in weights.items()}
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    attached.model.eval()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with adapters_off(attached):
            for text in texts:
                for loss in objective.losses(attached.model, [text], 1.0):
                    loss.backward()
                for name, weight in weights.items():
                    if weight.grad is not None:
                        found[name] += weight.grad.square()
                        weight.grad = None
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(needed[name])
    units = sum(text.units for text in texts)
    return {name: total / units for name, total in found.items()}


def ewc(attached: Attached, start: Weights | None, information: Weights, weight: float) -> Iterator[torch.Tensor]:
    """½ · weight · Σ F · ΔW² of each weight that is trained, differentiable."""
    if start is None:
        for name, layer in adapted_layers(attached).items():
            a, b, scale = low_rank(layer)
            yield 0.5 * weight * scale**2 * (information[name] * (b @ a).square()).sum()
        return
    for name, parameter in attached.trainable.items():
        yield 0.5 * weight * (information[name] * (parameter - start[name]).square()).sum()
