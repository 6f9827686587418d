"""LoRA: a low-rank update beside every linear layer, the base frozen.

What it changes: y = W x + (alpha / rank) · B A x, with A and B trained, B zero at the start, so that training
begins at the base model. When to prefer it, and over what: the default below some tens of thousands of examples;
it reaches full fine-tuning's score there, forgets less, and its result is a file of a few megabytes. What data it
needs: any. What it costs: 16 bytes per adapter parameter besides the frozen weights; about 4 FLOPs per base
parameter and token, since frozen weights need no gradient of their own. Source: Hu et al. 2021, arXiv:2106.09685;
targets, alpha and rate after Schulman 2025, "LoRA Without Regret" (all linear layers, alpha 32, ten times the
rate of full fine-tuning). Adapters are peft's; only their arithmetic is replaced where it is plain LoRA, by the
same products with nothing kept that the backward pass does not need.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear

from tunesmith.config import Lora
from tunesmith.errors import ConfigError
from tunesmith.model.forward import frozen_linear
from tunesmith.model.load import peft_quiet
from tunesmith.train.methods.method import Attached, Method


def attach(model: Any, settings: Lora) -> Attached:
    """Put adapters on ``settings.target_modules``, by default on all linear layers but the head.

    Raises:
        ConfigError: If the model has no layer of a name that was asked for.
    """
    targets: str | list[str] = list(settings.target_modules) or "all-linear"
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        with peft_quiet():
            peft_model = get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"method.target_modules: {error}") from error
    inner = peft_model.get_base_model()
    if settings.dropout == 0:
        fuse(inner)
    trainable = {name: p for name, p in inner.named_parameters() if p.requires_grad}
    return Attached(inner, trainable, lambda folder: save_adapter(peft_model, folder), "adapter")


def save_adapter(peft_model: Any, folder: Path) -> None:
    """Write the adapter as peft does, without the base's place on this machine."""
    # save_embedding_layers: left to itself, peft asks the hub whether the base's vocabulary was resized
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"] or "").name
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's stub; ours is written with the report


def fuse(model: torch.nn.Module) -> int:
    """Replace the arithmetic of peft's plain LoRA layers by :class:`_LoraLinear`; returns how many."""
    count = 0
    for layer in model.modules():
        if isinstance(layer, PeftLinear) and type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = _fused_forward(layer, layer.forward)
            count += 1
    return count


def _fused_forward(layer: Any, original: Any) -> Any:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapters = layer.active_adapters
        if layer.disable_adapters or layer.merged or len(adapters) != 1 or args or kwargs:
            result: torch.Tensor = original(x, *args, **kwargs)
            return result
        name = adapters[0]
        base = layer.get_base_layer()
        out: torch.Tensor = _LoraLinear.apply(
            x,
            base.weight,
            base.bias,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        )
        return out

    return forward


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ, with W and b frozen; keeps x and x Aᵀ only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ a.T  # (tokens, rank)
        out = frozen_linear(flat, weight, bias).addmm_(narrow, b.T, alpha=scale)
        ctx.save_for_backward(flat, narrow, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, narrow, weight, a, b = ctx.saved_tensors
        d_flat = d_out.reshape(-1, d_out.shape[-1])
        d_narrow = (d_flat @ b).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = frozen_linear(d_flat, weight.T, None).addmm_(d_narrow, a).view(ctx.shape)
        d_a = d_narrow.T @ flat
        d_b = (d_flat.T @ narrow).mul_(ctx.scale)
        return d_x, None, None, d_a, d_b, None


def learning_rate(model_type: str, hidden_size: int) -> tuple[float, str]:
    """5e-5 · 10 · (2000 / H)^P, H the hidden size and P fitted per family: 0.781 for Llama, 0.0775 for Qwen.

    Other families get the smaller exponent, which is the more careful one below H = 2000.
    """
    exponent = 0.781 if model_type == "llama" else 0.0775
    rate = 5e-5 * 10 * (2000 / hidden_size) ** exponent
    return (
        rate,
        f"5e-5 · 10 · (2000/{hidden_size})^{exponent}: tinker-cookbook, hyperparam_utils; Schulman 2025",
    )


def _adapter_parameters(parameters: int, hidden_size: int, layers: int, settings: Lora) -> int:
    """Estimate: seven linear layers of a gated decoder, wide ones about 2.7 times the hidden size."""
    per_layer = settings.rank * hidden_size * (4 * 2 + 3 * 3.7)
    return round(per_layer * layers)


LORA = Method(
    kind="lora",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=_adapter_parameters,
    flops_per_token=lambda parameters: 4.0 * parameters,
)
