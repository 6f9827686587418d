"""Remedies: off = plain training; λ = 1 the trained model, λ = 0 the base; penalties = autograd; resumed = whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tunesmith.config import Full, Lora, Remedies
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.train.batches import Shuffled, steps_in
from tunesmith.train.events import read_metrics
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives.causal import Causal
from tunesmith.train.optim import learning_rate_at
from tunesmith.train.remedies import protect
from tunesmith.train.remedies.averaging import average_with_start
from tunesmith.train.remedies.ewc import ewc, fisher
from tunesmith.train.remedies.kl import kl, mean_kl, summed_divergence, view_of_base
from tunesmith.train.remedies.l2_sp import l2_sp
from tunesmith.train.remedies.scale import choose_scale
from tunesmith.train.remedies.update import adapted_layers, copied, low_rank, scaler

SETTINGS = LoopSettings(epochs=2, learning_rate=3e-3, global_batch_size=4, patience=0, evals_per_epoch=1)
OBJECTIVE = Causal(micro_batch_tokens=40)
METHOD = {"lora": Lora(rank=4, alpha=6.0), "rslora": Lora(rank=3, rank_stabilised=True), "full": Full(),
          "pissa": Lora(rank=4, init="pissa")}  # fmt: skip


def examples(n: int, seed: int = 0) -> list[Rendered]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        ids = [7, 8, 9, *torch.randint(5, 300, (5 + i % 6,), generator=generator).tolist()]
        trained = 1 + i % 4
        made.append(Rendered(ids, [IGNORE_INDEX] * (len(ids) - trained) + ids[-trained:], len(ids) - trained, str(i)))
    return made


DATA, TEXTS = examples(10), {"replayed": [], "held": examples(5, 3), "compared": examples(3, 4)}


def load(path: Path, method: str = "lora", dropout: float = 0.0) -> tuple[Attached, Any]:
    """A model made ready to train, and what a remedy looks at of a loaded one."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.requires_grad_(False)
    model.set_attn_implementation("tunesmith")
    torch.manual_seed(1)
    settings = METHOD[method]
    attached = METHODS[settings.kind].attach(model, settings.model_copy(update={"dropout": dropout}))
    return attached, SimpleNamespace(model=attached.model, packed=True)


def moved(path: Path, method: str, by: float = 0.03) -> tuple[Attached, Any, Any]:
    """The same with an update that is not zero, and its start."""
    attached, lm = load(path, method)
    start = copied(attached) if method == "full" else None
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return attached, lm, start


def fit(path: Path, folder: Path, method: str, remedies: Remedies, **more: Any) -> tuple[Attached, Any]:
    attached, lm = load(path, method, more.pop("dropout", 0.0))
    protection = protect(remedies, lm, attached, OBJECTIVE, TEXTS, 0)
    train(
        attached.model, attached.trainable, OBJECTIVE, DATA, DATA[:4], SETTINGS, folder,
        penalty=protection.penalty, after_step=protection.after_step, **more,
    )  # fmt: skip
    return attached, protection


def logits(model: Any) -> torch.Tensor:
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(torch.tensor([e.input_ids])).logits[0] for e in DATA])
    model.set_attn_implementation(before)
    return found


def same(a: Attached, b: Attached) -> bool:
    return all(torch.equal(p, b.trainable[name]) for name, p in a.trainable.items())


# ── off ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", ["lora", "full"])
def test_weight_zero_is_plain_training_bit_for_bit(tiny_model_path: Path, tmp_path: Path, method: str) -> None:
    plain, _ = fit(tiny_model_path, tmp_path / "plain", method, Remedies())
    zero, lm = load(tiny_model_path, method)
    start = copied(zero) if method == "full" else None
    view = view_of_base(lm, zero, TEXTS["held"])
    information = fisher(zero, OBJECTIVE, TEXTS["held"])

    def penalty(step: int) -> Iterator[torch.Tensor]:
        yield from kl(zero.model, view, 0.0, 0, step)
        yield from l2_sp(zero, start, 0.0)
        yield from ewc(zero, start, information, 0.0)

    train(zero.model, zero.trainable, OBJECTIVE, DATA, DATA[:4], SETTINGS, tmp_path / "zero", penalty=penalty)
    assert same(plain, zero)
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("plain", "zero")]
    assert [line["grad_norm"] for line in lines[0]] == [line["grad_norm"] for line in lines[1]]
    assert all("penalty" not in line for line in lines[0]) and all(line["penalty"] == 0 for line in lines[1])


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("remedy", [{"kl": 2.0}, {"l2_sp": 0.5}, {"ewc": 5.0}, {"averaging": 0.4}])
def test_each_remedy_stays_nearer_to_the_base(
    tiny_model_path: Path, tmp_path: Path, method: str, remedy: dict[str, float]
) -> None:
    divergences = []
    for name, settings in (("plain", Remedies()), ("remedy", Remedies(**remedy))):
        attached, _ = fit(tiny_model_path, tmp_path / name, method, settings)
        base, lm = load(tiny_model_path, method)
        view = view_of_base(lm, base, TEXTS["held"])
        divergences.append(mean_kl(attached.model, view))
    assert 0 < divergences[1] < divergences[0]


