"""LoRA: a low-rank update beside every linear layer, the base frozen.

What it changes: y = W x + scale · B A x, with A and B trained, B zero at the start, so that training begins at the
base model; scale is alpha / rank, or alpha / √rank (rank-stabilised). When to prefer it, and over what: the default
below some tens of thousands of examples; it reaches full fine-tuning's score there, forgets less, and its result is
a file of a few megabytes. What data it needs: any. What it costs: 16 bytes per adapter parameter besides the frozen
weights; about 4 FLOPs per base parameter and token, since frozen weights need no gradient of their own. Source: Hu
et al. 2021, arXiv:2106.09685; targets, alpha and rate after Schulman 2025, "LoRA Without Regret" (all linear layers,
alpha 32, ten times the rate of full fine-tuning); rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732; DoRA: Liu
et al. 2024, arXiv:2402.09353; PiSSA: Meng et al. 2024, arXiv:2404.02948. Adapters are peft's; only their arithmetic
is replaced where it is not DoRA's, by the same products with nothing kept that the backward pass does not need.
PiSSA leaves the base's weights alone: see :func:`_start_at_largest_directions`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tunesmith.config import Lora, Qlora
from tunesmith.errors import ConfigError
from tunesmith.model.forward import frozen_linear
from tunesmith.model.load import peft_quiet
from tunesmith.model.quantise import frozen_weight, import_peft
from tunesmith.model.vision import image_parts
from tunesmith.train.methods.method import Attached, Method

ADAPTER = "default"  # peft's name for the only one
OVERSAMPLING, ITERATIONS = 8, 16  # of the randomised SVD; Meng et al. 2024 find no loss against the exact one


def attach(model: Any, settings: Lora | Qlora) -> Attached:
    """Put adapters on ``settings.target_modules``, by default on all linear layers but the head.

    A head of its own (``model.head``) is not adapted but trained as it is; so is what joins a model's eyes to its
    text (LLaVA's projector), while the eyes themselves stay as they are.

    Raises:
        ConfigError: If the model has no layer of a name that was asked for, or none that PiSSA can start from.
    """
    peft = import_peft()
    backbone, head = (model, None) if isinstance(model, PreTrainedModel) else (model.backbone, model.head)
    eyes, connectors = image_parts(backbone)
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear", use_dora=settings.dora,
        use_rslora=settings.rank_stabilised, task_type=_task_type(backbone),
        modules_to_save=connectors or None,
        exclude_modules=rf"(.*\.)?({'|'.join([*eyes, *connectors])})(\..*)?" if eyes else None,
    )  # fmt: skip
    try:
        with peft_quiet():
            peft_model = peft.get_peft_model(backbone, config)  # puts the adapters into the backbone itself
    except ValueError as error:
        raise ConfigError(f"method.target_modules: {error}") from error
    starts: dict[str, Start] = {}
    if isinstance(settings, Lora) and settings.init == "pissa":
        starts = _start_at_largest_directions(backbone)
    if settings.dropout == 0:
        fuse(backbone, starts)
    if head is not None:
        head.requires_grad_(True)

    def save(folder: Path) -> None:
        save_adapter(peft_model, folder, starts)
        if head is not None:
            from tunesmith.model.head import save_head_weights

            save_head_weights(model, folder)

    return Attached(model, {name: p for name, p in model.named_parameters() if p.requires_grad}, save, "adapter")


def _task_type(model: Any) -> str:
    """What peft calls a model of this kind; others read it from the saved adapter."""
    if model.get_output_embeddings() is None:
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def save_adapter(peft_model: Any, folder: Path, starts: dict[str, Start]) -> None:
    """Write the adapter as peft does, without the base's place on this machine.

    What a layer with a start adds to its base, scale · (B A − B₀ A₀), is a plain LoRA of twice the rank: A over A₀,
    and B beside −B₀.
    """
    # save_embedding_layers: left to itself, peft asks the hub whether the base's vocabulary was resized
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"] or "").name
    if starts:
        weights = load_file(folder / "adapter_model.safetensors")
        for name, (a, b) in starts.items():
            for part, start, along in (("lora_A", a, 0), ("lora_B", -b, 1)):
                key = f"base_model.model.{name}.{part}.weight"
                weights[key] = torch.cat([weights[key], start.cpu()], along).contiguous()
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        scale = next(iter(peft_model.base_model.model.get_submodule(next(iter(starts))).scaling.values()))
        config |= {"r": 2 * config["r"], "lora_alpha": scale * 2 * config["r"], "use_rslora": False}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's stub; ours is written with the report


Start = tuple[torch.Tensor, torch.Tensor]  # A₀ (rank, in) and B₀ (out, rank): subtracted, never trained


def _start_at_largest_directions(model: Any) -> dict[str, Start]:
    """PiSSA: A and B begin at the weight's largest singular directions, by layer's name.

    The authors take B₀ A₀ out of the base's weight. Here the base stays as it is and the layer subtracts
    scale · B₀ A₀ x: the same function, at the cost of a second narrow product, and with the adapter off, or on a
    base in 16 bits, exactly the base.
    """
    starts: dict[str, Start] = {}
    for name, layer in model.named_modules():
        if not is_adapted(layer):
            continue
        if not is_plain(layer):
            kind = type(layer.get_base_layer()).__name__
            raise ConfigError(f"method.init: pissa needs linear layers, but '{name}' is {kind}. Use init: default.")
        rank = layer.r[ADAPTER]
        weight = layer.get_base_layer().weight.detach().float()
        kept = min(rank, *weight.shape)
        u, s, v = torch.svd_lowrank(weight, q=min(rank + OVERSAMPLING, *weight.shape), niter=ITERATIONS)
        root = (s[:kept] / layer.scaling[ADAPTER]).sqrt()
        with torch.no_grad():
            for parameter, value in (
                (layer.lora_A[ADAPTER].weight, root[:, None] * v[:, :kept].T),
                (layer.lora_B[ADAPTER].weight, u[:, :kept] * root),
            ):
                parameter.zero_()[: value.shape[0], : value.shape[1]] = value
        starts[name] = (
            layer.lora_A[ADAPTER].weight.detach().clone(),
            layer.lora_B[ADAPTER].weight.detach().clone(),
        )
    return starts


def is_adapted(layer: Any) -> bool:
    """Whether a module is a layer with an adapter beside it."""
    return hasattr(layer, "lora_A") and ADAPTER in layer.lora_A


def is_plain(layer: Any) -> bool:
    """Whether an adapted layer is LoRA on a linear layer, whatever its weight is stored as."""
    return isinstance(layer.get_base_layer(), torch.nn.Linear) and not layer.lora_variant


def fuse(model: torch.nn.Module, starts: dict[str, Start]) -> int:
    """Replace the arithmetic of peft's plain LoRA layers by :class:`_LoraLinear`; returns how many."""
    count = 0
    for name, layer in model.named_modules():
        if is_adapted(layer) and is_plain(layer):
            layer.forward = _fused_forward(layer, layer.forward, starts.get(name))
            count += 1
    return count


def _fused_forward(layer: Any, original: Callable[..., torch.Tensor], start: Start | None) -> Any:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapters = layer.active_adapters
        if layer.disable_adapters or layer.merged or len(adapters) != 1 or args or kwargs:
            return original(x, *args, **kwargs)
        name = adapters[0]
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        if start is not None:
            a, b = torch.cat([a, start[0]]), torch.cat([b, -start[1]], dim=1)
        a, b = a.to(x.dtype), b.to(x.dtype)  # peft keeps adapters in float32 on a base in 16 bits
        out: torch.Tensor = _LoraLinear.apply(x, layer.get_base_layer(), a, b, layer.scaling[name])
        return out

    return forward


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ, with W and b frozen; keeps x and x Aᵀ only."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, base: torch.nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ a.T  # (tokens, rank)
        out = frozen_linear(flat, frozen_weight(base), base.bias).addmm_(narrow, b.T, alpha=scale)
        ctx.save_for_backward(flat, narrow, a, b)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        return out.view(*x.shape[:-1], base.out_features)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, narrow, a, b = ctx.saved_tensors
        d_flat = d_out.reshape(-1, d_out.shape[-1])
        d_narrow = (d_flat @ b).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            weight = frozen_weight(ctx.base)
            d_x = frozen_linear(d_flat, weight.T, None).addmm_(d_narrow, a).view(ctx.shape)
        d_a = d_narrow.T @ flat
        d_b = (d_flat.T @ narrow).mul_(ctx.scale)
        return d_x, None, d_a, d_b, None


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


def adapter_parameters(parameters: int, hidden_size: int, linears: int, settings: Lora | Qlora) -> int:
    """Rank times inputs plus outputs of the linear layers, all of them whatever ``target_modules`` says.

    DoRA adds a number for each of their outputs, about half of ``linears``.
    """
    return settings.rank * linears + (linears // 2 if settings.dora else 0)


LORA = Method(
    kind="lora",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=adapter_parameters,
    flops_per_token=lambda parameters: 4.0 * parameters,
)
