"""Adapters of several trainings computed at once, over one copy of their frozen base.

Every member has modules of its own that hold the base's weights, not copies of them, with its adapter inside, as a
training alone has. Where several members' losses are wanted, their tokens go through the base together: one product per
layer, and beside it each member's narrow ones on its own tokens. No sum runs over members, so each gets the gradients
that it would get alone.

Members that read the same items share one layout, a row of hidden states each; below the lowest layer that any of them
adapts there is one row for all. Other members' packs are laid end to end in one row.

Source: mLoRA, Ye et al. 2023, arXiv:2312.02515 (jobs in one batch). Unlike it, nothing is padded, and every member
keeps optimizer, clipping, schedule and stopping to itself: it is trained by ``train.loop``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.config import Lora
from tunesmith.data.render import Rendered
from tunesmith.errors import ConfigError
from tunesmith.model.attention import layout
from tunesmith.model.forward import decoder, frozen_linear, summed_loss_and_terms, token_losses
from tunesmith.train.batches import MicroBatch, micro_batches
from tunesmith.train.methods.lora import ADAPTER, is_adapted, is_plain
from tunesmith.train.methods.method import Attached
from tunesmith.train.objectives.causal import Causal, token_weights

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Adapters = dict[
    str, tuple[torch.nn.Parameter, torch.nn.Parameter, float]
]  # by layer: A (rank, in), B (out, rank), scale


@dataclass(slots=True, eq=False)
class Ask:
    """What a member wants: with a ``scale`` the loss of a step and its gradients, else the loss of each item.

    ``loss`` is the answer: ``scale`` times the sum, or shape (n,), float64 on the CPU.
    """

    adapters: Adapters
    items: Sequence[Rendered]
    scale: float | None
    loss: torch.Tensor


Lane = tuple[Ask, MicroBatch]  # one member's part of what is computed at once


def why_alone(lm: LanguageModel, method: Any) -> str | None:
    """Why a method on this model cannot be trained together with others; None if it can."""
    if not isinstance(method, Lora) or method.dora or method.dropout or method.init != "default":
        return "only LoRA without DoRA, dropout or PiSSA is trained together"
    if lm.interface != "causal" or not lm.packed:
        return "only decoders that run without padding, for next tokens, are trained together"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "several processes share each training already"
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in lm.model.modules())
    if drops or getattr(lm.model.config.get_text_config(), "attention_dropout", None):
        return "the model has dropout of its own, whose random numbers depend on what is computed beside"
    return None


def share_weights(lm: LanguageModel) -> LanguageModel:
    """The same model as modules of its own: what is put into one is not in the other, weights are in memory once."""
    weights = itertools.chain(lm.model.parameters(), lm.model.buffers())
    return replace(lm, model=copy.deepcopy(lm.model, {id(tensor): tensor for tensor in weights}))


class Together:
    """One base, and the arithmetic of several members over it.

    Args:
        lm: The base; it stays as it is.
        objective: How micro-batches are cut, the same for all.
    """

    def __init__(self, lm: LanguageModel, objective: Causal) -> None:
        self.objective, self.device = objective, lm.device
        self.model = share_weights(lm).model
        self.blocks = _blocks(self.model)
        self._lanes: list[Adapters] = []
        self._sizes: list[int] = []  # tokens of each lane
        self._adapted: set[str] = set()

    def join(self, attached: Attached) -> Adapters:
        """Let the adapter of a model from :func:`share_weights` take part; returns what it is asked by.

        Raises:
            ConfigError: If a layer is of a kind whose adapter is not a plain product.
        """
        found: Adapters = {}
        for name, layer in attached.model.named_modules():
            if is_adapted(layer):
                if not is_plain(layer):
                    raise ConfigError(f"layer {name}: adapters here cannot be trained together. Train them alone.")
                found[name] = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]
        for name in found.keys() - self._adapted:
            layer = self.model.get_submodule(name)
            layer.forward = self._forward(name, layer)
            self._adapted.add(name)
        return found

    def answer(self, asks: Sequence[Ask]) -> None:
        """Fill in every loss; gradients are added to those of the members' adapters."""
        for training in (True, False):
            by_items: dict[tuple[int, ...], list[Ask]] = {}
            for ask in asks:
                if (ask.scale is not None) is training:
                    by_items.setdefault(tuple(map(id, ask.items)), []).append(ask)
            alike = [group for group in by_items.values() if len(group) > 1]
            others = [self._micro_batches(group[0]) for group in by_items.values() if len(group) == 1]
            with torch.set_grad_enabled(training):
                for group in alike:
                    for _, micro in self._micro_batches(group[0]):
                        self._compute([(ask, micro) for ask in group], alike=True)
                for lanes in itertools.zip_longest(*others):
                    self._compute([lane for lane in lanes if lane is not None], alike=False)

    def _micro_batches(self, ask: Ask) -> Iterator[Lane]:
        how = self.objective
        for micro in micro_batches(ask.items, how.micro_batch_tokens, how.share_prefix, self.device):
            yield ask, micro

    def _compute(self, lanes: Sequence[Lane], alike: bool) -> None:
        hidden = self._hidden(lanes, alike)
        targets = torch.cat([micro.targets for _, micro in lanes])
        lengths = [len(micro.targets) for _, micro in lanes]
        if torch.is_grad_enabled():
            weights = torch.cat([token_weights(micro, ask.items, ask.scale or 0.0) for ask, micro in lanes])
            total, terms = summed_loss_and_terms(self.model, hidden, targets, weights)
            total.backward()
            for (ask, _), own in zip(lanes, terms.split(lengths), strict=True):
                ask.loss += own.sum()
            return
        losses = token_losses(self.model, hidden, targets).double().cpu()
        for (ask, micro), own in zip(lanes, losses.split(lengths), strict=True):
            for index, item in zip(micro.order, own.split(micro.counts), strict=True):
                ask.loss[index] = item.sum()

    def _hidden(self, lanes: Sequence[Lane], alike: bool) -> torch.Tensor:
        """Hidden states that predict the lanes' targets, one lane after the other."""
        packs = [micro.pack for _, micro in lanes]
        self._lanes = [ask.adapters for ask, _ in lanes]
        self._sizes = [pack.input_ids.shape[1] for pack in packs]
        if alike:
            packs = packs[:1]
        ids, positions = (torch.cat([getattr(p, of) for p in packs], 1) for of in ("input_ids", "position_ids"))
        lowest = self._lowest() if alike else None
        if alike and lowest is None:
            ids = ids.expand(len(lanes), -1)

        def spread(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return args[0].expand(len(lanes), -1, -1), *args[1:]

        hook = lowest.register_forward_pre_hook(spread) if lowest is not None else None
        try:
            with layout(*packs):
                out = decoder(self.model)(input_ids=ids, position_ids=positions, use_cache=False)
        finally:
            if hook is not None:
                hook.remove()
        starts = itertools.accumulate(self._sizes, initial=0)
        rows = torch.cat([start + micro.rows for start, (_, micro) in zip(starts, lanes, strict=False)])
        hidden: torch.Tensor = out.last_hidden_state.flatten(0, 1)[rows]
        return hidden

    def _lowest(self) -> torch.nn.Module | None:
        """The lowest block that a lane adapts: below it, all lanes that read the same items compute the same."""
        names = {name for lane in self._lanes for name in lane}
        inside = {block: [n for n in names if n.startswith(f"{block}.")] for block in self.blocks}
        if sum(map(len, inside.values())) < len(names):  # something outside the blocks is adapted
            return None
        return next(self.blocks[block] for block, found in inside.items() if found)

    def _forward(self, name: str, layer: Any) -> Any:
        plain = layer.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            found = [lane.get(name) for lane in self._lanes]
            if not any(found):
                out: torch.Tensor = plain(x)
                return out
            factors = [f for one in found for f in ((one[0].to(x.dtype), one[1].to(x.dtype)) if one else (None, None))]
            scales = [one[2] if one else 0.0 for one in found]
            batched = x.device.type != "cpu" and len(found) > 1 and len(set(self._sizes)) == 1
            function = _BatchedLoraLinear if batched else _GroupedLoraLinear
            out = function.apply(x, layer, self._sizes, scales, *factors)
            return out

        return forward


def _blocks(model: Any) -> dict[str, torch.nn.Module]:
    """The decoder's layers by their names in the model, from the lowest."""
    inside = decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is inside)
    for name, child in inside.named_children():
        if isinstance(child, torch.nn.ModuleList):
            return {f"{prefix}.{name}.{i}".lstrip("."): block for i, block in enumerate(child)}
    return {}


