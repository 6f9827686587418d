"""KL: on a few general texts at every step, the model is held to what the base would say there.

What it changes: the loss of every step has weight · D(base ‖ model) added, the mean over the answers' tokens of two
texts, exact over the vocabulary. When to prefer it, and over what: over replay where the texts are few or not the
base's own, since the whole distribution teaches more than the one token that was drawn; it bounds the very divergence
that predicts forgetting. What data it needs: texts, by default the base's own. What it costs: two texts more at every
step; of the base only its hidden states at those places are kept, and its head where that is trained. Source: Li and
Hoiem 2016, "Learning without forgetting", arXiv:1606.09282, with the divergence in place of their tempered cross-
entropy; that it predicts forgetting: Shenfeld et al. 2025, "RL's razor", arXiv:2509.04259.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.data.render import Rendered
from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.forward import Head, head_logits, hidden_states, output_head
from tunesmith.train.batches import Shuffled, supervised
from tunesmith.train.methods.method import Attached
from tunesmith.train.remedies.update import adapters_off

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

TEXTS_A_STEP = 2


@dataclass(frozen=True, slots=True)
class BaseView:
    """What the base thinks of some texts: its hidden states where answers are predicted, and the head above them."""

    texts: tuple[Rendered, ...]
    hidden: tuple[torch.Tensor, ...]  # (positions, hidden) of each text
    head: Head | None  # None: the model's own, which does not move
    packed: bool

    @property
    def positions(self) -> int:
        return sum(len(rows) for rows in self.hidden)


def view_of_base(lm: LanguageModel, attached: Attached, texts: Sequence[Rendered]) -> BaseView:
    """Ask the base; before training, or with adapters at any time."""
    attached.model.eval()
    with torch.no_grad(), adapters_off(attached):
        hidden = tuple(_hidden(lm.model, text, lm.packed) for text in texts)
        weight, bias = output_head(lm.model)
        head = None
        if weight.requires_grad:
            head = weight.detach().clone(), None if bias is None else bias.detach().clone()
    return BaseView(tuple(texts), hidden, head, lm.packed)


def _hidden(model: Any, text: Rendered, packed: bool) -> torch.Tensor:
    device = next(model.parameters()).device
    rows = [place - 1 for place in supervised(text)]
    return hidden_states(model, build_pack([], [[Segment(text.input_ids)]], device), packed)[rows]


def summed_divergence(base: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Σ over rows of D(base ‖ model) in nats, from logits of shape (n, vocabulary); differentiable in ``model``."""
    of_base, of_model = base.log_softmax(1), model.log_softmax(1)
    return (of_base.exp() * (of_base - of_model)).sum()


def kl(model: Any, view: BaseView, weight: float, seed: int, step: int) -> Iterator[torch.Tensor]:
    """weight · mean D(base ‖ model) over the texts of a step, one differentiable number for each of them."""
    chosen = Shuffled(len(view.texts)).step(TEXTS_A_STEP, seed, step)
    positions = sum(len(view.hidden[i]) for i in chosen)
    for i in chosen:
        yield weight / positions * _text_divergence(model, view, int(i))


def mean_kl(model: Any, view: BaseView) -> float:
    """Mean D(base ‖ model) over all the texts' positions, in nats per token."""
    model.eval()
    with torch.no_grad():
        total = sum(float(_text_divergence(model, view, i)) for i in range(len(view.texts)))
    return max(0.0, total / view.positions)


def _text_divergence(model: Any, view: BaseView, i: int) -> torch.Tensor:
    with torch.no_grad():
        base = head_logits(model, view.hidden[i], view.head)
    return summed_divergence(base, head_logits(model, _hidden(model, view.texts[i], view.packed)))
