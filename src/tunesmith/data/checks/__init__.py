"""The table of checks of the data, each from what there is to look at to findings; one check, one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from tunesmith.data.checks import (
    contamination,
    duplicates,
    encoding,
    garbled,
    labels,
    lengths,
    personal_information,
    truncated,
)
from tunesmith.data.checks.material import Material
from tunesmith.records import Finding

CHECKS: dict[str, Callable[[Material], list[Finding]]] = {
    "duplicates": duplicates.check,
    "lengths": lengths.check,
    "encoding": encoding.check,
    "garbled": garbled.check,
    "truncated": truncated.check,
    "labels": labels.check,
    "contamination": contamination.check,
    "personal_information": personal_information.check,
}

Listener = Callable[[str, float, float, dict[str, Any]], None]
Gate = Literal["ready", "warnings", "not_ready"]
GATES: dict[Gate, str] = {
    "ready": "ready",
    "warnings": "ready, with warnings to read first",
    "not_ready": "not ready: a run would refuse it",
}


def gate(findings: Sequence[Finding]) -> Gate:
    """Whether data is fit to be trained on: not with an error, and with warnings to be read first."""
    severities = {finding.severity for finding in findings}
    return "not_ready" if "error" in severities else "warnings" if "warning" in severities else "ready"


def silent(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    """The listener that shows nothing."""


def run_checks(material: Material, listener: Listener = silent) -> list[Finding]:
    """The findings of all checks of the table."""
    findings = []
    for name, check in CHECKS.items():
        listener(f"check: {name.replace('_', ' ')}", 0, 0, {})
        findings += check(material)
    return findings
