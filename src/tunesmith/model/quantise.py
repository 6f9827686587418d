"""Frozen weights in 4 bits: NF4 with double quantisation, stored by bitsandbytes, computed with in the model's dtype.

NF4 has sixteen levels, the quantiles of a normal distribution, scaled in blocks of 64 weights by a factor that is
itself kept in 8 bits: 0.516 bytes a weight (Dettmers et al. 2023, arXiv:2305.14314). The head, embeddings and norms
stay as they are, and so do layers whose rows are not whole blocks: bitsandbytes 0.50 gives a wrong weight back for
them on a CPU, off by up to the block's largest.

Products dequantise the layer's weight, once forward and once backward, instead of taking bitsandbytes' own path. That
one, on a CPU with AVX512-BF16, repacks the weights at the first prediction and from then on computes in bfloat16, so
that a model would predict otherwise than it was trained. A layer's weight exists in full only while it is used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from tunesmith.errors import MissingExtraError, ModelError
from tunesmith.model.forward import frozen_linear

BLOCK = 64  # weights that share a scale
BYTES_PER_WEIGHT = 1 / 2 + 1 / BLOCK + 4 / (256 * BLOCK)  # the weight, its scale, the scale of 256 scales


def require_bitsandbytes() -> None:
    """Check that weights can be kept in 4 bits here, without importing anything.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "4-bit weights need the package bitsandbytes, which is not installed. "
            "Run: pip install 'tunesmith[qlora]', or use method: lora."
        )


@functools.lru_cache(maxsize=1)
def import_bitsandbytes() -> Any:
    """The package, imported without what it does beside.

    On some CPUs it fetches a compiled kernel from the internet if the package ``kernels`` is there, and complains if
    not. peft imports it wherever it is installed, so this goes first there too.
    """
    require_bitsandbytes()
    with _no_kernels():
        import bitsandbytes
    return bitsandbytes


@contextlib.contextmanager
def _no_kernels() -> Iterator[None]:
    before = sys.modules.get("kernels")
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # makes importing it fail
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before


@functools.lru_cache(maxsize=1)
def import_peft() -> Any:
    """The package, with bitsandbytes imported before it where that is installed."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        import_bitsandbytes()
    import peft

    return peft


def quantise_4bit(model: Any, dtype: torch.dtype, device: torch.device, keep: Collection[str] = ()) -> None:
    """Put the linear layers below the head into 4 bits, one by one and in place; the rest becomes ``dtype``.

    A model loaded in the dtype of its files (``dtype="auto"``) is read from disk as it is converted, so that memory
    never holds more than the result and one layer.

    Args:
        model: A model of transformers on the CPU.
        dtype: What products are computed in, and what stays unquantised is kept in.
        device: Where the result lives; each layer is quantised there.
        keep: Names of parts that are to be trained and therefore stay unquantised.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
        ModelError: If the model has no linear layer that could be quantised.
    """
    bnb = import_bitsandbytes()
    head = model.get_output_embeddings()
    exact = set(getattr(model, "_keep_in_fp32_modules", None) or ())  # T5 casts its inputs to these weights' dtype
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and module.in_features % BLOCK == 0
        and not {*exact, *keep} & set(name.split("."))
    ]
    if not found:
        raise ModelError(
            f"models of type '{model.config.model_type}' have no linear layers that could be kept in 4 bits. "
            "Use method: lora, or choose another model."
        )
    while found:
        name, module = found.pop()
        model.set_submodule(name, _quantised(bnb, module, dtype, device))
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            kept = parameter.dtype if exact & set(name.split(".")) else dtype
            parameter.data = parameter.data.to(device, kept, copy=True)  # copied: the file need not stay mapped
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    for part in (model, model.base_model):  # peft asks for this, also where the part below the head gets another head
        part.is_loaded_in_4bit = True


def _quantised(bnb: Any, linear: torch.nn.Linear, dtype: torch.dtype, device: torch.device) -> Any:
    layer = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None, compute_dtype=dtype, quant_type="nf4",
        device="meta",
    )  # fmt: skip
    weight = linear.weight.data.to(device, dtype)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, blocksize=BLOCK, quant_type="nf4", module=layer).to(
        device
    )
    layer.bias = linear.bias
    layer.forward = _forward(layer)
    return layer


def _forward(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _FrozenLinear.apply(x, layer)
        return out

    return forward


class _FrozenLinear(torch.autograd.Function):
    """y = x Wᵀ + b with W and b frozen; keeps nothing but the layer."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        out = frozen_linear(x.reshape(-1, x.shape[-1]), frozen_weight(layer), layer.bias)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, None]:
        d_x = frozen_linear(d_out.reshape(-1, d_out.shape[-1]), frozen_weight(ctx.layer).T, None)
        return d_x.view(*d_out.shape[:-1], d_x.shape[-1]), None


def frozen_weight(layer: Any) -> torch.Tensor:
    """Weight of a linear layer, shape (out, in): its own, or dequantised if it is in 4 bits."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        weight: torch.Tensor = layer.weight
        return weight
    dequantised: torch.Tensor = import_bitsandbytes().functional.dequantize_4bit(layer.weight.data, state)
    return dequantised


def count_parameters(model: Any) -> int:
    """Number of parameters, those in 4 bits counted as the weights they stand for."""
    states = [(parameter, getattr(parameter, "quant_state", None)) for parameter in model.parameters()]
    return sum(parameter.numel() if state is None else state.shape.numel() for parameter, state in states)


def weight_bytes(model: Any) -> int:
    """Bytes that a model's parameters take, with the scales of those in 4 bits."""
    total = 0
    for parameter in model.parameters():
        tensors = [parameter]
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            tensors += [t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor)]
            state = state.state2
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return total
