"""What stands out in a report is said."""

from __future__ import annotations

from typing import Any

from tunesmith.report.findings import key_findings


def test_answers_cut_at_the_token_limit_are_said() -> None:
    report: dict[str, Any] = {
        "task": {"kind": "generation", "metric": "token_f1"},
        "data": {"test": 40, "findings": []},
        "candidates": [{"id": "prompt/zero-shot", "status": "ok", "metrics": {}, "truncated_answers": 7}],
        "comparisons": [],
        "verdict": {"choice": None},
        "test_looks": 1,
    }
    assert any("7 of 40 answers of prompt/zero-shot were cut" in sentence for sentence in key_findings(report))
    report["candidates"][0]["truncated_answers"] = 0
    assert not any("were cut" in sentence for sentence in key_findings(report))
