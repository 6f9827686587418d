from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from tunesmith.train.optim import build_adamw, learning_rate_at


@pytest.mark.parametrize("schedule", ["cosine", "constant_decay", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_the_rate_rises_to_its_peak_and_is_never_zero(
    schedule: Literal["cosine", "constant_decay", "constant"], total: int
) -> None:
    rates = [learning_rate_at(step, total, 2.0, 0.1, schedule) for step in range(total)]
    assert all(0 < rate <= 2.0 for rate in rates)
    warmup = round(0.1 * total)
    assert rates[:warmup] == pytest.approx([2.0 * (i + 1) / warmup for i in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(2.0)


def test_the_shapes() -> None:
    cosine = [learning_rate_at(step, 100, 1.0, 0.0, "cosine") for step in range(100)]
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    constant = [learning_rate_at(step, 100, 1.0, 0.0, "constant_decay") for step in range(100)]
    assert constant[:81] == [1.0] * 81
    assert constant[90] == pytest.approx(0.5)
    assert constant[99] == pytest.approx(0.05)


def test_decay_moves_matrices_only() -> None:
    weights = {"matrix": torch.nn.Parameter(torch.ones(2, 2)), "norm": torch.nn.Parameter(torch.ones(2))}
    optimizer = build_adamw(weights, 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for parameter in weights.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(weights["matrix"], torch.full((2, 2), 1 - 0.5 * 0.1))
    assert torch.equal(weights["norm"], torch.ones(2))
