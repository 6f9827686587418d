"""What the plan rests on: the data in tokens, the model in numbers, the machine in bytes and FLOP/s."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.hardware import Hardware
from tunesmith.sources import ModelFolder
from tunesmith.train.objectives import Item


@dataclass(frozen=True, slots=True)
class Widths:
    """How wide a model's layers are inside: what one token leaves behind in training follows from it.

    Attributes:
        heads: Attention heads of a layer.
        attention: Numbers of all queries of a token in a layer: heads times the size of one.
        norms: Numbers that go into the norms of all layers, for a token.
        linears: Inputs plus outputs of all linear layers inside the layers.
        gated: Whether the feed-forward part multiplies two branches.
        dropout: Whether numbers are dropped in training, attention's among them.
    """

    heads: int
    attention: int
    norms: int
    linears: int
    gated: bool
    dropout: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """``tokens_per_example`` and ``supervised_per_example`` are means; ``prefix_tokens`` all share."""

    train: int
    validation: int
    test: int
    labels: int
    tokens_per_example: float
    longest_example: int
    supervised_per_example: float
    prefix_tokens: int
    model: str
    architecture: str
    model_type: str
    parameters: int
    hidden_size: int
    intermediate_size: int
    layers: int
    vocabulary: int
    context_length: int
    cores: int
    available_bytes: int
    dtype: str
    flops_per_second: float
    widths: Widths

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def gather_facts(
    counts: Mapping[str, int],
    labels: int,
    items: Sequence[Item],
    prefix: int,
    folder: ModelFolder,
    architecture: str,
    hardware: Hardware,
    flops_per_second: float,
) -> Facts:
    """Put the facts together, ``prefix`` being the tokens that all items share.

    Reads the model's config and the headers of its weights; loads nothing.
    """
    config = _text_config(folder)
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
    hidden = _first(config, "hidden_size", "n_embd", "d_model", "dim")
    inner = config.get("intermediate_size") or config.get("n_inner") or config.get("d_ff") or 4 * hidden
    return Facts(
        train=counts["train"], validation=counts["validation"], test=counts["test"],
        labels=labels,
        tokens_per_example=sum(i.tokens for i in items) / len(items), longest_example=max(i.tokens for i in items),
        supervised_per_example=sum(i.units for i in items) / len(items), prefix_tokens=prefix,
        model=folder.name, architecture=architecture, model_type=str(config.get("model_type")),
        parameters=count_parameters(folder), hidden_size=hidden,
        intermediate_size=int(inner), layers=layers, vocabulary=int(config.get("vocab_size") or 0),
        context_length=_context_length(config),
        cores=hardware.usable_cores, available_bytes=hardware.available_bytes, dtype=hardware.dtype,
        flops_per_second=flops_per_second,
        widths=read_widths(folder),
    )  # fmt: skip


def _first(config: dict[str, Any], *names: str) -> int:
    """The first of several names that families give one number."""
    for name in names:
        if config.get(name):
            return int(config[name])
    raise ModelError(f"config.json of the model has none of {', '.join(names)}, so its cost cannot be told.")


def context_length(folder: ModelFolder) -> int:
    """Tokens the model was built for, from its config."""
    return _context_length(_text_config(folder))


def _text_config(folder: ModelFolder) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    inner: dict[str, Any] = config.get("text_config", config)
    return inner


def _context_length(config: dict[str, Any]) -> int:
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)


def count_parameters(folder: ModelFolder) -> int:
    """Number of stored values, from the headers of the safetensors files."""
    return sum(math.prod(shape) for _, shape in _tensors(folder))


def read_widths(folder: ModelFolder) -> Widths:
    """Widths of the layers, from config.json and the headers of the safetensors files."""
    config = _text_config(folder)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or config.get("num_heads") or 1)
    hidden = _first(config, "hidden_size", "n_embd", "d_model", "dim")
    size = int(config.get("head_dim") or hidden // heads)
    of_keys = size * int(config.get("num_key_value_heads") or heads)
    norms, linears, gated = 0, 0, False
    for name, shape in _tensors(folder):
        if not _IN_A_LAYER.search(name):
            continue
        if len(shape) == 2:
            linears += sum(shape)
            gated |= "gate" in name
        elif len(shape) == 1 and "norm" in name.lower() and name.endswith("weight"):
            norms += heads * size if "q_norm" in name else of_keys if "k_norm" in name else shape[0]
    dropped = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "resid_pdrop")
    return Widths(heads, heads * size, norms, linears, gated, any((config.get(name) or 0) > 0 for name in dropped))


_IN_A_LAYER = re.compile(r"(^|\.)\d+\.")  # a name with a layer's number


def _tensors(folder: ModelFolder) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every stored tensor."""
    for file in sorted(folder.path.glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
