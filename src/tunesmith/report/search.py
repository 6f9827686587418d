"""The page of a search among remedies: target quality against what was forgotten, the front, and the knee."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.metrics import METRICS, difference_in_words, in_words
from tunesmith.report import charts
from tunesmith.report.html import render_page
from tunesmith.run import Run, write_atomic

Json = dict[str, Any]
AXES = {
    "loss": ("change on general text", "nats per token of general text, tuned − base"),
    "kl_to_base": ("divergence from the base", "nats per token, on the task's own inputs"),
}


def write_search_page(run: Run, report: Json) -> None:
    """Write report.html of a search beside its search.json."""
    write_atomic(run.html_file, render_search(report))


def render_search(report: Json) -> str:
    """The page for a search's report: pure, from numbers to text."""
    from markupsafe import Markup

    metric = report["task"]["metric"]
    chart = trade_off(report)
    return render_page(
        "search.html", filters={}, report=report, metric=METRICS[metric].words, axis=AXES[report["axis"]],
        rows=table(report), reason=reason(report), chart=Markup(chart) if chart else "",
        lower=not METRICS[metric].higher_is_better,
        rate=difference_in_words(report["exchange"], metric),
    )  # fmt: skip


def trade_off(report: Json) -> str:
    """The picture: quality against what was forgotten, with intervals and the front; empty where there is nothing."""
    axis, metric = report["axis"], report["task"]["metric"]
    unit = METRICS[metric].unit.value_factor
    points = []
    for row in (row for row in table(report) if row["drawn"]):
        x, x_low, x_high = (row[axis][key] for key in ("value", "low", "high"))
        y, y_low, y_high = (unit * row["quality"][key] for key in ("value", "low", "high"))
        points.append(charts.Cross(row["key"], row["name"], x, x_low, x_high, y, y_low, y_high, row["chosen"]))
    sign = METRICS[metric].unit.value_sign.strip()
    title = f"{METRICS[metric].words}{f', {sign}' if sign else ''}"
    front = [p.key for name in report["front"] for p in points if p.label == name]
    return charts.trade_off_chart(points, front, AXES[axis][1], title) if points else ""


def table(report: Json) -> list[Json]:
    """One row for each variant, numbered as in the picture, the numbers in words."""
    axis, metric = report["axis"], report["task"]["metric"]
    rows = []
    for key, row in enumerate(report["variants"], start=1):
        done = row["status"] == "ok"
        rows.append({"learning_rate": None, "remedies": {}, "scales": []} | row | {
            "key": key, "chosen": row["name"] == report["knee"], "front": row["name"] in report["front"],
            "drawn": done and "value" in (row.get(axis) or {}),
            "quality_words": _interval(row["quality"], metric) if done else None,
            "loss_words": _nats(row.get("loss")), "kl_words": _nats(row.get("kl_to_base"), signed=False),
            "worth_words": in_words(row["worth"], metric) if row["worth"] is not None else "–",
        })  # fmt: skip
    return rows


def _interval(value: Json, metric: str) -> tuple[str, str]:
    return in_words(value["value"], metric), " to ".join(in_words(value[key], metric) for key in ("low", "high"))


def _nats(value: Json | None, signed: bool = True) -> tuple[str, str]:
    """Nats per token with their interval; a change has a sign, a divergence has none."""
    if not value or "value" not in value:
        return "not run", (value or {}).get("reason", "")
    if not value["n"]:  # the base against itself
        return "0", ""
    said = [f"{value[key]:{'+' if signed else ''}.3f}".replace("-", "−") for key in ("value", "low", "high")]
    return said[0], f"{said[1]} to {said[2]}"


def reason(report: Json) -> str:
    """The knee in a sentence, with what it gained and lost, and what the search cannot say."""
    metric, knee = report["task"]["metric"], report["knee"]
    if knee is None:
        if report["axis"] != "loss" and len(report["front"]) > 1:
            return (
                "General text was not measured for every variant, and what a nat of divergence from the base is worth "
                "is not known, so nothing is recommended. Give --exchange, or pull the suite: tunesmith models pull "
                "general-text."
            )
        return "Nothing was trained and measured, so nothing is recommended."
    rate = difference_in_words(report["exchange"], metric)
    words, unit = AXES[report["axis"]]
    row = next(row for row in report["variants"] if row["name"] == knee)
    said = f"At {rate} for one nat ({unit}), {knee} is best"
    if knee == "base":
        return f"{said}: no training gained more than it cost. Keep the base, or lower --exchange."
    gained, lost = row["gained"], row[report["axis"]]
    differences = [difference_in_words(gained[key], metric, signed=True) for key in ("difference", "low", "high")]
    change = _nats(lost, signed=report["axis"] == "loss")
    said += f": {differences[0]} against the base ({differences[1]} to {differences[2]}), {words} {change[0]}"
    said += f" ({change[1]})."
    if report["not_told_apart"]:
        said += f" Not told apart from it at this rate: {', '.join(report['not_told_apart'])}."
    others = [name for name in report["front"] if name not in (knee, *report["not_told_apart"])]
    if others:
        said += f" At another rate it may be {' or '.join(others)}."
    return said + " Chosen on validation, so its own score is a little too good; the test examples are still sealed."
