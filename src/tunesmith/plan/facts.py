"""What the plan rests on: the data in tokens, the model in numbers, the machine in bytes and FLOP/s."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.data.render import Rendered
from tunesmith.hardware import Hardware
from tunesmith.sources import ModelFolder


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
    rendered: Sequence[Rendered],
    folder: ModelFolder,
    hardware: Hardware,
    flops_per_second: float,
) -> Facts:
    """Put the facts together; reads the model's config and the headers of its weights, loads nothing."""
    from tunesmith.train.batches import shared_prefix, supervised

    config = _text_config(folder)
    layers = config.get("num_hidden_layers") or config["n_layer"]
    hidden = int(config.get("hidden_size") or config["n_embd"])
    lengths = [len(r.input_ids) for r in rendered]
    return Facts(
        train=counts["train"], validation=counts["validation"], test=counts["test"],
        labels=labels,
        tokens_per_example=sum(lengths) / len(lengths), longest_example=max(lengths),
        supervised_per_example=sum(len(supervised(r)) for r in rendered) / len(rendered),
        prefix_tokens=shared_prefix(rendered), model=folder.name, model_type=str(config.get("model_type")),
        parameters=count_parameters(folder), hidden_size=hidden,
        intermediate_size=int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
        layers=int(layers), vocabulary=int(config["vocab_size"]),
        context_length=_context_length(config),
        cores=hardware.usable_cores, available_bytes=hardware.available_bytes, dtype=hardware.dtype,
        flops_per_second=flops_per_second,
    )  # fmt: skip


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
