"""What a learning curve says, in sentences, and its page."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluate.metrics import METRICS, bare_difference, difference_in_words, in_words
from tunesmith.measures.learning_curve import COVERAGE, LEAST_SIZES
from tunesmith.report import charts
from tunesmith.report.html import render_page
from tunesmith.run import CURVE, Run, read_json, write_atomic

Json = dict[str, Any]
PAGE = "learning_curve.html"
NEAR_CERTAIN = 0.9  # of the replicates: below it, a target may be out of reach


def write_curve_page(run: Run, report: Json) -> None:
    """Write learning_curve.html beside learning_curve.json."""
    write_atomic(run.folder / PAGE, render_curve(report))


def render_curve(report: Json) -> str:
    """The page for a learning curve: pure, from numbers to text."""
    from markupsafe import Markup

    curves = [report[name] for name in ("curve", "loss") if name in report]
    return render_page(
        "learning_curve.html", filters={"value": in_words}, report=report, headline=doubling(report["curve"]),
        sentences=sentences(report)[1:], coverage=round(100 * COVERAGE),
        curves=[(METRICS[c["metric"]].words, c, Markup(chart(c))) for c in curves],
    )  # fmt: skip


def chart(curve: Json) -> str:
    """The picture of one curve."""
    metric = curve["metric"]
    unit = METRICS[metric].unit
    keys = ("size", "value", "low", "high")
    band = [(row["size"], *(unit.value_factor * row[key] for key in keys[1:])) for row in curve["band"]]
    expected = (curve["doubled"]["size"], *(unit.value_factor * curve["doubled"][key] for key in keys[1:]))
    points = [(point["size"], unit.value_factor * value) for point in curve["points"] for value in point["draws"]]
    sign = unit.value_sign.strip()
    title = f"{METRICS[metric].words}{f', {sign}' if sign else ''}"
    return charts.learning_curve_chart(points, band, expected, title)


def sentences(report: Json) -> list[str]:
    """What the curve says: twice the data, the target's price, how the curve's own predictions went, what it is of."""
    curve = report["curve"]
    said = [doubling(curve) + "."]
    if "target" in curve:
        said.append(price(curve))
    said.append(back_tested(curve))
    said.append(
        f"Measured with {report['candidate']} on {report['data']['validation']:,} validation examples, by which it "
        f"also chooses its settings, so scores are a little too good. Intervals hold what these examples would show "
        f"in {100 * COVERAGE:.0f} % of cases; nothing is claimed beyond {curve['doubled']['size']:,} training examples."
    )
    return said


def doubling(curve: Json) -> str:
    """What twice the data buys, as a sentence without its end."""
    metric, found = curve["metric"], curve["doubled"]
    values = [in_words(found[key], metric) for key in ("value", "low", "high")]
    told = f"Twice the data ({found['size']:,} examples) would bring {METRICS[metric].words} from "
    told += f"{in_words(curve['now'], metric)} to about {values[0]} ({values[1]} to {values[2]})"
    low, high = (bare_difference(found[key], metric, signed=True) for key in ("gain_low", "gain_high"))
    return f"{told}: {difference_in_words(found['gain'], metric, signed=True)} ({low} to {high})"


def price(curve: Json) -> str:
    """How many examples a target takes, or that it may be out of reach."""
    target, limit = curve["target"], curve["doubled"]["size"]
    wanted = in_words(target["value"], curve["metric"])
    if target["size"] is None:
        told = f"{wanted} takes more than {limit:,} examples"
        told += f", or about {target['low']:,} at best" if target["low"] is not None else ""
    else:
        high = f"{target['high']:,}" if target["high"] is not None else f"more than {limit:,}"
        told = f"For {wanted} you need about {target['size']:,} examples ({target['low']:,} to {high})"
    if target["ever"] < NEAR_CERTAIN:
        told += (
            f", or it may be out of reach: {100 * (1 - target['ever']):.0f} % of the curves that fit never get there"
        )
    return f"{told}."


def back_tested(curve: Json) -> str:
    """How it went when the largest subsets were hidden and predicted."""
    tests, metric = curve["back_tests"], curve["metric"]
    if not tests:
        return f"Back-test: not run, as fewer than {LEAST_SIZES} sizes are at most half of the largest."
    inside, first = sum(test["inside"] for test in tests), tests[0]
    values = [in_words(first[key], metric) for key in ("value", "low", "high", "seen")]
    told = (
        f"Back-test: {first['size']:,} examples were predicted from half as many to give {values[0]} ({values[1]} to "
    )
    told += f"{values[2]}), and gave {values[3]}"
    if len(tests) > 1:
        told += f"; of {len(tests)} such predictions {inside} held"
    if 2 * inside < len(tests):
        told += ". The curve foretold its own points badly: trust the doubling as little"
    return f"{told}."


def more_data(run: Run) -> Json:
    """What report.json says of more labels: ``learning_curve``, where one was measured in the same run directory."""
    if not (run.folder / CURVE).is_file():
        return {}
    found = read_json(run.folder / CURVE)
    told = f"{doubling(found['curve'])}, by the learning curve of {found['candidate']} on validation."
    kept = {"candidate": found["candidate"], "metric": found["curve"]["metric"], "doubled": found["curve"]["doubled"]}
    return {"learning_curve": {**kept, "told": told}}
