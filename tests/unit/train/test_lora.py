"""LoRA and its variants: they start at the base, compute what peft computes, and save as plain adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tunesmith.candidates.tuned import continue_adapter
from tunesmith.config import Lora, parse_config
from tunesmith.errors import ConfigError
from tunesmith.model.head import HeadModel, load_head_weights
from tunesmith.model.load import load_model, peft_quiet
from tunesmith.model.save import save_model
from tunesmith.train.methods import METHODS, Attached

VARIANTS = {
    "plain": Lora(rank=4),
    "dora": Lora(rank=4, dora=True),
    "rank-stabilised": Lora(rank=4, rank_stabilised=True),
    "pissa": Lora(rank=4, init="pissa"),
    "pissa, rank-stabilised": Lora(rank=4, alpha=12, init="pissa", rank_stabilised=True),
}
IDS = torch.tensor([[7, 8, 9, 30, 31, 32, 33, 34]])
EACH = pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))


def load(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    return model.requires_grad_(False).eval()


def attach(model: Any, settings: Lora) -> Attached:
    torch.manual_seed(0)
    return METHODS["lora"].attach(model, settings)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def learn(attached: Attached, steps: int = 40) -> list[float]:
    """Losses while eight inputs' answers are learned by a plain loop; the last step's update is not measured."""
    ids = torch.tensor([[7, 8, 9, 20 + i, 11, 60 + 3 * i] for i in range(8)])
    optimizer = torch.optim.Adam(attached.trainable.values(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(attached.model(ids[:, :-1]).logits[:, -1], ids[:, -1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@EACH
def test_attached_it_is_the_base_still(tiny_model_path: Path, settings: Lora) -> None:
    expected = logits(load(tiny_model_path))
    attached = attach(load(tiny_model_path), settings)
    torch.testing.assert_close(logits(attached.model), expected, atol=1e-5, rtol=1e-5)


@EACH
def test_it_learns_changes_nothing_else_and_loads_as_saved(
    tiny_model_path: Path, tmp_path: Path, settings: Lora
) -> None:
    lm = load_model(str(tiny_model_path))
    lm.model.set_attn_implementation("sdpa")
    base = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    attached = attach(lm.model, settings)
    before = {name: p.detach().clone() for name, p in attached.trainable.items()}
    losses = learn(attached)
    assert losses[-1] < 0.15 * losses[0]
    assert all(not torch.equal(before[name], p) for name, p in attached.trainable.items())
    for name, parameter in attached.model.named_parameters():
        if name not in attached.trainable:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name

    trained = logits(attached.model)
    save_model(tmp_path / "adapter", attached.save, lm, str(tiny_model_path), {"method": settings.model_dump()})
    loaded = load_model(str(tmp_path / "adapter"))
    loaded.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits(loaded.model), trained, atol=1e-5, rtol=1e-4)


CONTINUED = {name: settings for name, settings in VARIANTS.items() if settings.init == "default"} | {
    "dora, rank-stabilised": Lora(rank=4, alpha=12, dora=True, rank_stabilised=True),
}


@pytest.mark.parametrize("settings", CONTINUED.values(), ids=list(CONTINUED))
def test_what_is_continued_starts_where_it_ended(tiny_model_path: Path, tmp_path: Path, settings: Lora) -> None:
    attached = attach(load(tiny_model_path), settings)
    before = logits(attached.model)
    learn(attached)
    attached.save(tmp_path)
    ended = logits(attached.model)
    assert (ended - before).abs().max() > 0.1
    torch.manual_seed(7)
    following = METHODS["lora"].attach(load(tiny_model_path), settings)
    continue_adapter(following, tmp_path)
    torch.testing.assert_close(logits(following.model), ended, atol=1e-5, rtol=0)
    for name, parameter in following.trainable.items():
        assert torch.equal(parameter, attached.trainable[name]), name
    learn(following, 1)
    assert (logits(following.model) - ended).abs().max() > 1e-4  # it goes on from there


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_our_arithmetic_is_pefts(tiny_model_path: Path, rank_stabilised: bool) -> None:
    ours = attach(load(tiny_model_path), Lora(rank=4, alpha=3, rank_stabilised=rank_stabilised))
    config = LoraConfig(r=4, lora_alpha=3, use_rslora=rank_stabilised, target_modules="all-linear")
    with peft_quiet():
        theirs = get_peft_model(load(tiny_model_path), config).get_base_model()
    expected = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert set(expected) == set(ours.trainable)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            ours.trainable[name].copy_(parameter)
    for model in (ours.model, theirs):
        cross_entropy(model(IDS).logits[0, :-1], IDS[0, 1:]).backward()
    torch.testing.assert_close(logits(ours.model), logits(theirs), atol=1e-5, rtol=1e-5)
    for name, parameter in expected.items():
        torch.testing.assert_close(ours.trainable[name].grad, parameter.grad, atol=1e-7, rtol=1e-4, msg=name)


def test_scale_is_alpha_over_the_root_of_the_rank_when_stabilised(tiny_model_path: Path) -> None:
    model = attach(load(tiny_model_path), Lora(rank=16, alpha=8, rank_stabilised=True)).model
    assert model.model.layers[0].self_attn.q_proj.scaling["default"] == 2.0


def test_pissa_starts_at_the_largest_singular_directions(tiny_model_path: Path) -> None:
    base = load(tiny_model_path).model.layers[0].mlp.up_proj.weight
    model = attach(load(tiny_model_path), Lora(rank=4, init="pissa")).model
    layer = model.model.layers[0].mlp.up_proj
    found = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    u, s, v = torch.linalg.svd(base, full_matrices=False)
    torch.testing.assert_close(found, u[:, :4] * s[:4] @ v[:4], atol=1e-3 * float(s[0]), rtol=0)
    # both factors carry half of it
    torch.testing.assert_close(
        layer.lora_A["default"].weight.norm(dim=1), layer.lora_B["default"].weight.norm(dim=0), atol=1e-5, rtol=1e-4
    )


def test_pissa_with_its_adapter_off_is_the_base(tiny_model_path: Path) -> None:
    expected = logits(load(tiny_model_path))
    attached = attach(load(tiny_model_path), VARIANTS["pissa"])
    learn(attached, 3)
    for layer in attached.model.modules():
        if isinstance(layer, LoraLayer):
            layer.enable_adapters(False)
    assert torch.equal(logits(attached.model), expected)


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(tiny_model_path: Path, tmp_path: Path) -> None:
    attach(load(tiny_model_path), VARIANTS["pissa, rank-stabilised"]).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 12 / 4**0.5 * 8, False)
    assert config["init_lora_weights"] is True


def test_pissa_needs_linear_layers() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    with pytest.warns(UserWarning, match="fan_in_fan_out"), pytest.raises(ConfigError, match=r"pissa.*Conv1D"):
        attach(model, Lora(rank=4, init="pissa", target_modules=("c_attn",)))


def test_settings_that_exclude_each_other_are_told_together() -> None:
    raw = {"task": "classification", "data": {"train": "x"}}
    with pytest.raises(ConfigError, match=r"dora.*dropout"):
        parse_config(raw | {"method": {"kind": "lora", "init": "pissa", "dora": True, "dropout": 0.1}})


def test_unknown_layers_are_named(tiny_model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.target_modules.*query"):
        attach(load(tiny_model_path), Lora(target_modules=("query",)))


@EACH
def test_a_base_in_sixteen_bits_trains(tiny_model_path: Path, settings: Lora) -> None:
    attached = attach(load(tiny_model_path, torch.bfloat16), settings)
    losses = learn(attached, 20)
    assert losses[-1] < 0.5 * losses[0]
    assert {p.dtype for p in attached.trainable.values()} == {torch.float32}


def test_a_head_of_its_own_trains_and_is_saved_beside_the_adapters(tiny_model_path: Path, tmp_path: Path) -> None:
    def build() -> HeadModel:
        torch.manual_seed(0)
        return HeadModel(load(tiny_model_path).model, 64, 3, "last").requires_grad_(False).eval()

    attached = attach(build(), Lora(rank=4))
    heads = {name for name in attached.trainable if not name.startswith("backbone.")}
    assert heads == {"head.weight", "head.bias"}
    assert all("lora_" in name for name in set(attached.trainable) - heads)
    inputs = [[7, 8, 9, 20 + i, 2] for i in range(6)]
    optimizer = torch.optim.Adam(attached.trainable.values(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(attached.model(inputs), torch.arange(6) % 3)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    attached.save(tmp_path)
    with torch.no_grad():
        trained = attached.model(inputs)
        loaded = build()
        with peft_quiet():
            loaded.backbone = PeftModel.from_pretrained(loaded.backbone, tmp_path).get_base_model()
        load_head_weights(loaded, tmp_path)
        torch.testing.assert_close(loaded.eval()(inputs), trained, atol=1e-5, rtol=1e-4)
