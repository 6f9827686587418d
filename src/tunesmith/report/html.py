"""The report as one HTML file that needs nothing else: no script, no request, opens offline.

The page's content security policy allows its own style sheet, by hash, and nothing more; whatever a model or
a data set wrote is text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from tunesmith.evaluate.compare import candidate_cost
from tunesmith.evaluate.metrics import METRICS, bare_difference, difference_in_words, in_words, metric_words
from tunesmith.report import charts, findings
from tunesmith.report.price import DANGERS, price

LABELS_DRAWN = 20  # a confusion matrix with more labels is shown as its most confused pairs
PAIRS_SHOWN = 15

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses of one training run by step; ``unit`` says what they are, as in 'loss in nats per token'.

    ``followed`` are other values on validation examples, by name.
    """

    train: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]
    best_step: float | None
    unit: str = "in nats per token"
    followed: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One test example with what the chosen candidate answered, and beside it another one, for texts."""

    shown: str
    target: str
    prediction: str
    score: float
    confidence: float | None = None
    beside: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the page shows beside the content of ``report.json``.

    ``labels`` and ``confusion`` (K×K counts, rows are right labels) are empty for tasks without labels;
    ``answers`` are groups of examples by heading; ``beside`` is the candidate whose answers stand beside the choice's.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    labels: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    beside: str | None = None


def render_html(report: Json, evidence: Evidence) -> str:
    """The page for a report: pure, from numbers to text.

    Args:
        report: The content of ``report.json``.
        evidence: Curves, confusion matrix and example answers.

    Returns:
        A complete HTML document.
    """
    from markupsafe import Markup

    rows = candidate_rows(report)
    name = report["task"]["metric"]
    judged_by = METRICS[name]
    margin = report["settings"].get("margin")
    metric = judged_by.words
    drawn = [row["whisker"] for row in rows if row["whisker"] is not None]
    labels, matrix = evidence.labels, evidence.confusion
    loss = {
        name: charts.loss_chart(c.train, c.validation, c.best_step, f"Loss of {name} by step")
        for name, c in evidence.curves.items()
    }
    few = 0 < len(labels) <= LABELS_DRAWN
    return render_page(
        "report.html",
        filters={"difference": lambda value: bare_difference(value, name, signed=True)},
        report=report,
        headline=findings.headline(report),
        findings=findings.key_findings(report),
        metric=metric,
        unit=judged_by.unit.difference_sign.strip(),
        higher_is_better=judged_by.higher_is_better,
        margin=difference_in_words(judged_by.margin if margin is None else margin, name),
        rows=rows,
        dangers=DANGERS,
        price=price(report),
        zero_shot=any(row["id"] == "prompt/zero-shot" for row in rows),
        candidates_chart=Markup(charts.candidates_chart(drawn, metric)) if drawn else "",
        cost_chart=Markup(charts.cost_chart(drawn, f"{metric} against cost")) if drawn else "",
        priced=bool(report["settings"].get("prices")),
        prompts=[row for row in rows if (row["candidate"].get("details") or {}).get("prompt")],
        followed_charts={
            name: {
                metric_words(value): Markup(charts.loss_chart((), points, c.best_step, f"{value} of {name} by step"))
                for value, points in c.followed.items()
            }
            for name, c in evidence.curves.items()
        },
        units={name: curve.unit for name, curve in evidence.curves.items()},
        loss_charts={name: Markup(chart) for name, chart in loss.items() if chart},
        confusion_chart=Markup(charts.confusion_chart(matrix, labels, "Confusion matrix")) if few else "",
        confused=findings.confused_pairs(matrix, labels, PAIRS_SHOWN) if labels and not few else (),
        answers=evidence.answers,
        beside=evidence.beside,
        forgetting={
            c["id"]: c["forgetting"]
            for c in report["candidates"]
            if {"suites", "guard"} & {name for name, part in (c.get("forgetting") or {}).items() if part}
        },
        not_run=not_run(report),
    )


def render_page(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """A complete HTML document from a template of this package: its style inside, everything else escaped."""
    import jinja2
    from markupsafe import Markup

    templates = resources.files("tunesmith.report") / "templates"
    style = (templates / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (templates / name).read_text(encoding="utf-8")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["tabular"] = tabular
    environment.filters |= {
        "seconds": seconds, "memory": memory, "count": count, "short": short_count,
        "score": score, "text": plain, "money": money, "points": findings.points,
        "metric_words": metric_words, **filters,
    }  # fmt: skip
    page: str = environment.get_template(template).render(
        style=Markup(style), style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(), **values
    )
    return page


def candidate_rows(report: Json) -> list[dict[str, Any]]:
    """One row of the table each, numbered as in the pictures: the best first, the unusable last."""
    metric, choice = report["task"]["metric"], report["verdict"]["choice"]
    measured = [c for c in report["candidates"] if c.get("status") == "ok" and metric in c.get("metrics", {})]
    sign = 1 if METRICS[metric].higher_is_better else -1
    measured.sort(key=lambda c: -sign * c["metrics"][metric]["value"])
    others = [c for c in report["candidates"] if c not in measured]
    rows = []
    for key, candidate in enumerate([*measured, *others], start=1):
        name, value = candidate["id"], candidate.get("metrics", {}).get(metric)
        whisker = None
        if candidate in measured:
            cost = candidate_cost(candidate.get("train_seconds"), candidate.get("seconds_per_example"))
            whisker = charts.Whisker(
                key, name, value["value"], value["low"], value["high"], cost,
                in_words(value["value"], metric), name == choice,
            )  # fmt: skip
        rows.append({
            "key": key,
            "id": name,
            "candidate": candidate,
            "value": value,
            "value_text": in_words(value["value"], metric) if value else "",
            "interval_text": f"{in_words(value['low'], metric)} to {in_words(value['high'], metric)}"
            if value
            else "",
            "chosen": name == choice,
            "to_choice": findings.difference(report, name, choice) if choice else None,
            "to_zero_shot": findings.difference(report, name, "prompt/zero-shot"),
            "whisker": whisker,
        })  # fmt: skip
    return rows


def not_run(report: Json) -> list[tuple[str, str, str]]:
    """Candidate, part and reason of everything that was not measured, each reason once per part."""
    found: dict[tuple[str, str], list[str]] = {}
    for candidate in report["candidates"]:
        for part in ("overfitting", "forgetting", "bias", "memorization"):
            value = candidate.get(part) or {}
            if value.get("status") == "not_run":
                found.setdefault((part, value.get("reason", "")), []).append(candidate["id"])
    return [(", ".join(names), part, reason) for (part, reason), names in found.items()]


# ── numbers as a reader wants them ───────────────────────────────────────────────────────────────────────
def seconds(value: float | None) -> str:
    """A duration with two or three digits."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0 s"
    if value < 1e-5:
        return "< 0.01 ms"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.3g} s"


