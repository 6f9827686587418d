"""Hidden states of a pack, and logits only where something is to be predicted.

A family whose attention cannot run over a layout takes the padded path: the same contract, every path through the
tree as a row of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.functional import linear

from tunesmith.hardware import cpu_name
from tunesmith.model.attention import Pack, layout

LOSS_CHUNK = 256  # supervised positions whose logits exist at once: 256 × 49,152 × 4 bytes = 50 MB


def hidden_states(model: Any, pack: Pack, packed: bool = True) -> torch.Tensor:
    """Last hidden states of every token in the row, shape (tokens, hidden), in the row's order.

    Args:
        model: A causal language model of transformers, adapters inside it or not.
        pack: The layout.
        packed: Whether the model's attention runs over a layout; False computes each path padded.
    """
    if not packed:
        return _padded_hidden_states(model, pack)
    with layout(pack):
        out = decoder(model)(input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False)
    hidden: torch.Tensor = out.last_hidden_state[0]
    return hidden


def decoder(model: Any) -> Any:
    """The part of a causal language model below its head."""
    return model.get_decoder()


def _padded_hidden_states(model: Any, pack: Pack) -> torch.Tensor:
    paths: list[list[int]] = []
    lengths: list[int] = []  # how many tokens at a path's end belong to its last segment
    for item in pack.items:
        for segment in item:
            path = list(segment.tokens)
            parent = segment.parent
            while parent >= 0:
                path = [*item[parent].tokens, *path]
                parent = item[parent].parent
            paths.append([*pack.prefix, *path])
            lengths.append(len(segment.tokens))
    device = pack.input_ids.device
    longest = max(len(path) for path in paths)
    ids = torch.zeros(len(paths), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, path in enumerate(paths):
        ids[row, : len(path)] = torch.tensor(path, device=device)
        mask[row, : len(path)] = 1
    out = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    parts = [out[0, : pack.prefix_in_row]]
    parts += [out[row, len(path) - n : len(path)] for row, (path, n) in enumerate(zip(paths, lengths, strict=True))]
    return torch.cat(parts)


def frozen_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x Wᵀ + b, shape (n, out), for x of shape (n, in); autograd does not see it.

    On a CPU in float32 by the faster of two libraries with the same arithmetic; see :func:`_prefers_onednn`.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and _prefers_onednn():
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return linear(x, weight, bias)


@functools.cache
def _prefers_onednn() -> bool:
    """Whether oneDNN's float32 product is taken instead of MKL's, which torch takes.

    Measured at the shapes of a step of training: on AMD Zen 4 oneDNN takes 15 to 30 % less time, on an Intel Xeon
    with AVX-512 MKL takes 10 to 15 % less. By the processor's name and not by a trial, so that a run resumed on the
    same machine computes the same bits.
    """
    return torch.backends.mkldnn.is_available() and "Intel" not in cpu_name()


Head = tuple[torch.Tensor, torch.Tensor | None]  # weight and bias of what makes logits


def head_logits(model: Any, hidden: torch.Tensor, head: Head | None = None) -> torch.Tensor:
    """Logits of hidden states, shape (n, vocabulary), in float32; ``head`` stands in for the model's own."""
    return _soft_cap(linear(hidden, *(head or output_head(model))).float(), _cap(model))


def output_head(model: Any) -> Head:
    """Weight and bias of what makes logits; BART and its like keep a bias apart from the layer."""
    head = model.get_output_embeddings()
    apart = getattr(model, "final_logits_bias", None)  # (1, vocabulary)
    if apart is None:
        return head.weight, head.bias
    bias = apart[0].to(head.weight.dtype)
    return head.weight, bias if head.bias is None else bias + head.bias


def _cap(model: Any) -> float | None:
    cap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap


def _soft_cap(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def token_losses(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of ``targets`` after ``hidden``, nats, shape (n,), float32. Not differentiable."""
    losses = [hidden.new_zeros(0, dtype=torch.float32)]
    with torch.no_grad():
        for start in range(0, len(targets), LOSS_CHUNK):
            logits = head_logits(model, hidden[start : start + LOSS_CHUNK])
            chosen = logits.gather(1, targets[start : start + LOSS_CHUNK, None])[:, 0]
            losses.append(logits.logsumexp(1) - chosen)
    return torch.cat(losses)


def summed_loss(model: Any, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weight · negative log-likelihood, differentiable in ``hidden`` and in the head where it is trained."""
    return summed_loss_and_terms(model, hidden, targets, weights)[0]


def summed_loss_and_terms(
    model: Any, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss, and what was summed, shape (n,), which is not differentiable.

    Logits exist for one chunk at a time and their gradient is formed while they do, so memory does not grow with
    the number of supervised tokens times the vocabulary.

    Args:
        hidden: (n, hidden) at the supervised positions only.
        targets: (n,) token ids.
        weights: (n,) float32.
    """
    both: tuple[torch.Tensor, torch.Tensor] = _ChunkedLoss.apply(
        hidden, *output_head(model), targets, weights, _cap(model)
    )
    return both


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        token_weights: torch.Tensor,
        cap: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden.new_zeros((), dtype=torch.float32)
        terms = hidden.new_empty(len(targets), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if weight.requires_grad else None
        d_bias = torch.zeros_like(bias) if bias is not None and bias.requires_grad else None
        for start in range(0, len(targets), LOSS_CHUNK):
            here = slice(start, start + LOSS_CHUNK)
            logits = _soft_cap(frozen_linear(hidden[here], weight, bias).float(), cap)
            normaliser = logits.logsumexp(1)
            nll = normaliser - logits.gather(1, targets[here, None])[:, 0]
            terms[here] = nll * token_weights[here]
            total += terms[here].sum()
            slope = None if cap is None else 1 - (logits / cap) ** 2
            gradient = logits.sub_(normaliser[:, None]).exp_()
            gradient.scatter_add_(1, targets[here, None], gradient.new_full((len(nll), 1), -1.0))
            gradient *= token_weights[here, None]
            if slope is not None:
                gradient *= slope
            gradient = gradient.to(weight.dtype)
            d_hidden[here] = frozen_linear(gradient, weight.T, None)
            if d_weight is not None:
                d_weight.addmm_(gradient.T, hidden[here])
            if d_bias is not None:
                d_bias += gradient.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        return (
            d_hidden * scale,
            None if d_weight is None else d_weight * scale,
            None if d_bias is None else d_bias * scale,
            None, None, None,
        )  # fmt: skip
