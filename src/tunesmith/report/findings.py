"""From numbers to sentences: what a reader should know, the most important first. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.evaluate.compare import LEVEL, TUNED, candidate_cost
from tunesmith.evaluate.metrics import (
    CORRELATIONS,
    METRICS,
    bare_difference,
    detectable_in_words,
    difference_in_words,
    gain,
    metric_words,
)

Json = Mapping[str, Any]


def headline(report: Json) -> str:
    """Whether fine-tuning was worth it, in a few words."""
    choice = report["verdict"]["choice"]
    if choice is None:
        return "No verdict"
    usable = [c["id"] for c in report["candidates"] if c.get("status") == "ok"]
    tuned = [name for name in usable if is_tuned(name)]
    others = [name for name in usable if not is_tuned(name)]
    if is_tuned(choice):
        if not others:
            return "Fine-tuned, with nothing to compare it with"
        if all(shows(difference(report, choice, name)) for name in others):
            return "Fine-tuning is worth it"
        return "Fine-tuning is the cheapest way that keeps up"
    if not tuned:
        return "No fine-tuned candidate to judge"
    if all(shows(difference(report, choice, name)) for name in tuned):
        return "Fine-tuning is not worth it"
    if any(shows(difference(report, name, choice)) for name in tuned):
        return "Fine-tuning gains too little to be worth it"
    return "No evidence that fine-tuning is worth it"


def key_findings(report: Json) -> list[str]:
    """What stands out in a report, as sentences, the most important first.

    Args:
        report: The content of ``report.json``.

    Returns:
        Sentences; empty when nothing stands out.
    """
    ranked = [
        *_worth_of_tuning(report),
        *_forgetting(report),
        *_overfitting(report),
        *_memorization(report),
        *_bias(report),
        *_cut_answers(report),
        *_cost(report),
        *_data(report),
        *_test_set(report),
        *_one_answer(report),
        *_failures(report),
    ]
    return [text for _, text in sorted(ranked, key=lambda pair: pair[0])]


def is_tuned(candidate: str) -> bool:
    return candidate.startswith(TUNED)


def difference(report: Json, a: str, b: str) -> dict[str, Any] | None:
    """The comparison of two candidates with the sign of a − b, or None where they were not compared."""
    for c in report["comparisons"]:
        if (c["a"], c["b"]) == (a, b):
            return dict(c)
        if (c["a"], c["b"]) == (b, a):
            return {**c, "a": a, "b": b, "difference": -c["difference"], "low": -c["high"], "high": -c["low"]}
    return None


def shows(comparison: Json | None) -> bool:
    """Whether a comparison shows that a is better than b."""
    if comparison is None:
        return False
    _, low, _ = gain(*(comparison[key] for key in ("difference", "low", "high", "metric")))
    return low > 0 and comparison["adjusted_p_value"] < LEVEL


def confused_pairs(matrix: Sequence[Sequence[int]], labels: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The labels most often taken for another: target, prediction, count, share of the target's examples."""
    mistakes = [
        (count, labels[i], labels[j], sum(row))
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    mistakes.sort(key=lambda m: (-m[0], m[1], m[2]))
    return [
        {"target": target, "prediction": prediction, "count": count, "share": count / total}
        for count, target, prediction, total in mistakes[:most]
    ]


# ── each returns (rank, sentence); a smaller rank comes first ────────────────────────────────────────────
def _worth_of_tuning(report: Json) -> list[tuple[int, str]]:
    metric = report["task"]["metric"]
    sign = 1 if METRICS[metric].higher_is_better else -1
    values = {
        c["id"]: sign * c["metrics"][metric]["value"]
        for c in report["candidates"]
        if c.get("status") == "ok" and metric in c.get("metrics", {})
    }
    tuned = max((n for n in values if is_tuned(n)), key=values.__getitem__, default=None)
    found = []
    others = [n for n in values if not is_tuned(n)]
    rival = max(others, key=values.__getitem__, default=None)
    for rank, other in enumerate(dict.fromkeys([rival, "prompt/zero-shot"])):
        comparison = difference(report, tuned, other) if tuned and other else None
        if comparison is None:
            continue
        low, high = (bare_difference(comparison[end], metric, signed=True) for end in ("low", "high"))
        gained = f"{difference_in_words(comparison['difference'], metric, signed=True)} of {metric_words(metric)}"
        gained += "" if sign > 0 else ", of which less is better"
        interval = f"95 % interval {low} to {high}"
        if shows(comparison) or shows(difference(report, str(other), str(tuned))):
            text = f"The best fine-tuned candidate, {tuned}, against {other}: {gained} ({interval})."
        else:
            detect = detectable_in_words(comparison["minimum_detectable_effect"], metric)
            text = (
                f"The best fine-tuned candidate, {tuned}, against {other}: no evidence of a difference "
                f"(could detect ≥ {detect}); observed {gained} ({interval})."
            )
        found.append((rank, text))
    return found


def _forgetting(report: Json) -> list[tuple[int, str]]:
    found = []
    for candidate in report["candidates"]:
        part = candidate.get("forgetting") or {}
        if not is_tuned(candidate["id"]) or candidate.get("status") != "ok" or part.get("status") == "not_applicable":
            continue
        if (part.get("guard") or {}).get("over_budget"):
            found.append((4, f"{candidate['id']}: {part['guard']['sentence']}"))
        if part.get("status") == "not_run" or "verdict" not in part:
            reason = part.get("reason") or "no result was stored"
            found.append((12, f"What {candidate['id']} forgot was not measured: {reason}."))
            continue
        lost = [
            f"{name} {_signed(s['difference'], s.get('unit'))}"
            for name, s in part.get("suites", {}).items()
            if "low" in s and (s["low"] > 0 or s["high"] < 0)
        ]
        lost += [
            f"right answers of {name} {_signed(s['nll']['difference'], 'nats per token')}"
            for name, s in part.get("suites", {}).items()
            if (s.get("nll") or {}).get("low", 0.0) > 0
        ]
        detail = f" ({', '.join(lost)})" if lost else "; no probe suite changed beyond chance"
        probes = part.get("collapse") or {}
        worse = [n.replace("_", " ") for n, probe in probes.items() if isinstance(probe, dict) and probe["worse"]]
        detail += f"; answers to general requests changed for the worse: {', '.join(worse)}" if worse else ""
        blind = [name for name, s in part.get("suites", {}).items() if s.get("above_chance") is False]
        detail += (
            f"; the base is not above chance on {', '.join(blind)}, so accuracy there tells nothing" if blind else ""
        )
        rank = 10 if part["verdict"] in ("none", "mild") else 2
        found.append((rank, f"Forgetting of {candidate['id']}: {part['verdict']}{detail}."))
    return found


def _overfitting(report: Json) -> list[tuple[int, str]]:
    return [
        (3, f"{candidate['id']}: {part['sentence']}")
        for candidate in report["candidates"]
        if (part := candidate.get("overfitting") or {}).get("verdict") == "overfit"
    ]


def _memorization(report: Json) -> list[tuple[int, str]]:
    """What was not measured stands under its own heading."""
    return [
        (3 if part["verdict"] == "severe" else 10, f"{candidate['id']}: {part['sentence']}")
        for candidate in report["candidates"]
        if (part := candidate.get("memorization") or {}).get("verdict") in ("mild", "severe")
    ]


def _bias(report: Json) -> list[tuple[int, str]]:
    """Of the choice always, of others where it is amplified beyond chance."""
    swapped = [
        (11, f"{c['id']}: {swaps['sentence']}")
        for c in report["candidates"]
        if c["id"] == report["verdict"]["choice"]
        and (swaps := (c.get("bias") or {}).get("swaps") or {}).get("sentence")
    ]
    return swapped + [
        (4 if bias["amplification"]["low"] > 0 else 11, f"{c['id']}: {bias['sentence']}")
        for c in report["candidates"]
        if (bias := c.get("bias") or {}).get("amplification")
        and (bias["amplification"]["low"] > 0 or c["id"] == report["verdict"]["choice"])
    ]


def _cut_answers(report: Json) -> list[tuple[int, str]]:
    return [
        (
            4,
            f"{cut} of {report['data']['test']} answers of {c['id']} were cut at task.max_new_tokens.",
        )
        for c in report["candidates"]
        if (cut := c.get("truncated_answers"))
    ]


def _cost(report: Json) -> list[tuple[int, str]]:
    choice = report["verdict"]["choice"]
    costs = {
        c["id"]: candidate_cost(c.get("train_seconds"), c.get("seconds_per_example"))
        for c in report["candidates"]
        if c.get("status") == "ok" and c.get("seconds_per_example") is not None
    }
    if choice not in costs or len(costs) < 2:
        return []
    tuned = [name for name in costs if is_tuned(name) and name != choice]
    dearest = max(tuned or costs, key=costs.__getitem__)
    if dearest == choice or costs[choice] <= 0 or costs[dearest] < 1.5 * costs[choice]:
        return []
    times = costs[dearest] / costs[choice]
    return [(6, f"Training and 10,000 answers take {times:,.1f} times as long with {dearest} as with {choice}.")]


def _data(report: Json) -> list[tuple[int, str]]:
    return [
        (5 if finding["severity"] == "error" else 8, f"Data: {finding['message'].rstrip('.')}.")
        for finding in report["data"]["findings"]
        if finding["severity"] in ("error", "warning")
    ]


def _test_set(report: Json) -> list[tuple[int, str]]:
    found = []
    planned = report.get("minimum_detectable_effect")
    if planned and planned["points"] > 5:
        found.append((
            7,
            f"The test split is small: {planned['n']:,} examples detect differences of about "
            f"{planned['points']:.1f} points or more.",
        ))  # fmt: skip
    looks = report["test_looks"]
    if looks > 1:
        found.append((9, f"Test results were looked at {looks} times; each look makes them a little less honest."))
    return found


def _one_answer(report: Json) -> list[tuple[int, str]]:
    """Correlations that are exactly 0, interval and all: they are not defined, since all predictions are equal."""
    metric = report["task"]["metric"]
    if METRICS[metric].statistic not in CORRELATIONS:
        return []
    return [
        (7, f"{c['id']} answers always the same: its {metric_words(metric)} is not defined, and counts as 0.")
        for c in report["candidates"]
        if c.get("status") == "ok"
        and (m := c.get("metrics", {}).get(metric))
        and not any((m["low"], m["value"], m["high"]))
    ]


def _failures(report: Json) -> list[tuple[int, str]]:
    return [
        (4, f"{c['id']} {c['status'].replace('_', ' ')}: {c.get('reason') or 'no reason was stored'}")
        for c in report["candidates"]
        if c.get("status") != "ok"
    ]


def _signed(value: float, unit: str | None) -> str:
    if unit and "nat" in unit:
        return f"{value:+.3f} {unit}".replace("-", "−")
    return f"{points(value)} points"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")