def memory(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "–"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.{0 if value >= 100 * size else 1}f} {unit}"
    return f"{value:.0f} B"


def count(value: float | None) -> str:
    """A number of things, thousands apart."""
    return "–" if value is None else f"{value:,.0f}"


def short_count(value: float) -> str:
    """A number of things in thousands, millions or billions."""
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s), ("", 1.0))
    return f"{value / size:.3g} {unit}".strip()


def money(cost: Json) -> str:
    """What a candidate's ``cost`` says of money, two digits of it at least."""
    value = cost.get("money")
    if value is None:
        return "–"
    return f"{value:,.2f} {cost['currency']}" if value >= 0.1 else f"{value:.2g} {cost['currency']}"


def score(value: float | None) -> str:
    """A loss or a score with three decimals."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def tabular(value: Any) -> tuple[list[str], list[list[Any]]] | None:
    """Names of columns and rows of a value that is best read as a table; None for one that is not.

    Columns stand in the order in which rows first name them; what a row does not name is None.
    """
    if not isinstance(value, list | tuple) or not value or not all(isinstance(row, Mapping) for row in value):
        return None
    names = list(dict.fromkeys(name for row in value for name in row))
    return names, [[row.get(name) for name in names] for row in value]


def plain(value: Any) -> str:
    """A setting's value as a user would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
