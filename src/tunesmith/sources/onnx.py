"""ONNX files: the weights of a network, read without running or importing anything of the graph.

An ONNX file is a protobuf message. Read here are the graph's nodes (name, operation, inputs, outputs) and its
float32 constants, which is what is needed to hand weights to transformers; about sixty lines instead of a package.
Every length is checked against the bytes that are there, and weights in files beside the graph are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import ModelError

# Part of every converted model's recipe: raise it when a correction changes what comes out.
CONVERSION = 1

_FLOAT32 = 1  # onnx.TensorProto.FLOAT
_WIRE_VARINT, _WIRE_64_BITS, _WIRE_BYTES, _WIRE_32_BITS = 0, 1, 2, 5

# DINOv2-small as published: facebook/dinov2-small, config.json.
_DINOV2 = {
    "image_size": 518, "patch_size": 14, "hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12,
    "mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "layerscale_value": 1.0, "qkv_bias": True,
}  # fmt: skip
# As published but for the size: the whole image in 224 × 224, where the original resizes its shorter side to 256 and
# cuts off what lies outside the middle. What a user's labels are about may stand at the border.
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True, "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3,
    "do_center_crop": False,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the graph."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_graph(file: Path) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Nodes in the file's order, and the float32 constants by name.

    Raises:
        ModelError: If the file is damaged, or keeps its weights elsewhere.
    """
    try:
        data = memoryview(file.read_bytes())
        graph = next(value for number, value in _fields(data) if number == 7)  # ModelProto.graph
        nodes: list[Node] = []
        weights: dict[str, np.ndarray] = {}
        for number, value in _fields(graph):
            if number == 1:
                nodes.append(_node(value))
            elif number == 5:
                name, array = _tensor(value)
                if array is not None:
                    weights[name] = array
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        raise ModelError(f"{file.name}: not an ONNX file, or a damaged one. Get it anew.") from error
    return nodes, weights


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message; a value is a number or a view of bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _WIRE_VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == _WIRE_BYTES:
            length, at = _varint(data, at)
        elif wire in (_WIRE_64_BITS, _WIRE_32_BITS):
            length = 8 if wire == _WIRE_64_BITS else 4
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(data) - at:
            raise ValueError("cut off")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _node(data: Any) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    name = operation = ""
    for number, value in _fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 4:
            operation = _text(value)
    return Node(name, operation, tuple(inputs), tuple(outputs))


def _tensor(data: Any) -> tuple[str, np.ndarray | None]:
    shape: list[int] = []
    kind, name, raw = 0, "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1:  # packed
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                shape.append(size)
        elif number == 2:
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = value
        elif number in (13, 14) and value:  # external data and its location
            raise ValueError("weights outside the file")
    if kind != _FLOAT32:
        return name, None
    if raw is None or len(raw) != 4 * math.prod(shape):
        raise ValueError(f"'{name}' has not the size of its shape")
    return name, np.frombuffer(raw, dtype="<f4").reshape(shape)


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8")


def convert_dinov2(file: Path, folder: Path) -> None:
    """Write the DINOv2-small image encoder inside an ONNX graph as safetensors, config and preprocessor config.

    The graph is one that PyTorch exported from transformers' model as a part named ``backbone``. Most weights kept
    their names; those of linear layers are told by the node that multiplies by them, and stand transposed.

    Args:
        file: The ONNX file.
        folder: A folder that does not exist yet. The caller makes the result visible when it is whole.

    Raises:
        ModelError: If the file is damaged, or does not hold exactly that encoder.
    """
    nodes, weights = read_graph(file)
    # Imported here: `--help` and the data checks come through this package and need no torch.
    import torch
    from transformers import Dinov2Config, Dinov2Model

    state = {name: torch.tensor(value) for name, value in _dinov2_weights(nodes, weights).items()}
    config = Dinov2Config(**_DINOV2)
    state["embeddings.mask_token"] = torch.zeros(1, config.hidden_size)  # used in pretraining only; not in the graph
    model, report = Dinov2Model.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    wrong += [str(key) for key in report["mismatched_keys"]]
    wrong += [f"{name} (not finite)" for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if wrong:
        raise ModelError(f"{file.name}: {len(wrong)} weights are missing, left over or broken: {', '.join(wrong[:5])}.")
    model.config.name_or_path = ""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights for the owner alone; a shared cache is read by others


def _dinov2_weights(nodes: list[Node], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights by the names that DINOv2 has on the hub."""
    state = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
    position: dict[int, np.ndarray] = {}
    for node in nodes:
        used = [weights[name] for name in node.inputs if name in weights and not name.startswith("backbone.")]
        layer = re.fullmatch(r"/backbone/(encoder/layer\.\d+/[\w/]+)/MatMul", node.name)
        if layer and used:
            state[layer[1].replace("/", ".") + ".weight"] = used[0].T
        elif node.name.startswith("/backbone/embeddings/") and used:
            position[used[0].shape[1]] = used[0]  # the class token's, of length 1, then the patches'
    if position:
        state["embeddings.position_embeddings"] = np.concatenate([position[n] for n in sorted(position)], axis=1)
    return state
