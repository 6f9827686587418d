"""What the plan rests on: the data in tokens, the model in numbers, the machine in bytes and FLOP/s."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.hardware import Hardware
from tunesmith.sources import ModelFolder
from tunesmith.train.objectives import Item


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
    total = 0
    for file in sorted(folder.path.glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total
