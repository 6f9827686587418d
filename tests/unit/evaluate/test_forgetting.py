from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import EvaluationError
from tunesmith.evaluate import forgetting
from tunesmith.model.load import load_model

KL: dict[str, float | int] = {"value": 0.1, "low": 0.0, "high": 0.2, "n": 3, "p95": 0.3}


def judged(base: Any, tuned: Any, rng: np.random.Generator) -> dict[str, Any]:
    return forgetting.forgetting(base, tuned, KL, rng)


@pytest.mark.parametrize(
    ("suite", "base", "tuned", "verdict"),
    [
        ("piqa", [1.0] * 60 + [0.0] * 40, [1.0] * 60 + [0.0] * 40, "none"),
        ("piqa", [1.0] * 60 + [0.0] * 40, [1.0] * 20 + [0.0] * 80, "severe"),
        ("piqa", [1.0] * 60 + [0.0] * 40, [1.0] * 54 + [0.0] * 46, "mild"),
        ("piqa", [1.0] * 20 + [0.0] * 80, [1.0] * 60 + [0.0] * 40, "none"),
        ("general-text", [3.0, 3.1, 2.9] * 30, [3.5, 3.7, 3.4] * 30, "severe"),
        ("general-text", [3.0, 3.1, 2.9] * 30, [3.1, 3.2, 3.0] * 30, "mild"),
        ("general-text", [3.0, 3.1, 2.9] * 30, [2.0, 2.1, 1.9] * 30, "none"),
    ],
)
def test_verdicts(suite: str, base: list[float], tuned: list[float], verdict: str, rng: np.random.Generator) -> None:
    found = judged({suite: base}, {suite: tuned}, rng)
    assert found["verdict"] == verdict
    assert found["status"] == "ok"
    assert found["suites"][suite]["difference"] == pytest.approx(np.mean(tuned) - np.mean(base))
    assert found["suites"][suite]["n"] == len(base)
    assert found["kl_to_base"] == KL


def test_the_worst_suite_decides_and_one_not_run_is_never_passed(rng: np.random.Generator) -> None:
    good, bad = [1.0] * 100, [0.0] * 100
    assert judged({"piqa": good, "openbookqa": good}, {"piqa": good, "openbookqa": bad}, rng)["verdict"] == "severe"
    part = judged({"piqa": good, "openbookqa": "not here"}, {"piqa": good, "openbookqa": "not here"}, rng)
    assert (part["verdict"], part["status"]) == ("unknown", "not_run")
    assert part["reason"] == "not here"
    assert part["suites"]["openbookqa"] == {"status": "not_run", "reason": "not here"}
    worse = judged({"piqa": good, "openbookqa": "not here"}, {"piqa": bad, "openbookqa": "not here"}, rng)
    assert worse["verdict"] == "severe"


def test_divergence_from_the_base(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    base, tuned = torch.randn(50, 20).log_softmax(1), torch.randn(50, 20).log_softmax(1)
    found = forgetting.kl_to_base(base, tuned, rng)
    each = torch.nn.functional.kl_div(tuned, base, reduction="none", log_target=True).sum(1)
    assert found["value"] == pytest.approx(float(each.mean()), rel=1e-6)
    assert found["p95"] == pytest.approx(float(np.quantile(each.numpy(), 0.95)), rel=1e-5)
    assert found["low"] <= found["value"] <= found["high"]
    assert forgetting.kl_to_base(base, base, rng)["value"] == 0


def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], kind: str = "choice") -> None:
    file = tmp_path / "suite.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    monkeypatch.setattr(forgetting, "resolve_suite", lambda name: file)
    monkeypatch.setattr(forgetting, "suite_entry", lambda name: SimpleNamespace(kind=kind, sha256="0"))


def test_items_are_read_once_each_in_an_order_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"question": f" What is {i}? ", "options": "A. red\nB. blue sky\nC. green", "answer": "B. blue sky"}
        for i in range(9)
    ]
    unusable = {"question": "?", "options": "A. x\nB. y", "answer": "z"}
    suite_file(tmp_path, monkeypatch, [*rows, rows[0], unusable, ""])
    items = forgetting.read_suite("any", 100)
    assert len(items) == 9
    assert items[0].options == (" red", " blue sky", " green")
    assert {item.right for item in items} == {1}
    assert {item.prompt for item in items} == {f"Question: What is {i}?\nAnswer:" for i in range(9)}
    suite_file(tmp_path, monkeypatch, rows[::-1])
    assert forgetting.read_suite("any", 4) == items[:4]


def test_a_broken_suite_is_said_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite_file(tmp_path, monkeypatch, [{"question": "a", "options": "A. x\nB. y", "answer": "x"}, "{"])
    with pytest.raises(EvaluationError, match="line 2"):
        forgetting.read_suite("any", 10)


def test_scores_equal_a_forward_pass_for_each_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
) -> None:
    lm = load_model(str(tiny_model_path))
    rows = [
        {
            "question": f"the day {i}",
            "options": "A. cold\nB. sunny and warm\nC. no",
            "answer": "ABC"[i % 3] + ". " + ["cold", "sunny and warm", "no"][i % 3],
        }
        for i in range(12)
    ]
    suite_file(tmp_path, monkeypatch, rows)
    items = forgetting.read_suite("any", 12)
    found = forgetting.suite_scores(lm, "any", 12)
    lm.model.set_attn_implementation("sdpa")
    for item, score in zip(items, found, strict=True):
        means = []
        prompt = lm.tokenizer(item.prompt).input_ids
        for option in item.options:
            tail = lm.tokenizer(option, add_special_tokens=False).input_ids
            with torch.no_grad():
                logs = lm.model(torch.tensor([[*prompt, *tail]])).logits[0].log_softmax(-1)
            means.append(float(np.mean([float(logs[len(prompt) + i - 1, t]) for i, t in enumerate(tail)])))
        assert score == float(int(np.argmax(means)) == item.right)


def test_the_loss_on_general_text_is_per_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
) -> None:
    lm = load_model(str(tiny_model_path))
    suite_file(tmp_path, monkeypatch, [{"passage": f"the news  report \n of day {i}"} for i in range(5)], "text")
    items = forgetting.read_suite("any", 5)
    found = forgetting.suite_scores(lm, "any", 5)
    lm.model.set_attn_implementation("sdpa")
    for item, score in zip(items, found, strict=True):
        assert "  " not in item.options[0]
        ids = torch.tensor([lm.tokenizer(item.options[0]).input_ids])
        with torch.no_grad():
            assert score == pytest.approx(lm.model(ids, labels=ids).loss.item(), rel=1e-5)