class _GroupedLoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b, and on each lane's tokens + scale · (x Aᵀ) Bᵀ of its own; as ``methods.lora`` has it for one."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, base: torch.nn.Linear, sizes: list[int], scales: list[float], *factors: Any
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = frozen_linear(flat, base.weight, base.bias)
        narrow = []
        for own, into, a, b, scale in zip(
            flat.split(sizes), out.split(sizes), factors[::2], factors[1::2], scales, strict=True
        ):
            narrow.append(None if a is None else own @ a.T)
            if a is not None:
                into.addmm_(narrow[-1], b.T, alpha=scale)
        ctx.save_for_backward(flat, *narrow, *factors)
        ctx.base, ctx.sizes, ctx.scales, ctx.shape = base, sizes, scales, x.shape
        return out.view(*x.shape[:-1], base.out_features)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, *saved = ctx.saved_tensors
        narrow, factors = saved[: len(ctx.sizes)], saved[len(ctx.sizes) :]
        d_flat = d_out.reshape(-1, d_out.shape[-1])
        d_x = frozen_linear(d_flat, ctx.base.weight.T, None) if ctx.needs_input_grad[0] else None
        into = d_x.split(ctx.sizes) if d_x is not None else [None] * len(ctx.sizes)
        gradients: list[torch.Tensor | None] = []
        parts = (flat.split(ctx.sizes), d_flat.split(ctx.sizes), into, narrow, factors[::2], factors[1::2], ctx.scales)
        for own, d_own, d_into, thin, a, b, scale in zip(*parts, strict=True):
            if a is None:
                gradients += [None, None]
                continue
            d_narrow = (d_own @ b).mul_(scale)
            if d_into is not None:
                d_into.addmm_(d_narrow, a)
            gradients += [d_narrow.T @ own, (d_own.T @ thin).mul_(scale)]
        return d_x.view(ctx.shape) if d_x is not None else None, None, None, None, *gradients


