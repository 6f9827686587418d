"""The page of a sequence of stages: what was kept of each, what it came from, and where its own report is."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.metrics import METRICS, difference_in_words, in_words
from tunesmith.report.html import render_page
from tunesmith.run import Run, write_atomic

Json = dict[str, Any]
SHADES = 10  # of the matrix' cells; report.css has one class for each
MEASURES = {
    "average_accuracy": ("score at the end", "Mean over the stages of the score after the last one."),
    "average_forgetting": (
        "average forgetting", "How far the stages before the last fell from their best score: above zero, they lost."
    ),
    "backward_transfer": (
        "backward transfer", "What later stages did to the score that a stage had at its end: below zero, it fell."
    ),
    "forward_transfer": (
        "forward transfer", "What a stage's task gained before its own stage, against the base model."
    ),
}  # fmt: skip


def write_stages_page(run: Run, report: Json) -> None:
    """Write report.html of a run with stages beside its report.json."""
    write_atomic(run.html_file, render_stages(report))


def render_stages(report: Json) -> str:
    """The page for the report of stages: pure, from numbers to text."""
    held = report["retention"]
    columns = [
        {"name": name, "metric": METRICS[metric].words, "stage": report["tasks"][name]["stage"],
         "folder": report["tasks"][name]["folder"], "lower": not METRICS[metric].higher_is_better}
        for name, metric in held["metric"].items()
    ]  # fmt: skip
    lines = [(f"after {row['after']}" if i else "base model", row["cells"]) for i, row in enumerate(held["matrix"])]
    joint = report["joint"] if report["joint"] and report["joint"]["status"] == "ok" else None
    if joint is not None:
        lines.append(("all stages at once", joint["cells"]))
    shades = {name: _shades([cells[name] for _, cells in lines], metric) for name, metric in held["metric"].items()}
    rows = [
        {"name": name,
         "cells": [_cell(cells[task], metric, shades[task][i], report["tasks"][task]["stage"] == i - 1)
                   for task, metric in held["metric"].items()]}
        for i, (name, cells) in enumerate(lines)
    ]  # fmt: skip
    return render_page(
        "stages.html",
        filters={},
        report=report,
        columns=columns,
        rows=rows,
        measures=_measures(held),
        differences=_differences(joint) if joint else [],
    )


def _cell(cell: Json | None, metric: str, shade: int, own: bool) -> Json | None:
    """A number in words with its interval; ``own`` marks the stage that trained the task."""
    if cell is None:
        return None
    value, low, high = (in_words(cell[key], metric) for key in ("value", "low", "high"))
    return {"value": value, "range": f"{low} to {high}", "n": cell["n"], "shade": shade, "own": own}


def _shades(cells: list[Json | None], metric: str) -> list[int]:
    """How dark each cell of a column is, 0 to ``SHADES`` − 1: by the score where it has a best, else among them."""
    about = METRICS[metric]
    values = [cell["value"] for cell in cells if cell is not None]
    worst, best = (0.0, about.span) if about.span is not None else (min(values, default=0), max(values, default=0))
    if not about.higher_is_better:
        worst, best = best, worst
    span = best - worst
    shares = [0.0 if cell is None or not span else (cell["value"] - worst) / span for cell in cells]
    return [min(SHADES - 1, max(0, int(SHADES * share))) for share in shares]


def _measures(held: Json) -> list[Json]:
    """The measures of the matrix in words, those that were not measured left out."""
    metric = next(iter(held["metric"].values()))
    found = []
    for name, (words, meaning) in MEASURES.items():
        interval = held[name]
        if interval is not None:
            say = in_words if name == "average_accuracy" else difference_in_words
            value, low, high = (say(interval[key], metric) for key in ("value", "low", "high"))
            found.append({
                "words": words, "meaning": meaning, "value": value, "range": f"{low} to {high}", "n": interval["n"],
            })  # fmt: skip
    return found


def _differences(joint: Json) -> list[Json]:
    return [
        {"task": name, "value": difference_in_words(c["difference"], c["metric"], signed=True),
         "range": f"{difference_in_words(c['low'], c['metric'])} to {difference_in_words(c['high'], c['metric'])}",
         "p_value": c["adjusted_p_value"], "n": c["n"]}
        for name, c in joint["differences"].items()
    ]  # fmt: skip
