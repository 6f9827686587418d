"""The price of fine-tuning on one page: four dangers, each a word, a number with its interval, and its guardrail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.evaluate.compare import LIMITS, TUNED, guardrail_state

Json = Mapping[str, Any]
DANGERS = {
    "overfitting": "Overfitting",
    "forgetting": "Forgetting",
    "bias": "Amplified bias",
    "memorization": "Memorised data",
}
Look = Literal["fine", "warning", "error", "soft"]
LOOKS: dict[str, Look] = {"none": "fine", "mild": "warning"}  # how a verdict's word is drawn; worse ones as errors


@dataclass(frozen=True, slots=True)
class Cell:
    """What one danger did to one candidate. ``number`` is the measure in words, or why there is none."""

    word: str
    number: str
    look: Look
    guardrail: str


def price(report: Json) -> list[tuple[str, list[Cell]]]:
    """A row for each fine-tuned candidate, and for the choice where its bias was measured.

    Args:
        report: The content of ``report.json``.

    Returns:
        Candidate ids, each with a cell for each of ``DANGERS``, in their order; empty where nothing was fine-tuned.
    """
    limits = LIMITS | dict(report["settings"].get("guardrails") or {})
    measured = [c for c in report["candidates"] if c.get("status") == "ok"]
    rows = [c for c in measured if c["id"].startswith(TUNED)]
    if not rows:
        return []
    choice = report["verdict"]["choice"]
    rows += [c for c in measured if c["id"] == choice and c not in rows and (c.get("bias") or {}).get("amplification")]
    return [(c["id"], [_cell(c, danger, limits[danger]) for danger in DANGERS]) for c in rows]


def _cell(candidate: Json, danger: str, limit: str | float) -> Cell:
    part = candidate.get(danger) or {}
    state = guardrail_state(candidate, danger, limit)
    allowed = f"{100 * limit:g} points" if isinstance(limit, float) else limit
    guardrail = "no guardrail" if state == "off" else f"guardrail {state} (limit: {allowed})"
    if part.get("status") == "not_applicable" or (danger != "bias" and not candidate["id"].startswith(TUNED)):
        return Cell("does not apply", part.get("reason") or "it was not fine-tuned", "soft", "")
    word = _bias_word(part) if danger == "bias" else part.get("verdict")
    if part.get("status") == "not_run" or word is None:
        reason = part.get("reason") or "no result was stored"
        return Cell("not measured", reason, "error" if state == "unknown" else "soft", guardrail)
    return Cell(word, NUMBERS[danger](part), "error" if state == "failed" else LOOKS.get(word, "error"), guardrail)


def _bias_word(part: Json) -> str | None:
    found = part.get("amplification")
    return None if found is None else "amplified" if found["low"] > 0 else "none"


def _overfitting(part: Json) -> str:
    return f"validation loss − training loss {_interval(part['gap'], part['low'], part['high'], '+.2f')}"


def _forgetting(part: Json) -> str:
    """The text that lost most, general or the user's own, and the suites that lost accuracy beyond chance."""
    suites = {name: s for name, s in (part.get("suites") or {}).items() if "low" in s}
    text = {name: s for name, s in suites.items() if "nats" in (s.get("unit") or "")}
    name = max(text, key=lambda n: float(text[n]["low"])) if text else next(iter(suites))
    worst = suites[name]
    unit = "nats a token" if name in text else "accuracy"
    lost = [n for n, s in suites.items() if n not in text and s["high"] < 0]
    more = f"; lost: {', '.join(lost)}" if lost else ""
    return f"{name} {_interval(worst['difference'], worst['low'], worst['high'], '+.2f')} {unit}{more}"


def _bias(part: Json) -> str:
    a = part["amplification"]
    return f"{_interval(100 * a['value'], 100 * a['low'], 100 * a['high'], '+.1f')} points by {a['column']}"


def _memorization(part: Json) -> str:
    said = []
    membership = part.get("membership") or {}
    if membership.get("status") == "ok":
        auc = membership["auc"]
        said.append(f"AUC {_interval(auc['value'], auc['low'], auc['high'], '.2f')}, chance .50")
    for name, word in (("extraction", "recited"), ("personal", "personal data written")):
        if (written := part.get(name) or {}).get("status") == "ok":
            d = written["difference"]
            said.append(f"{word} {_interval(100 * d['value'], 100 * d['low'], 100 * d['high'], '+.1f')} points")
    if (canaries := part.get("canaries") or {}).get("status") == "ok":
        remembered = [level["repetitions"] for level in canaries["found"] if level["found"]]
        said.append(
            f"planted secrets remembered from {min(remembered)}×" if remembered else "no planted secret remembered"
        )
    return "; ".join(said) or "no part of it was measured"


NUMBERS: dict[str, Callable[[Json], str]] = {
    "overfitting": _overfitting, "forgetting": _forgetting, "bias": _bias, "memorization": _memorization,
}  # fmt: skip


def _interval(value: float, low: float, high: float, form: str) -> str:
    return f"{value:{form}} ({low:{form}} to {high:{form}})".replace("-", "−")
