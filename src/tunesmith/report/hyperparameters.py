"""The page of a search among hyperparameters: what was tried, what it was worth, what the search bought on test."""

from __future__ import annotations

import math
from typing import Any

from tunesmith.evaluate.metrics import METRICS, difference_in_words, in_words
from tunesmith.report import charts
from tunesmith.report.html import render_page

Json = dict[str, Any]
STOPPED = {
    "worse": "worse than the best beyond chance", "not among the best": "not among the best third",
    "budget": "the budget was used up", "failed": "failed",
}  # fmt: skip


def render_hyperparameters(report: Json) -> str:
    """The page for a search's report: pure, from numbers to text."""
    from markupsafe import Markup

    chart = parallel(report)
    importance = sorted(report["importance"].items(), key=lambda item: -item[1])
    return render_page(
        "hyperparameters.html", filters={}, report=report, rows=table(report), reason=reason(report),
        scores=scores(report), chart=Markup(chart) if chart else "",
        importance=[(short(key), f"{100 * share:.0f} %") for key, share in importance],
        names=[short(key) for key in report["space"]], objective=objective_words(report),
        lower=not report["objective"]["higher_is_better"], optimism=optimism_in_words(report),
    )  # fmt: skip


def short(key: str) -> str:
    """A setting's name in words: ``learning rate``."""
    return key.split(".", 1)[1].replace("_", " ")


def objective_words(report: Json) -> str:
    name = report["objective"]["name"]
    return "validation loss" if name == "loss" else f"validation {METRICS[name].words}"


def value_in_words(value: float | None, report: Json) -> str:
    """A trial's worth; a dash where it has none."""
    name = report["objective"]["name"]
    return "–" if value is None else f"{value:.4f}" if name == "loss" else in_words(value, name)


def _setting(value: Any, report: Json) -> str:
    return f"{value:.3g}" if isinstance(value, float) else report["names"].get(value, str(value))


def table(report: Json) -> list[Json]:
    """One row for each trial, the best first, its numbers in words."""
    sign = -1 if report["objective"]["higher_is_better"] else 1
    ordered = sorted(report["trials"], key=lambda row: (row["value"] is None, sign * (row["value"] or 0), row["trial"]))
    rungs = len(report["rungs"])
    return [row | {
        "key": row["trial"] + 1, "chosen": row["trial"] == report["chosen"], "own": row["trial"] == 0,
        "near": row["trial"] in report["not_told_apart"],
        "settings": [_setting(row["setting"][key], report) for key in report["space"]],
        "worth": [value_in_words(v, report) for v in [*row["values"], *[None] * rungs][:rungs]],
        "best": value_in_words(row["value"], report),
        "end": STOPPED.get(row["stopped"] or "", "") + (f": {row['reason']}" if row["reason"] else ""),
    } for row in ordered]  # fmt: skip


def parallel(report: Json) -> str:
    """The picture: each trial a line through its settings to what it was worth; empty where there is nothing to see."""
    done = [row for row in report["trials"] if row["value"] is not None]
    if len(done) < 2:
        return ""
    columns = [(short(key), [row["setting"][key] for row in done], axis) for key, axis in report["space"].items()]
    axes, places = [], []
    for name, values, axis in columns:
        ticks, at = _ordered(values, report) if isinstance(axis, list) else _scaled(values, axis.get("log", False))
        axes.append((name, ticks))
        places.append(at)
    sign = 1 if report["objective"]["higher_is_better"] else -1
    ticks, at = _scaled([row["value"] for row in done], False)
    axes.append((objective_words(report), [(p if sign > 0 else 1 - p, text) for p, text in ticks]))
    places.append(at if sign > 0 else [1 - p for p in at])
    last = len(report["rungs"]) - 1
    threads = []
    for i, row in enumerate(done):
        reached = len(row["values"]) > last
        kind: charts.ThreadName = (
            "choice" if row["trial"] == report["chosen"] else "own" if row["trial"] == 0 else "whole"
        )
        label = f"{row['trial'] + 1}: {value_in_words(row['value'], report)}"
        threads.append(
            charts.Thread(label, tuple(p[i] for p in places), kind if reached or kind != "whole" else "short")
        )
    return charts.parallel_chart(axes, threads)


def _ordered(values: list[Any], report: Json) -> tuple[list[tuple[float, str]], list[float]]:
    """Places of choices: one beside another, numbers by size."""
    kinds = sorted(set(values), key=lambda v: (isinstance(v, str), v if isinstance(v, int | float) else 0, str(v)))
    step = {value: i / max(1, len(kinds) - 1) for i, value in enumerate(kinds)}
    return [(step[value], _setting(value, report)) for value in kinds], [step[value] for value in values]


def _scaled(values: list[float], log: bool) -> tuple[list[tuple[float, str]], list[float]]:
    """Places of numbers between the smallest and the largest, on a logarithmic scale if wanted."""
    numbers = [math.log(v) if log else v for v in values]
    low, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
    at = [(v - low) / span for v in numbers]
    return [(0.0, f"{min(values):.3g}"), (1.0, f"{max(values):.3g}")], at


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────
def scores(report: Json) -> list[tuple[str, str, str]]:
    """Of the chosen setting and the project's own: the metric on validation and on test, with intervals."""
    metric, names = report["task"]["metric"], {"chosen": "the chosen setting", "own": "the project's own setting"}
    return [
        (words, _interval(report["validation"][name], metric), _interval(report["test"][name], metric))
        for name, words in names.items()
        if name in report["test"]
    ]


def _interval(value: Json, metric: str) -> str:
    return f"{in_words(value['value'], metric)} ({in_words(value['low'], metric)} to {in_words(value['high'], metric)})"


def reason(report: Json) -> str:
    """What was chosen and what that bought, in a sentence or two."""
    metric = report["task"]["metric"]
    tried = f"{len(report['trials'])} settings, {report['data']['compared_on']} validation examples"
    if "own" not in report["test"]:
        said = "The project's own setting is the best of those tried" if report["chosen"] == 0 else "The best is named"
        return f"{said} ({tried}): {_interval(report['test']['chosen'], metric)} on the test examples."
    gained = report["gained"]
    d, low, high = (difference_in_words(gained[key], metric, signed=True) for key in ("difference", "low", "high"))
    better = METRICS[metric].higher_is_better
    sure = (gained["low"] > 0) if better else (gained["high"] < 0)
    harm = (gained["high"] < 0) if better else (gained["low"] > 0)
    said = f"On {gained['n']} test examples the chosen setting is {d} ({low} to {high}) against the project's own: "
    said += "better beyond chance" if sure else "worse beyond chance, so keep the own" if harm else "not told apart"
    said += f". Its score there is {_interval(report['test']['chosen'], metric)}."
    others = len(report["not_told_apart"])
    if others:
        said += (
            f" On validation, {others} other {'setting is' if others == 1 else 'settings are'} not told apart from it."
        )
    return said


def optimism_in_words(report: Json) -> str:
    """How much the chosen setting's validation score flatters it."""
    metric, found = report["task"]["metric"], report["optimism"]
    d, low, high = (difference_in_words(found[key], metric, signed=True) for key in ("difference", "low", "high"))
    said = f"Its validation score flatters it by {d} ({low} to {high}); the test score is the one to quote."
    chance = report["selection_optimism"]
    if chance is not None:
        name = report["objective"]["name"]
        unit = f"{chance:.4f}" if name == "loss" else difference_in_words(chance, name)
        said += f" Being the best of {len(report['trials'])} by itself makes its {objective_words(report)} look better"
        said += f" by up to {unit}."
    return said
