"""The price table: a word, a number and a guardrail for each danger, and nothing that was not measured looks passed."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.evaluate.compare import GUARDRAILS, LIMITS, guardrail_state, read_contender
from tunesmith.report.price import DANGERS, Cell, price

OVERFITTING = {"verdict": "none", "gap": 0.012, "low": -0.006, "high": 0.029}
SUITES = {
    "general-text": {"difference": 0.17, "low": 0.15, "high": 0.2, "unit": "nats per token, lower is better"},
    "piqa": {"difference": -0.1, "low": -0.2, "high": -0.02, "unit": "accuracy"},
    "boolq": {"difference": -0.1, "low": -0.2, "high": 0.02, "unit": "accuracy"},
}
FORGETTING = {"status": "ok", "verdict": "mild", "suites": SUITES}
MEMORIZATION = {
    "status": "ok", "verdict": "severe",
    "extraction": {"status": "ok", "difference": {"value": 0.2, "low": 0.1, "high": 0.3}},
    "membership": {"status": "ok", "auc": {"value": 0.9, "low": 0.85, "high": 0.95}},
}  # fmt: skip
BIAS = {"status": "ok", "amplification": {"value": 0.08, "low": 0.03, "high": 0.13, "column": "gender"}}
ALL: dict[str, Any] = {
    "overfitting": OVERFITTING, "forgetting": FORGETTING, "bias": BIAS, "memorization": MEMORIZATION,
}  # fmt: skip


def cells(parts: dict[str, Any], name: str = "tune/m/lora", **guardrails: Any) -> dict[str, Cell]:
    report = {
        "candidates": [{"id": name, "status": "ok", **parts}], "settings": {"guardrails": guardrails},
        "verdict": {"choice": name},
    }  # fmt: skip
    ((found, row),) = price(report)
    assert found == name
    return dict(zip(DANGERS, row, strict=True))


def test_each_danger_has_a_word_and_a_number_with_its_interval() -> None:
    found = cells(ALL)
    assert {danger: cell.word for danger, cell in found.items()} == {
        "overfitting": "none", "forgetting": "mild", "bias": "amplified", "memorization": "severe",
    }  # fmt: skip
    assert [cell.look for cell in found.values()] == ["fine", "warning", "error", "error"]
    assert found["overfitting"].number == "validation loss − training loss +0.01 (−0.01 to +0.03)"
    assert found["forgetting"].number == "general-text +0.17 (+0.15 to +0.20) nats a token; lost: piqa"
    assert found["bias"].number == "+8.0 (+3.0 to +13.0) points by gender"
    assert found["memorization"].number == "AUC 0.90 (0.85 to 0.95), chance .50; recited +20.0 (+10.0 to +30.0) points"
    assert found["forgetting"].guardrail == "guardrail passed (limit: mild)"
    assert found["bias"].guardrail == "no guardrail"


@pytest.mark.parametrize("danger", DANGERS)
@pytest.mark.parametrize("part", [{}, {"status": "not_run", "reason": "the wheel is not there"}])
def test_what_was_not_measured_is_unknown_and_never_looks_passed(danger: str, part: dict[str, Any]) -> None:
    limit = 0.05 if danger == "bias" else "mild"
    cell = cells(ALL | {danger: part}, **{danger: limit})[danger]
    assert (cell.word, cell.look) == ("not measured", "error")
    assert "unknown" in cell.guardrail
    assert cell.number == part.get("reason", "no result was stored")
    assert cells(ALL | {danger: part}, **{danger: "off"})[danger].look == "soft"


def test_a_failed_guardrail_is_an_error_whatever_the_word() -> None:
    found = cells(ALL, forgetting="none", bias=0.02)
    assert found["forgetting"] == Cell("mild", found["forgetting"].number, "error", "guardrail failed (limit: none)")
    assert found["bias"].guardrail == "guardrail failed (limit: 2 points)"


def test_a_model_that_writes_no_text_has_none_to_get_worse() -> None:
    cell = cells(ALL | {"forgetting": {"status": "not_applicable", "reason": "it writes no text"}})["forgetting"]
    assert cell == Cell("does not apply", "it writes no text", "soft", "")


def test_rows_are_the_fine_tuned_ones_and_the_choice_where_its_bias_was_measured() -> None:
    candidates = [
        {"id": "prompt/zero-shot", "status": "ok", "bias": BIAS}, {"id": "embedding/m", "status": "ok", "bias": BIAS},
        {"id": "tune/m/lora", "status": "ok", **ALL}, {"id": "tune/m/full", "status": "failed"},
    ]  # fmt: skip
    report: dict[str, Any] = {"candidates": candidates, "settings": {}, "verdict": {"choice": "embedding/m"}}
    assert [name for name, _ in price(report)] == ["tune/m/lora", "embedding/m"]
    assert [cell.word for cell in price(report)[1][1]] == [
        "does not apply", "does not apply", "amplified", "does not apply",
    ]  # fmt: skip
    report["candidates"] = candidates[:2]
    assert price(report) == []


def test_the_table_and_the_verdict_read_guardrails_alike() -> None:
    limits: dict[str, str | float] = LIMITS | {"memorization": "mild", "bias": 0.01}
    candidate = {"id": "tune/m/lora", "metrics": {"accuracy": {"value": 0.5}}, **ALL}
    states = {g: guardrail_state(candidate, g, limits[g]) for g in [*GUARDRAILS, "bias"]}
    assert states == {"overfitting": "passed", "forgetting": "passed", "memorization": "failed", "bias": "failed"}
    assert len(read_contender(candidate, "accuracy", limits).vetoes) == 2