# ── scale ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", ["lora", "rslora", "pissa", "full"])
def test_scale_one_is_the_trained_model_and_zero_the_base_bit_for_bit(tiny_model_path: Path, method: str) -> None:
    base = logits(AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa"))
    attached, _, start = moved(tiny_model_path, method)
    trained, weights = logits(attached.model), copied(attached)
    put = scaler(attached, start)
    put(0.0)
    assert torch.equal(logits(attached.model), base)
    put(0.3)
    assert not torch.equal(logits(attached.model), trained)
    put(1.0)
    assert torch.equal(logits(attached.model), trained)
    assert all(torch.equal(p, weights[name]) for name, p in attached.trainable.items())


@pytest.mark.parametrize("method", ["lora", "rslora", "pissa", "full"])
def test_what_is_saved_is_the_scaled_update(tiny_model_path: Path, tmp_path: Path, method: str) -> None:
    attached, _, start = moved(tiny_model_path, method)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa")
    unscaled = saved(attached, tmp_path / "whole", tiny_model_path)
    scaler(attached, start)(0.7)
    shown = logits(attached.model)
    loaded = saved(attached, tmp_path / "scaled", tiny_model_path)
    torch.testing.assert_close(logits(loaded), shown, atol=1e-5, rtol=1e-4)
    name = "model.layers.1.mlp.up_proj.weight"
    w0, whole, scaled = (dict(m.named_parameters())[name].detach() for m in (base, unscaled, loaded))
    torch.testing.assert_close(scaled - w0, 0.7 * (whole - w0), atol=1e-6, rtol=1e-4)
    assert (whole - w0).abs().max() > 1e-3


def saved(attached: Attached, folder: Path, base: Path) -> Any:
    """What others load of a saved result: a plain model, the adapter merged."""
    attached.save(folder)
    if attached.artifact == "model":
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def test_a_scale_is_chosen_by_loss_and_divergence_at_the_exchange_rate() -> None:
    now = [0.0]
    found = {0.0: (2.0, 0.0), 0.5: (1.2, 0.3), 1.0: (1.0, 0.9)}

    def choose(exchange: float) -> float:
        chosen, tried = choose_scale(
            lambda factor: now.__setitem__(0, factor), list(found)[::-1], lambda: found[now[0]][0],
            lambda: found[now[0]][1], exchange,
        )  # fmt: skip
        assert now[0] == chosen
        assert [(row["validation_loss"], row["kl_to_base"]) for row in tried] == list(found.values())
        return chosen

    assert [choose(exchange) for exchange in (0.1, 1.0, 10.0)] == [1.0, 0.5, 0.0]
    found[1.0] = found[0.5]
    assert choose(1.0) == 0.5  # of equals the smaller one


# ── penalties against autograd ───────────────────────────────────────────────────────────────────────────
def dense_update(attached: Attached, start: Any) -> dict[str, torch.Tensor]:
    if start is not None:
        return {name: p - start[name] for name, p in attached.trainable.items()}
    return {name: s * b @ a for name, (a, b, s) in ((n, low_rank(x)) for n, x in adapted_layers(attached).items())}


def gradients(attached: Attached, losses: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    with contextlib.suppress(StopIteration):
        for loss in losses:
            loss.backward()
    found = {name: p.grad.clone() for name, p in attached.trainable.items() if p.grad is not None}
    for p in attached.trainable.values():
        p.grad = None
    return found


@pytest.mark.parametrize("method", ["lora", "rslora", "full"])
def test_l2_sp_and_ewc_have_the_gradient_of_their_formula(tiny_model_path: Path, method: str) -> None:
    attached, _, start = moved(tiny_model_path, method)
    ours = gradients(attached, l2_sp(attached, start, 0.4))
    plain = gradients(attached, iter([sum(0.2 * d.square().sum() for d in dense_update(attached, start).values())]))
    assert ours.keys() == plain.keys() == attached.trainable.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-4, atol=1e-6)
    generator = torch.Generator().manual_seed(2)
    weights = {n: torch.rand(d.shape, generator=generator) for n, d in dense_update(attached, start).items()}
    ours = gradients(attached, ewc(attached, start, weights, 0.4))
    update = dense_update(attached, start)
    plain = gradients(attached, iter([sum(0.2 * (weights[n] * d**2).sum() for n, d in update.items())]))
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-4, atol=1e-6)


