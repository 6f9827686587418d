"""Head: a linear layer on the features of a frozen backbone.

What it changes: nothing in the backbone; a linear layer of labels × feature size is trained. When to prefer it, and
over what: as the first thing to try with few examples or a slow machine, over every method that moves the backbone;
over the embedding candidate where the backbone is a decoder, or is wanted for serving. What data it needs: labels,
several labels, or numbers. What it costs: one pass of the backbone over the examples, whose features are kept in
memory (4 bytes × feature size each); then steps that cost next to nothing. Source: transfer learning by linear
probes, as in Alain and Bengio 2016, arXiv:1610.01644; we standardise the features by the training examples' own mean
and spread, which makes one learning rate fit all backbones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tunesmith.config import Head
from tunesmith.errors import ConfigError
from tunesmith.train.methods.method import Attached, Method

LEARNING_RATE = 1e-3
MOST_LABELS = 256  # that the plan counts on


def attach(model: Any, settings: Head) -> Attached:
    """Make the head trainable, and nothing else.

    Raises:
        ConfigError: If the model has no head of its own.
    """
    if isinstance(model, PreTrainedModel):
        raise ConfigError("method: head needs a task that a head can do: classification, multi_label or regression.")
    model.requires_grad_(False)
    model.head.requires_grad_(True)

    def save(folder: Path) -> None:
        from tunesmith.model.head import save_head_weights

        save_head_weights(model, folder)

    return Attached(model, dict(model.head.named_parameters(prefix="head")), save, "head")


def learning_rate(model_type: str, hidden_size: int) -> tuple[float, str]:
    """Adam's own default, whatever the size: the features are standardised."""
    return LEARNING_RATE, "Adam's default on standardised features: Kingma and Ba 2015, arXiv:1412.6980"


HEAD = Method(
    kind="head",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=lambda parameters, hidden_size, linears, settings: hidden_size * MOST_LABELS,
    flops_per_token=lambda parameters: 2.0 * parameters,
    start="cached",
    wanted_steps=2000,
    most_epochs=100,
)
