"""Next-token prediction at supervised positions, packed: what classification by likelihood and generation minimise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.data.render import Rendered, Renderer, render_all
from tunesmith.model.forward import hidden_states, summed_loss, token_losses
from tunesmith.records import Example, Finding
from tunesmith.tasks import Task
from tunesmith.train.batches import MicroBatch, micro_batches, shared_prefix
from tunesmith.train.objectives.objective import EncodeSettings, Interface

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel


@dataclass(frozen=True, slots=True)
class Causal:
    """Negative log-likelihood of supervised tokens, in nats.

    ``packed`` says whether the model's attention runs over a layout (see ``model.forward``); what the items of a
    step share at their start is computed once where ``share_prefix``.
    """

    packed: bool = True
    micro_batch_tokens: int = 1024
    share_prefix: bool = True

    def losses(self, model: Any, items: Sequence[Rendered], scale: float) -> Iterator[torch.Tensor]:
        device = next(model.parameters()).device
        for micro in micro_batches(items, self.micro_batch_tokens, self.share_prefix, device):
            hidden = hidden_states(model, micro.pack, self.packed)[micro.rows]
            yield summed_loss(model, hidden, micro.targets, token_weights(micro, items, scale))

    def item_losses(self, model: Any, items: Sequence[Rendered]) -> torch.Tensor:
        device = next(model.parameters()).device
        sums = torch.zeros(len(items), dtype=torch.float64)
        with torch.no_grad():
            for micro in micro_batches(items, self.micro_batch_tokens, self.share_prefix, device):
                hidden = hidden_states(model, micro.pack, self.packed)[micro.rows]
                losses = token_losses(model, hidden, micro.targets).double().cpu()
                for index, part in zip(micro.order, losses.split(micro.counts), strict=True):
                    sums[index] = part.sum()
        return sums


def token_weights(micro: MicroBatch, items: Sequence[Rendered], scale: float) -> torch.Tensor:
    """What each supervised token of a micro-batch counts: ``scale`` times the weight of its item."""
    weights = torch.tensor([scale * items[i].weight for i in micro.order], device=micro.rows.device)
    return weights.repeat_interleave(torch.tensor(micro.counts, device=micro.rows.device))


def encode(
    task: Task, tokenizer: Any, examples: Sequence[Example], settings: EncodeSettings
) -> tuple[list[Rendered], list[Finding]]:
    """Conversations through the model's chat template; see ``data.render``."""
    renderer = Renderer(tokenizer, settings.max_length, settings.train_on)
    items, found = render_all(renderer, [(e.source, task.messages(e)) for e in examples], settings.overlong)
    weights = {e.source: e.weight for e in examples if e.weight != 1}
    return [replace(i, weight=weights[i.example_id]) if i.example_id in weights else i for i in items], found


def build(lm: LanguageModel, micro_batch_tokens: int, share_prefix: bool) -> Causal:
    return Causal(lm.packed, micro_batch_tokens, share_prefix)


CAUSAL = Interface(encode, build, shared_prefix)
