"""Packed = padded = alone, shared prefix = repeated prefix, for every family that uses the attention interface."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.forward import hidden_states, summed_loss, token_losses
from tunesmith.model.load import measure_parity

SMALL: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "mistral": MistralConfig(**SMALL, sliding_window=12),
    "gemma3": Gemma3TextConfig(
        **SMALL, sliding_window=12, layer_types=["sliding_attention", "sliding_attention", "full_attention"]
    ),
    "gpt2": GPT2Config(
        vocab_size=97, n_positions=128, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    ),
}  # fmt: skip
PREFIX = [5, 6, 7, 8, 9]
TAILS = [[10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [31], [10, 11, 40, 41]]


def build(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name], attn_implementation="sdpa", dtype=torch.float32)
    return model.eval()


def alone(model: Any, tail: list[int]) -> torch.Tensor:
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([[*PREFIX, *tail]])
    return model.get_decoder()(ids, use_cache=False).last_hidden_state[0, len(PREFIX) :]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_the_parity_check_past_its_window(name: str) -> None:
    assert measure_parity(build(name))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_each_example_is_computed_as_if_it_stood_alone(name: str, share: bool, packed: bool) -> None:
    model = build(name)
    expected = torch.cat([alone(model, tail) for tail in TAILS])
    prefix = PREFIX if share else []
    tails = TAILS if share else [[*PREFIX, *tail] for tail in TAILS]
    pack = build_pack(prefix, [[Segment(tail)] for tail in tails])
    model.set_attn_implementation("tunesmith" if packed else "sdpa")
    hidden = hidden_states(model, pack, packed)
    rows = [
        start[0] + i + (0 if share else len(PREFIX))
        for start, tail in zip(pack.starts, TAILS, strict=True)
        for i in range(len(tail))
    ]
    torch.testing.assert_close(hidden[rows], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_gradients_through_a_shared_prefix_equal_those_of_a_repeated_one(name: str) -> None:
    gradients = []
    for share in (True, False):
        model = build(name)
        model.set_attn_implementation("tunesmith")
        tails = TAILS if share else [[*PREFIX, *tail] for tail in TAILS]
        pack = build_pack(PREFIX if share else [], [[Segment(tail)] for tail in tails])
        rows = torch.tensor([start[0] + len(tail) - 1 for start, tail in zip(pack.starts, tails, strict=True)])
        targets = torch.tensor([3, 4, 5, 6])
        loss = summed_loss(model, hidden_states(model, pack)[rows], targets, torch.full((4,), 0.25))
        loss.backward()
        gradients.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-6, rtol=1e-6)
    for key, gradient in gradients[0][1].items():
        torch.testing.assert_close(gradient, gradients[1][1][key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_a_tree_of_segments_equals_each_path_alone(packed: bool) -> None:
    model = build("gemma3")
    tree = [Segment([10, 11, 12]), Segment([13, 14], parent=0), Segment([15], parent=1), Segment([16, 17], parent=0)]
    paths = [[10, 11, 12], [10, 11, 12, 13, 14], [10, 11, 12, 13, 14, 15], [10, 11, 12, 16, 17]]
    expected = [alone(model, path)[-len(s.tokens) :] for s, path in zip(tree, paths, strict=True)]
    pack = build_pack(PREFIX, [[Segment([9, 9])], tree])
    model.set_attn_implementation("tunesmith" if packed else "sdpa")
    hidden = hidden_states(model, pack, packed)
    for start, segment, wanted in zip(pack.starts[1], tree, expected, strict=True):
        torch.testing.assert_close(hidden[start : start + len(segment.tokens)], wanted, atol=1e-5, rtol=1e-5)


def test_a_family_with_soft_capped_scores_falls_back_to_padding() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**SMALL, sliding_window=12)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    assert not measure_parity(model)
    assert model.config._attn_implementation == "eager"


def test_chunked_loss_equals_cross_entropy_with_head_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.model.forward.LOSS_CHUNK", 3)
    model = build("llama")
    hidden = torch.randn(8, 32, requires_grad=True)
    targets = torch.randint(0, 97, (8,))
    weights = torch.rand(8)
    ours = summed_loss(model, hidden, targets, weights) * 2.0
    ours.backward()
    found = (hidden.grad.clone(), model.lm_head.weight.grad.clone())
    hidden.grad = model.lm_head.weight.grad = None
    plain = torch.nn.functional.cross_entropy(model.lm_head(hidden), targets, reduction="none")
    ((plain * weights).sum() * 2.0).backward()
    torch.testing.assert_close(ours, (plain * weights).sum() * 2.0)
    torch.testing.assert_close(found[0], hidden.grad)
    torch.testing.assert_close(found[1], model.lm_head.weight.grad)
    torch.testing.assert_close(token_losses(model, hidden, targets), plain.detach())