class _BatchedLoraLinear(torch.autograd.Function):
    """The same for lanes of one length as one batched product, ranks filled up with zeros: few kernels to launch."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, base: torch.nn.Linear, sizes: list[int], scales: list[float], *factors: Any
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ranks = [0 if a is None else len(a) for a in factors[::2]]
        a_all = flat.new_zeros(len(sizes), max(ranks), base.in_features)
        b_all = flat.new_zeros(len(sizes), base.out_features, max(ranks))
        for lane, (rank, a, b, scale) in enumerate(zip(ranks, factors[::2], factors[1::2], scales, strict=True)):
            if rank:
                a_all[lane, :rank], b_all[lane, :, :rank] = a, scale * b
        lanes = flat.view(len(sizes), sizes[0], -1)
        narrow = torch.bmm(lanes, a_all.mT)
        out = frozen_linear(flat, base.weight, base.bias)
        out.view(len(sizes), sizes[0], -1).baddbmm_(narrow, b_all.mT)
        ctx.save_for_backward(lanes, narrow, a_all, b_all)
        ctx.base, ctx.ranks, ctx.scales, ctx.shape = base, ranks, scales, x.shape
        return out.view(*x.shape[:-1], base.out_features)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        lanes, narrow, a_all, b_all = ctx.saved_tensors
        d_lanes = d_out.reshape(*lanes.shape[:2], -1)
        d_narrow = torch.bmm(d_lanes, b_all)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = frozen_linear(d_lanes.flatten(0, 1), ctx.base.weight.T, None)
            d_x.view_as(lanes).baddbmm_(d_narrow, a_all)
            d_x = d_x.view(ctx.shape)
        d_a, d_b = torch.bmm(d_narrow.mT, lanes), torch.bmm(d_lanes.mT, narrow)
        gradients: list[torch.Tensor | None] = []
        for lane, (rank, scale) in enumerate(zip(ctx.ranks, ctx.scales, strict=True)):
            gradients += [d_a[lane, :rank], d_b[lane, :, :rank] * scale] if rank else [None, None]
        return d_x, None, None, None, *gradients
