from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tunesmith.config import Forgetting, Lora
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.errors import EvaluationError
from tunesmith.evaluate import forgetting, suites
from tunesmith.evaluate.forgetting import AnswerLogs
from tunesmith.evaluate.suites import Item, Suite
from tunesmith.model.load import load_model
from tunesmith.train.methods import METHODS

KL: dict[str, float | int] = {"value": 0.1, "low": 0.0, "high": 0.2, "n": 3, "p95": 0.3}
UNCHANGED = [0.0] * 100


def suite(name: str, kind: Any, n: int, options: int = 2) -> Suite:
    return Suite(name, kind, tuple(Item(f"{i}", ("x",) * options, 0) for i in range(n)))


def judged(kind: Any, base: Any, tuned: Any, rng: np.random.Generator, options: int = 2) -> dict[str, Any]:
    n = len(next(iter(base.values())))
    return forgetting.forgetting({"s": suite("s", kind, n, options)}, {"s": base}, {"s": tuned}, KL, rng)


@pytest.mark.parametrize(
    ("right", "verdict"), [(70, "none"), (20, "severe"), (64, "mild"), (95, "none")],
)  # fmt: skip
def test_verdicts_by_accuracy(right: int, verdict: str, rng: np.random.Generator) -> None:
    base, tuned = ([1.0] * n + [0.0] * (100 - n) for n in (70, right))
    found = judged("multiple_choice", {"accuracy": base, "nll": UNCHANGED}, {"accuracy": tuned, "nll": UNCHANGED}, rng)
    assert (found["verdict"], found["status"], found["kl_to_base"]) == (verdict, "ok", KL)
    part = found["suites"]["s"]
    assert part["difference"] == pytest.approx(np.mean(tuned) - np.mean(base))
    assert (part["n"], part["chance"], part["above_chance"]) == (100, 0.5, True)


@pytest.mark.parametrize(
    ("kind", "change", "verdict"),
    [
        ("text", 0.5, "severe"), ("text", 0.2, "mild"), ("text", -1.0, "none"),
        ("answers", 0.5, "mild"), ("answers", -0.5, "none"),
    ],
)  # fmt: skip
def test_verdicts_by_likelihood(kind: str, change: float, verdict: str, rng: np.random.Generator) -> None:
    base = [3.0, 3.1, 2.9] * 30
    found = judged(kind, {"nll": base}, {"nll": [x + change + 0.01 * (i % 2) for i, x in enumerate(base)]}, rng)
    assert found["verdict"] == verdict
    assert "nats per token" in found["suites"]["s"]["unit"]


def test_accuracy_that_is_not_above_chance_says_nothing_and_likelihood_stands_in(rng: np.random.Generator) -> None:
    guessing, wrong = [1.0, 0.0] * 50, [0.0] * 100
    found = judged(
        "multiple_choice", {"accuracy": guessing, "nll": UNCHANGED}, {"accuracy": wrong, "nll": UNCHANGED}, rng
    )
    assert found["verdict"] == "none"
    assert found["suites"]["s"]["above_chance"] is False
    harder = {"accuracy": wrong, "nll": [9.0] * 100}
    assert judged("multiple_choice", {"accuracy": guessing, "nll": UNCHANGED}, harder, rng)["verdict"] == "mild"
    four = judged("multiple_choice", {"accuracy": guessing, "nll": UNCHANGED}, harder, rng, options=4)
    assert four["suites"]["s"]["above_chance"] is True
    assert four["verdict"] == "severe"


