"""Fixtures that every test shares: a tiny model, a seeded generator, and guards against the network."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy and torch are imported; two tests may run at a time
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_model_path() -> Path:
    """Folder of a random two-layer Llama with a ChatML tokenizer of 384 tokens."""
    return TESTS / "assets" / "tiny_llama"


@pytest.fixture(scope="session")
def tiny_dinov2_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random image encoder of eight small layers, for images of 28 × 28."""
    import torch
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=8, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    BitImageProcessorPil(size=size, do_center_crop=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llava_path(tmp_path_factory: pytest.TempPathFactory, tiny_dinov2_path: Path, tiny_model_path: Path) -> Path:
    """Folder of a vision–language model made of the two others; an image is 36 tokens."""
    from tunesmith.sources.assemble import assemble_vision_language

    folder = tmp_path_factory.mktemp("llava") / "model"
    assemble_vision_language(tiny_dinov2_path, tiny_model_path, folder)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of sixteen small images, each a square of its own brightness and place."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    paths = []
    for i in range(16):
        pixels = np.zeros((24, 32, 3), np.uint8)
        pixels[i : i + 8, 2 * i : 2 * i + 8] = (255 - 15 * i, 16 * i, 60 + 12 * i)
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with public data sets: TUNESMITH_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("TUNESMITH_TEST_DATA") or TESTS.parent.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set TUNESMITH_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast tests get an empty cache of their own; slow ones use the user's, to pull models only once."""
    if request.node.get_closest_marker("slow") is None:
        home: Path = request.getfixturevalue("tmp_path_factory").mktemp("home")
        monkeypatch.setenv("TUNESMITH_HOME", str(home))


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast test that opens a connection to another machine fails."""
    if request.node.get_closest_marker("slow") is not None:
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a fast test tried to connect to {address}; mark it slow, or stay on this machine")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """What a test does to torch's threads, dtype or determinism does not reach the next test."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
