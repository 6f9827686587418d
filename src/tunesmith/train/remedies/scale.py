"""λ · ΔW: after training, the update is made smaller, by a number that is given or that validation chooses.

What it changes: the weights that are saved, W₀ + λ (W − W₀); of an adapter its scale. When to prefer it, and over what:
before anything else, since it costs no training and loses little of the task for what it keeps. What data it needs:
validation examples and, to choose λ, general texts that were not trained on. What it costs: a pass over both for each.
Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), arXiv:2109.01903; for language models
Xiao et al. 2023, "LM-Cocktail", arXiv:2311.13534. The rule by which λ is chosen is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def choose_scale(
    put: Callable[[float], None],
    grid: Sequence[float],
    validation_loss: Callable[[], float],
    kl_to_base: Callable[[], float],
    exchange: float,
) -> tuple[float, list[dict[str, Any]]]:
    """The λ with the least validation loss + exchange · divergence from the base; of equals the smaller one.

    Args:
        put: Puts λ times the update into the model; called last with the λ that is chosen.
        grid: The λ to try.
        validation_loss: Of the model as it is, in nats per token.
        kl_to_base: The same on general texts.
        exchange: Nats of validation loss that are given up to be one nat per token nearer to the base.

    Returns:
        The λ, and for each what was measured.
    """
    tried = []
    for factor in sorted(grid):
        put(factor)
        loss, divergence = validation_loss(), kl_to_base()
        tried.append({
            "scale": factor, "validation_loss": loss, "kl_to_base": divergence, "together": loss + exchange * divergence
        })  # fmt: skip
    chosen: float = min(tried, key=lambda row: row["together"])["scale"]
    put(chosen)
    return chosen, tried
