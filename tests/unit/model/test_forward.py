"""Products with frozen weights are the plain ones, whichever library computes them."""

from __future__ import annotations

import pytest
import torch

from tunesmith.model import forward


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_frozen_linear(onednn: bool, transposed: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch was built without oneDNN")
    monkeypatch.setattr(forward, "_prefers_onednn", lambda: onednn)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 24, generator=generator)
    weight = torch.randn(24, 40, generator=generator).T if transposed else torch.randn(40, 24, generator=generator)
    b = torch.randn(40, generator=generator) if bias else None
    expected = (x.double() @ weight.double().T + (0 if b is None else b.double())).float()
    torch.testing.assert_close(forward.frozen_linear(x, weight, b), expected)


@pytest.mark.parametrize(
    ("name", "onednn"), [("Intel(R) Xeon(R) Processor", False), ("AMD EPYC 9B14 96-Core Processor", True)]
)
def test_library_by_processor(name: str, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "cpu_name", lambda: name)
    chosen = forward._prefers_onednn.__wrapped__()
    assert chosen == (onednn and torch.backends.mkldnn.is_available())
