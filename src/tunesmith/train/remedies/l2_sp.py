"""L2-SP: each weight is pulled back to where it started, by half the weight times the squared length of the update.

What it changes: the loss of every step has ½ · weight · ‖ΔW‖² added. When to prefer it, and over what: hardly; scaling
the update afterwards or averaging did better in the comparisons that are public, at no cost in training. What data it
needs: none. What it costs: a copy of the weights under ``full``; with adapters nothing. Source: Li et al. 2018,
"Explicit inductive bias for transfer learning with convolutional networks", arXiv:1802.01483; with adapters, where the
authors have none, the length is that of scale · B A, from two products as small as the rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tunesmith.train.methods.method import Attached
from tunesmith.train.remedies.update import Weights, adapted_layers, low_rank


def squared_length(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """‖B A‖², the sum of the squares of all its numbers, without forming the product: ⟨BᵀB, A Aᵀ⟩."""
    return ((b.T @ b) * (a @ a.T)).sum()


def l2_sp(attached: Attached, start: Weights | None, weight: float) -> Iterator[torch.Tensor]:
    """½ · weight · ‖ΔW‖² of each weight that is trained, differentiable."""
    if start is None:
        for layer in adapted_layers(attached).values():
            a, b, scale = low_rank(layer)
            yield 0.5 * weight * scale**2 * squared_length(a, b)
        return
    for name, parameter in attached.trainable.items():
        yield 0.5 * weight * (parameter - start[name]).square().sum()