def test_divergence_is_torchs_and_its_gradient_the_difference_of_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    base, model = (torch.randn(7, 30, generator=generator) for _ in range(2))
    model.requires_grad_(True)
    found = summed_divergence(base, model)
    expected = torch.nn.functional.kl_div(model.log_softmax(1), base.softmax(1), reduction="sum")
    torch.testing.assert_close(found, expected)
    found.backward()
    torch.testing.assert_close(model.grad, model.detach().softmax(1) - base.softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_kl_is_that_of_two_plain_models(tiny_model_path: Path, method: str) -> None:
    before, lm = load(tiny_model_path, method)
    view = view_of_base(lm, before, TEXTS["held"])
    attached, _, _ = moved(tiny_model_path, method)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa").eval()
    attached.model.set_attn_implementation("sdpa")
    each = []
    for text in TEXTS["held"]:
        ids, rows = torch.tensor([text.input_ids]), [t - 1 for t in range(1, len(text.labels)) if text.labels[t] >= 0]
        with torch.no_grad():
            a, b = (m(ids).logits[0, rows] for m in (base, attached.model))
        each.append(summed_divergence(a, b))
    attached.model.set_attn_implementation("tunesmith")
    units = [text.units for text in TEXTS["held"]]
    assert mean_kl(attached.model, view) == pytest.approx(float(sum(each)) / sum(units), rel=1e-4)
    chosen = Shuffled(5).step(2, 9, 1)
    parts = [part.item() for part in kl(attached.model, view, 3.0, 9, 1)]
    expected = [3.0 * float(each[i]) / sum(units[j] for j in chosen) for i in chosen]
    assert parts == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fisher_information_is_the_mean_squared_gradient_of_the_base(tiny_model_path: Path, method: str) -> None:
    attached, _ = load(tiny_model_path, method)
    trainable = {name: p.requires_grad for name, p in attached.model.named_parameters()}
    found = fisher(attached, OBJECTIVE, TEXTS["held"])
    assert {name: p.requires_grad for name, p in attached.model.named_parameters()} == trainable
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa").eval()
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for text in TEXTS["held"]:
        model.zero_grad()
        labels = torch.tensor([text.labels])
        (model(torch.tensor([text.input_ids]), labels=labels).loss * text.units).backward()
        for name, p in model.named_parameters():
            expected[name] += p.grad.square() / sum(t.units for t in TEXTS["held"])
    assert found
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name.removesuffix(".weight") + ".weight"], rtol=2e-3, atol=1e-8)


# ── averaging ────────────────────────────────────────────────────────────────────────────────────────────
def test_averaging_an_adapter_scales_its_update(tiny_model_path: Path) -> None:
    attached, _, start = moved(tiny_model_path, "lora")
    before = {name: d.clone() for name, d in dense_update(attached, start).items()}
    average_with_start(attached, start, 0.25)
    for name, d in dense_update(attached, start).items():
        torch.testing.assert_close(d, 0.75 * before[name])


def test_averaging_equals_a_plain_loop(tiny_model_path: Path, tmp_path: Path) -> None:
    fit(tiny_model_path, tmp_path, "full", Remedies(averaging=0.4))
    plain, _ = load(tiny_model_path, "full")
    start = copied(plain)
    optimizer = torch.optim.AdamW(plain.trainable.values(), lr=0.0, weight_decay=0.0)
    total = steps_in(len(DATA), 2, 4)
    for step in range(total):
        batch = [DATA[i] for i in Shuffled(len(DATA)).step(4, 0, step)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, total, 3e-3, 0.05, "cosine")
        optimizer.zero_grad()
        for loss in OBJECTIVE.losses(plain.model, batch, 1.0 / sum(e.units for e in batch)):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.trainable.values(), 1.0)
        optimizer.step()
        if step in (2, 5):  # three steps an epoch, one validation
            with torch.no_grad():
                for name, p in plain.trainable.items():
                    p.copy_(0.6 * p + 0.4 * start[name])
    last = load_file(tmp_path / "checkpoints" / f"step-{total:06d}" / "trainable.safetensors")
    for name, p in plain.trainable.items():
        torch.testing.assert_close(last[name], p.detach(), rtol=1e-4, atol=1e-5)


# ── resumed ──────────────────────────────────────────────────────────────────────────────────────────────
class Stop(Exception):
    pass


def stopping(at: int) -> Callable[[dict[str, Any]], None]:
    def listener(event: dict[str, Any]) -> None:
        if event["step"] == at:
            raise Stop

    return listener


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("remedy", ["kl", "l2_sp", "ewc", "averaging", "all"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model_path: Path, tmp_path: Path, method: str, remedy: str
) -> None:
    settings = Remedies(**{n: 0.5 for n in ("kl", "l2_sp", "ewc", "averaging") if remedy in (n, "all")})
    dropout = 0.2 if method == "lora" else 0.0
    whole, _ = fit(tiny_model_path, tmp_path / "whole", method, settings, dropout=dropout)
    with pytest.raises(Stop):
        fit(tiny_model_path, tmp_path / "cut", method, settings, listener=stopping(5), dropout=dropout)
    torch.manual_seed(99)
    again, protection = fit(tiny_model_path, tmp_path / "cut", method, settings, dropout=dropout)
    assert same(again, whole)
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut")]
    for key in ("loss", "validation_loss", "grad_norm", *(["penalty"] if protection.penalty else [])):
        assert [line[key] for line in lines[0]] == [line[key] for line in lines[1]]