def test_pieces_of_one_document_are_no_independent_evidence(rng: np.random.Generator) -> None:
    base = [3.0] * 80
    tuned = [3.0 + 0.2 * ((i // 20) % 2) for i in range(80)]
    found = [
        forgetting.forgetting(
            {"s": Suite("s", "text", tuple(Item("", (f"{i}",), 0, f"{i // 20}" if own else "") for i in range(80)))},
            {"s": {"nll": base}}, {"s": {"nll": tuned}}, KL, rng,
        )["suites"]["s"]
        for own in (False, True)
    ]  # fmt: skip
    widths = [part["high"] - part["low"] for part in found]
    assert widths[1] > 2 * widths[0]
    assert found[1]["low"] <= 0  # two of four documents changed


def test_the_worst_decides_and_what_was_not_run_is_never_passed(rng: np.random.Generator) -> None:
    good, bad = {"nll": [3.0, 3.1] * 50}, {"nll": [4.0, 4.1] * 50}
    both = {name: suite(name, "text", 100) for name in "ab"}
    assert forgetting.forgetting(both, {"a": good, "b": good}, {"a": good, "b": bad}, KL, rng)["verdict"] == "severe"
    part = forgetting.forgetting(both, {"a": good, "b": "not here"}, {"a": good, "b": "not here"}, KL, rng)
    assert (part["verdict"], part["status"], part["reason"]) == ("unknown", "not_run", "not here")
    assert part["suites"]["b"] == {"status": "not_run", "reason": "not here"}
    late = forgetting.forgetting(both, {"a": good, "b": good}, {"a": good, "b": "failed now"}, KL, rng)
    assert (late["verdict"], late["reason"]) == ("unknown", "failed now")
    fine = forgetting.forgetting(both, {"a": good, "b": good}, {"a": good, "b": good}, KL, rng)
    assert forgetting.with_collapse(fine, {"refusal": {"worse": True}})["verdict"] == "mild"
    unasked = forgetting.with_collapse(part, {"status": "not_run", "reason": "no template"})
    assert (unasked["verdict"], unasked["reason"]) == ("unknown", "not here; general requests: no template")
    lost = forgetting.forgetting(both, {"a": good, "b": "not here"}, {"a": bad, "b": "not here"}, KL, rng)
    assert (lost["verdict"], lost["status"]) == ("severe", "ok")


def test_divergence_from_the_base(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    base, tuned = (AnswerLogs(torch.randn(50, 20).log_softmax(1), [i // 5 for i in range(50)]) for _ in range(2))
    found = forgetting.kl_to_base(base, tuned, rng)
    each = torch.nn.functional.kl_div(tuned.logs, base.logs, reduction="none", log_target=True).sum(1)
    assert found["value"] == pytest.approx(float(each.mean()), rel=1e-6)
    assert found["p95"] == pytest.approx(float(np.quantile(each.numpy(), 0.95)), rel=1e-5)
    assert found["low"] <= found["value"] <= found["high"]
    assert forgetting.kl_to_base(base, base, rng)["value"] == 0


def rendered(n: int) -> list[Rendered]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        ids = torch.randint(5, 300, (9 + i % 5,), generator=generator).tolist()
        made.append(Rendered(ids, [IGNORE_INDEX] * 5 + ids[5:], 5))
    return made


@pytest.mark.parametrize("pack_tokens", [1, 30, 1024])
def test_predictions_equal_a_plain_forward_pass_and_are_spread_over_all_answers(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, pack_tokens: int
) -> None:
    monkeypatch.setattr(forgetting, "PACK_TOKENS", pack_tokens)
    lm = load_model(str(tiny_model_path))
    items = rendered(10)
    logs, examples = forgetting.answer_log_probabilities(lm, items)
    lm.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        plain = [lm.model(torch.tensor([item.input_ids])).logits[0, 4:-1].log_softmax(1) for item in items]
    assert torch.allclose(logs, torch.cat(plain), atol=1e-5)
    assert examples == [i for i, part in enumerate(plain) for _ in part]
    lm.model.set_attn_implementation("tunesmith")
    monkeypatch.setattr(forgetting, "KL_POSITIONS", 20)
    few, spread = forgetting.answer_log_probabilities(lm, items)
    assert len(few) == 20
    assert set(spread) == set(range(10))


def test_the_base_kept_from_before_equals_the_model_with_its_adapter_disabled(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    before = forgetting.answer_log_probabilities(lm, rendered(6))
    torch.manual_seed(0)
    attached = METHODS["lora"].attach(lm.model, Lora(rank=4))
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.normal_(0, 0.1)
    tuned = forgetting.answer_log_probabilities(lm, rendered(6))
    layers = [module for module in lm.model.modules() if isinstance(module, BaseTunerLayer)]
    assert layers
    for layer in layers:
        layer.enable_adapters(False)
    disabled = forgetting.answer_log_probabilities(lm, rendered(6))
    assert forgetting.divergences(before, tuned).mean() > 0.01
    assert forgetting.divergences(before, disabled).max() < 1e-6


def test_the_base_is_asked_once_and_the_tuned_model_the_same(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    lm = load_model(str(tiny_model_path))
    asked: list[str] = []

    def read(name: str, limit: int | None) -> Suite:
        if name == "piqa":
            raise EvaluationError("piqa: not here.")
        return Suite(name, "text", tuple(Item("", (f"{name} says that day {i} is cold",), 0) for i in range(4)))

    monkeypatch.setattr(suites, "read_suite", read)
    base = forgetting.ask_base(lm, Forgetting(), rendered(6), asked.append)
    assert asked == ["general-text", "commonsenseqa", "openbookqa", "general requests"]
    again = forgetting.ask_base(lm, Forgetting(), rendered(6), asked.append)
    assert len(asked) == 4  # from the cache
    assert (again.scores, again.answers) == (base.scores, base.answers)
    found = forgetting.ask_tuned(lm, base, rendered(6), rng, asked.append)
    assert (found["verdict"], found["status"], found["reason"]) == ("unknown", "not_run", "piqa: not here.")
    assert found["suites"]["general-text"]["difference"] == 0
    assert not any(probe["worse"] or probe["difference"] for probe in found["collapse"].values())
    assert found["kl_to_base"]["value"] == found["kl_on_general"]["value"] == 0
    json.dumps(found, allow_nan=False)


def test_a_base_in_four_bits_is_another_model(tiny_model_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    said = []
    for four_bit in (False, True):
        lm = load_model(str(tiny_model_path), four_bit=four_bit)
        assert lm.four_bit is four_bit
        said.append(forgetting.kept(lm, "key", lambda bits=four_bit: [int(bits)], "a question", lambda what: None))  # type: ignore[misc]
    assert said == [[0], [1]]


def test_validation_examples_are_taken_from_all_of_them() -> None:
    items: Any = list(range(200))
    assert len(forgetting.spread(items)) == forgetting.KL_EXAMPLES
    assert (forgetting.spread(items)[0], forgetting.spread(items)[-1]) == (0, 199)
    assert forgetting.spread(items[:5]) == items[:5]


def test_without_a_tier_only_the_tasks_inputs_are_kept(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    base = forgetting.ask_base(lm, Forgetting(tier="off", guard=0.1), rendered(6), lambda what: pytest.fail(what))
    assert (base.scores, base.on_general) == ({}, None)
    assert len(base.task.logs)


def test_what_the_guard_did_is_said() -> None:
    settings = Forgetting(guard=0.25)
    calm = forgetting.guard_report(settings, [(10, 0.1), (20, 0.2)], None, 20)
    assert calm["sentence"].endswith("budget of 0.25 nats per token, at most 0.2000.")
    over = forgetting.guard_report(settings, [(10, 0.1), (20, 0.3)], {"step": 20, "kl": 0.3}, 10)
    assert "At step 20 the divergence from the base was 0.3000, above the guard's budget of 0.25" in over["sentence"]
    assert "the weights of step 10, the best within the budget, were kept" in over["sentence"]
    assert over["curve"] == [[10, 0.1], [20, 0.3]]
