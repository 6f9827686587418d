"""The page of a mixture: what training tasks together did to each, and where each task's own report is."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.metrics import METRICS, bare_difference, difference_in_words
from tunesmith.report import charts
from tunesmith.report.html import render_page
from tunesmith.run import Run, write_atomic

Json = dict[str, Any]


def write_mixture_page(run: Run, report: Json) -> None:
    """Write report.html of a mixture beside its report.json."""
    write_atomic(run.html_file, render_mixture(report))


def render_mixture(report: Json) -> str:
    """The page for a mixture's report: pure, from numbers to text."""
    from markupsafe import Markup

    rows = [_row(name, task, report["rates"][name]) for name, task in report["tasks"].items()]
    drawn = {
        what: Markup(charts.candidates_chart(whiskers, what))
        for what, kind in (("trained together − trained alone", "tune/"), ("trained together − zero-shot", "prompt/"))
        if (whiskers := _whiskers(report, kind))
    }
    return render_page("mixture.html", filters={}, report=report, rows=rows, charts=drawn)


def _row(name: str, task: Json, rate: float) -> Json:
    metrics = task["metrics"]
    words = METRICS[task["metric"]].words
    return {
        "name": name, "task": task, "rate": rate, "metric": words,
        "zero_shot": metrics.get("prompt/zero-shot"),
        "alone": {c.split("/")[-1]: v for c, v in metrics.items() if c.startswith("tune/")},
        "together": {c.split("/")[-1]: v for c, v in metrics.items() if c.startswith("multi/")},
        "comparisons": [
            {**c, "words": difference_in_words(c["difference"], c["metric"], signed=True),
             "range": " to ".join(bare_difference(c[end], c["metric"], signed=True) for end in ("low", "high")),
             "against": "alone" if c["b"].startswith("tune/") else "zero-shot"}
            for c in task["comparisons"]
        ],
    }  # fmt: skip


def _whiskers(report: Json, kind: str) -> list[charts.Whisker]:
    found: list[charts.Whisker] = []
    for name, task in report["tasks"].items():
        for c in task["comparisons"]:
            if c["b"].startswith(kind) and METRICS[c["metric"]].unit.difference_sign == " points":
                factor = METRICS[c["metric"]].unit.difference_factor
                text = difference_in_words(c["difference"], c["metric"], signed=True)
                value, low, high = (factor * c[key] for key in ("difference", "low", "high"))
                found.append(charts.Whisker(len(found) + 1, name, value, low, high, 0.0, text))
    return found
