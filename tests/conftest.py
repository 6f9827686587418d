"""Fixtures that every test shares: a tiny model, a seeded generator, and guards against the network."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model_path() -> Path:
    """Folder of a random two-layer Llama with a ChatML tokenizer of 384 tokens."""
    return TESTS / "assets" / "tiny_llama"


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
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
