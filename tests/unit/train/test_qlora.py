"""QLoRA: what 4 bits keep of the weights, that products are those of the kept weights, and that it trains."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from tunesmith.config import Qlora
from tunesmith.errors import MissingExtraError, ModelError
from tunesmith.model import quantise
from tunesmith.model.load import measure_parity, peft_quiet
from tunesmith.model.quantise import BYTES_PER_WEIGHT, count_parameters, frozen_weight, quantise_4bit, weight_bytes
from tunesmith.train.methods import METHODS

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra qlora)"
)
CPU = torch.device("cpu")
IDS = torch.tensor([[7, 8, 9, 30, 31, 32, 33, 34]])
NF4 = torch.tensor(  # Dettmers et al. 2023, appendix E
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip


def load(path: Path, four_bit: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", attn_implementation="sdpa")
    if four_bit:
        quantise_4bit(model, dtype, CPU)
    return model.requires_grad_(False).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@needs_bitsandbytes
def test_each_weight_is_the_nearest_of_sixteen_levels_in_its_block(tiny_model_path: Path) -> None:
    exact = load(tiny_model_path, four_bit=False).model.layers[1].mlp.up_proj.weight.reshape(-1, 64)
    found = frozen_weight(load(tiny_model_path).model.layers[1].mlp.up_proj).reshape(-1, 64)
    scale = exact.abs().amax(1, keepdim=True)
    nearest = NF4[(exact / scale)[..., None].sub(NF4).abs().argmin(-1)] * scale
    # the scales themselves are kept in 8 bits
    assert (found - nearest).abs().max() < 0.01 * scale.max()
    assert (found - exact).abs().mean() < 0.12 * exact.abs().mean()


@needs_bitsandbytes
def test_head_embeddings_and_norms_stay_as_they_are(tiny_model_path: Path) -> None:
    exact, model = load(tiny_model_path, four_bit=False), load(tiny_model_path)
    stay = dict(exact.named_parameters())
    changed = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert changed == {name for name, p in stay.items() if "_proj" in name and p.shape[1] % 64 == 0}
    assert "model.layers.0.mlp.down_proj.weight" not in changed, "its rows of 96 are no whole blocks"
    for name, parameter in model.named_parameters():
        if name not in changed:
            assert torch.equal(parameter, stay[name]), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert measure_parity(model)


@needs_bitsandbytes
def test_products_are_those_of_the_kept_weights(tiny_model_path: Path) -> None:
    layer = load(tiny_model_path).model.layers[0].mlp.gate_proj
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    y = x.detach().clone().requires_grad_(True)
    found, expected = layer(x), linear(y, frozen_weight(layer))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)


@needs_bitsandbytes
def test_predicting_leaves_the_weights_as_trained(tiny_model_path: Path) -> None:
    model = load(tiny_model_path)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = logits(model)
    with torch.no_grad():
        training = model.train()(IDS).logits
    torch.testing.assert_close(training, first, atol=0, rtol=0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@needs_bitsandbytes
def test_sizes_are_counted_in_weights_and_in_bytes(tiny_model_path: Path) -> None:
    exact, model = load(tiny_model_path, four_bit=False), load(tiny_model_path)
    assert count_parameters(model) == count_parameters(exact) == sum(p.numel() for p in exact.parameters())
    assert weight_bytes(exact) == 4 * count_parameters(exact)
    sizes = [p.numel() for name, p in exact.named_parameters() if "_proj" in name and "down" not in name]
    linears = sum(sizes)
    tables = len(sizes) * 4 * (16 + 256 + 1)  # the levels of weights and scales, and the scales' mean
    expected = weight_bytes(exact) - 4 * linears + linears * BYTES_PER_WEIGHT + tables
    assert weight_bytes(model) == pytest.approx(expected, rel=1e-3)


@needs_bitsandbytes
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_starts_at_its_base_learns_and_loads_as_saved(
    tiny_model_path: Path, tmp_path: Path, dora: bool, dtype: torch.dtype
) -> None:
    base = logits(load(tiny_model_path, dtype=dtype))
    model = load(tiny_model_path, dtype=dtype)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    attached = METHODS["qlora"].attach(model, Qlora(rank=4, dora=dora))
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(model), base, atol=near, rtol=near)
    assert all("lora_" in name for name in attached.trainable)

    ids = torch.tensor([[7, 8, 9, 20 + i, 11, 60 + 3 * i] for i in range(8)])
    optimizer = torch.optim.Adam(attached.trainable.values(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = cross_entropy(model.train()(ids[:, :-1]).logits[:, -1].float(), ids[:, -1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    for name, parameter in model.named_parameters():
        if name not in attached.trainable:
            assert torch.equal(parameter, frozen[name.replace(".base_layer", "")]), name

    trained = logits(model)
    attached.save(tmp_path)
    with peft_quiet():
        onto_four_bits = quantise.import_peft().PeftModel.from_pretrained(load(tiny_model_path, dtype=dtype), tmp_path)
        onto_all = quantise.import_peft().PeftModel.from_pretrained(load(tiny_model_path, four_bit=False), tmp_path)
    torch.testing.assert_close(logits(onto_four_bits), trained, atol=near, rtol=10 * near)
    apart = (logits(onto_all) - trained).abs().mean()
    assert 0 < apart < 0.5 * trained.float().std()
    merged = onto_all.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(onto_all), atol=1e-4, rtol=1e-4)


@needs_bitsandbytes
def test_the_part_below_a_head_takes_adapters_too(tiny_model_path: Path) -> None:
    attached = METHODS["qlora"].attach(load(tiny_model_path).base_model, Qlora(rank=4))
    attached.model(IDS).last_hidden_state.sum().backward()
    assert {name for name, p in attached.trainable.items() if p.grad is None} == set()


@needs_bitsandbytes
def test_parts_that_are_to_be_trained_stay_as_they_are(tiny_model_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype="auto")
    quantise_4bit(model, torch.float32, CPU, keep=("mlp",))
    assert {name.split(".")[3] for name, p in model.named_parameters() if p.dtype == torch.uint8} == {"self_attn"}


@needs_bitsandbytes
def test_layers_that_must_stay_exact_do() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4)
    model = T5ForConditionalGeneration(config).eval()
    quantise_4bit(model, torch.float32, CPU)
    kinds = {name.rsplit(".", 2)[-2]: p.dtype for name, p in model.named_parameters() if name.count(".") > 3}
    assert kinds["wo"] == torch.float32
    assert kinds["wi"] == kinds["q"] == torch.uint8
    with torch.no_grad():
        found = model(input_ids=IDS, decoder_input_ids=IDS).logits
    assert torch.isfinite(found).all()


@needs_bitsandbytes
def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match=r"gpt2.*method: lora"):
        quantise_4bit(model, torch.float32, CPU)


def test_without_the_package_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[qlora\]'"):
        quantise.require_bitsandbytes()


def test_no_kernel_is_fetched_while_it_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with quantise._no_kernels(), pytest.raises(ImportError):
        importlib.import_module("kernels")
    assert importlib.import_module("kernels") is sys.modules["kernels"]
    with quantise._no_kernels(), pytest.raises(ImportError):
        importlib.import_module("kernels")
    assert sys.modules.pop("kernels") is not None
