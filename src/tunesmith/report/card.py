"""The model card: a README.md beside the saved weights, with the header that the hub reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from tunesmith.evaluate.metrics import METRICS, bare_difference, difference_in_words, in_words, metric_words
from tunesmith.report import findings
from tunesmith.report.html import memory, not_run, plain, seconds

Json = Mapping[str, Any]


def model_card(
    candidate: Json,
    report: Json,
    *,
    library: Literal["peft", "transformers"],
    base_model: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
) -> str:
    """What the weights are, how good they are and how that is known, and what is not known.

    Args:
        candidate: One entry of the report's candidates.
        report: The content of ``report.json``.
        library: What loads the weights: ``peft`` for an adapter, ``transformers`` for a whole model.
        base_model: Name of the model that training started from.
        license: Identifier of the base model's licence, which the tuned weights inherit.
        languages: Codes of the base model's languages, such as ``en``.

    Returns:
        Markdown with a YAML header.
    """
    kind = report["task"]["kind"]
    header: dict[str, Any] = {"library_name": library}
    if base_model:
        header["base_model"] = base_model
    if license:
        header["license"] = license.lower()
    if languages:
        header["language"] = list(languages)
    header["tags"] = ["tunesmith", kind, *(["lora"] if library == "peft" else [])]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n",
        f"# {candidate['id']} of {report['name']}\n",
        f"Fine-tuned with Tunesmith from {base_model or 'a base model'} for {kind}, on "
        f"{report['data']['train']:,} training examples.\n",
        "## How good it is\n",
        _metrics_table(candidate),
        _against_others(candidate, report),
        f"The run's verdict: {report['verdict']['reason']}\n",
        "## What it costs\n",
        f"Trainable parameters {candidate.get('trainable_parameters') or 0:,}; "
        f"training {seconds(candidate.get('train_seconds'))}; "
        f"{seconds(candidate.get('seconds_per_example'))} per answer; "
        f"peak memory {memory(candidate.get('peak_memory_bytes'))}.\n",
        "## Limits\n",
        _limits(candidate, report),
        "## How it was made\n",
        _settings(candidate, report),
    ]
    return "\n".join(part for part in parts if part)


def _metrics_table(candidate: Json) -> str:
    lines = ["| metric | value | 95 % interval | test examples |", "|---|---|---|---|"]
    for name, m in candidate.get("metrics", {}).items():
        value, low, high = (in_words(m[key], name) for key in ("value", "low", "high"))
        lines.append(f"| {metric_words(name)} | {value} | {low} to {high} | {m['n']:,} |")
    return "\n".join(lines) + "\n"


def _against_others(candidate: Json, report: Json) -> str:
    lines = []
    metric = report["task"]["metric"]
    for other in report["candidates"]:
        found = findings.difference(report, candidate["id"], other["id"])
        if found:
            low, high = (bare_difference(found[end], metric, signed=True) for end in ("low", "high"))
            gained = difference_in_words(found["difference"], metric, signed=True)
            lines.append(f"- against {other['id']}: {gained} (95 % interval {low} to {high})")
    if not lines:
        return ""
    direction = "" if METRICS[metric].higher_is_better else " (lower is better)"
    return "\n".join([f"Differences in {metric_words(metric)}{direction}, on the same test examples:\n", *lines]) + "\n"


def _limits(candidate: Json, report: Json) -> str:
    lines = []
    if (candidate.get("overfitting") or {}).get("sentence"):
        lines.append(f"- {candidate['overfitting']['sentence']}")
    if (candidate.get("bias") or {}).get("sentence"):
        lines.append(f"- Bias: {candidate['bias']['sentence']}")
    forgetting = candidate.get("forgetting") or {}
    for suite, s in forgetting.get("suites", {}).items():
        if s.get("status") == "not_run":
            lines.append(f"- Not measured: forgetting, {suite} ({s['reason']}).")
            continue
        lines.append(
            f"- Forgetting, {suite}: base {s['base']:.3f}, tuned {s['tuned']:.3f}, "
            f"difference {s['difference']:+.3f} ({s['low']:+.3f} to {s['high']:+.3f}, n = {s['n']:,})."
        )
    for kl, where in (("kl_to_base", "the task's inputs"), ("kl_on_general", "general requests")):
        if s := forgetting.get(kl):
            lines.append(f"- KL from the base on {where}: {s['value']:.3f} nats per token (n = {s['n']:,}).")
    for name, s in (forgetting.get("collapse") or {}).items():
        if isinstance(s, dict) and s["worse"]:
            lines.append(f"- Answers to general requests, {name}: base {s['base']:.3f}, tuned {s['tuned']:.3f}.")
    if forgetting.get("guard"):
        lines.append(f"- {forgetting['guard']['sentence']}")
    if forgetting.get("status") == "not_applicable":
        lines.append(f"- Forgetting does not apply: {forgetting.get('reason', 'the model writes no text')}.")
    if (candidate.get("memorization") or {}).get("sentence"):
        lines.append(f"- {candidate['memorization']['sentence']}")
    for _, part, reason in not_run({"candidates": [candidate]}):
        lines.append(f"- Not measured: {part}{f' ({reason})' if reason else ''}.")
    lines.append(
        "- Measured on test examples like the training examples; on others it may do better or worse. "
        f"Test results were looked at {report['test_looks']} times."
    )
    return "\n".join(lines) + "\n"


def _settings(candidate: Json, report: Json) -> str:
    rows: dict[str, Any] = {f"sha256 of the {part} split": value for part, value in report["data"]["sha256"].items()}
    rows |= {
        "command": report["command"],
        "seed": report["settings"].get("seed"),
        "versions": report["versions"],
    }
    rows |= candidate.get("details") or {}
    return "\n".join(f"- {name.replace('_', ' ')}: {plain(value)}" for name, value in rows.items()) + "\n"
