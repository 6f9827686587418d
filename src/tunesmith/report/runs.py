"""Two runs side by side: their candidates on the test examples they share, and the settings that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.config import FORMAT_VERSION
from tunesmith.errors import EvaluationError, NotFoundError
from tunesmith.evaluate.compare import LEVEL, compare, metric_interval
from tunesmith.evaluate.metrics import bare_difference, detectable_in_words, difference_in_words, gain, in_words
from tunesmith.records import Prediction
from tunesmith.run import Run, read_json, read_predictions

Json = dict[str, Any]


def compare_runs(first: Run, second: Run, candidate: str | None = None) -> Json:
    """Compare a candidate of one run with one of another, example by example.

    Reads report.json, run.yaml and the candidates' predictions.parquet of both runs; writes nothing. Only
    test examples that stand in both test splits are compared, found by content.

    Args:
        first: A finished run.
        second: A finished run of the same task.
        candidate: Id of the candidate to compare in both; None: each run's choice.

    Returns:
        Both sides with their value on the shared examples, the comparison first − second, the settings that
        differ, and a sentence that says what was found.

    Raises:
        NotFoundError: If a run has no report, or no such candidate.
        EvaluationError: If the runs are judged by different metrics, a run has no choice, or no test example
        is
            shared.
    """
    reports = [read_json(run.report_file) for run in (first, second)]
    metrics = [report["task"]["metric"] for report in reports]
    if metrics[0] != metrics[1]:
        raise EvaluationError(
            f"{first.folder} is judged by {metrics[0]} and {second.folder} by {metrics[1]}: expected the "
            "same metric. Run one of them again with --set task.metric=…"
        )
    ids = [candidate or _choice(run, report) for run, report in zip((first, second), reports, strict=True)]
    stored = [_predictions(run, name) for run, name in zip((first, second), ids, strict=True)]
    shared = Counter(p.example_id for p in stored[0]) & Counter(p.example_id for p in stored[1])
    if not shared:
        raise EvaluationError(
            f"{first.folder} and {second.folder} share no test example (of {len(stored[0])} and "
            f"{len(stored[1])}): expected runs on the same data. Run both with the same data.test."
        )
    sides = [
        [replace(p, candidate=f"{run.folder.name}: {name}") for p in _only(answers, shared)]
        for run, name, answers in zip((first, second), ids, stored, strict=True)
    ]
    seed = int(reports[0]["settings"].get("seed", 0))
    comparison = compare(sides[0], sides[1], metrics[0], np.random.default_rng(seed))
    return {
        "format_version": FORMAT_VERSION,
        "metric": metrics[0],
        "shared": shared.total(),
        "runs": [
            {
                "run": str(run.folder),
                "candidate": name,
                "not_shared": len(answers) - shared.total(),
                "value": metric_interval(side, metrics[0], np.random.default_rng(seed)).to_json(),
            }
            for run, name, answers, side in zip((first, second), ids, stored, sides, strict=True)
        ],
        "comparison": comparison.to_json(),
        "settings": differing_settings(reports[0]["settings"], reports[1]["settings"]),
        "sentence": _sentence(comparison.to_json()),
    }


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Json]:
    """Settings whose values differ, by dotted name; a setting that one side lacks is None there."""
    a, b = _flat(first), _flat(second)
    return [
        {"setting": name, "first": a.get(name), "second": b.get(name)}
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def describe(result: Json) -> str:
    """The result of ``compare_runs`` as text for a terminal."""
    metric, lines = result["metric"], []
    for side in result["runs"]:
        value, low, high = (in_words(side["value"][key], metric) for key in ("value", "low", "high"))
        rest = f", {side['not_shared']:,} test examples not shared" if side["not_shared"] else ""
        lines.append(f"{side['run']}: {side['candidate']}: {metric} {value} ({low} to {high}){rest}")
    lines.append(result["sentence"])
    if result["settings"]:
        lines.append("settings that differ:")
        lines += [f"  {s['setting']}: {s['first']} → {s['second']}" for s in result["settings"]]
    else:
        lines.append("settings: the same")
    return "\n".join(lines)


def _choice(run: Run, report: Json) -> str:
    choice = report["verdict"]["choice"]
    if choice is None:
        raise EvaluationError(f"{run.folder}: its verdict chose no candidate. Name one with --candidate.")
    return str(choice)


def _predictions(run: Run, candidate: str) -> list[Prediction]:
    path = run.candidate(candidate) / "predictions.parquet"
    if not path.is_file():
        known = sorted(p.parent.name.replace("__", "/") for p in run.folder.glob("candidates/*/predictions.parquet"))
        raise NotFoundError(
            f"{run.folder}: no predictions of candidate '{candidate}'. It has: {', '.join(known) or 'none'}."
        )
    return read_predictions(path)


def _only(answers: Sequence[Prediction], shared: Counter[str]) -> list[Prediction]:
    """The answers to shared examples; of copies of an example as many as both runs have."""
    left = Counter(shared)
    kept = []
    for p in answers:
        if left[p.example_id] > 0:
            left[p.example_id] -= 1
            kept.append(p)
    return kept


def _sentence(c: Json) -> str:
    """What was found, first against second."""
    metric = c["metric"]
    low, high = (bare_difference(c[end], metric, signed=True) for end in ("low", "high"))
    interval = f"95 % interval {low} to {high}, p = {c['p_value']:.2g}"
    observed = (
        f"first − second {difference_in_words(c['difference'], metric, signed=True)} "
        f"({interval}, {c['n']:,} shared test examples)"
    )
    if c["p_value"] < LEVEL and not c["low"] <= 0 <= c["high"]:
        ahead = gain(c["difference"], c["low"], c["high"], metric)[0] > 0
        return f"The {'first' if ahead else 'second'} is better: {observed}."
    detect = detectable_in_words(c["minimum_detectable_effect"], metric)
    return f"no evidence of a difference (could detect ≥ {detect}): {observed}."


def _flat(settings: Any, prefix: str = "") -> Json:
    """Nested settings as one level with dotted names."""
    if isinstance(settings, Mapping):
        items = [(str(k), v) for k, v in settings.items()]
    elif isinstance(settings, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in settings):
        items = [(str(i), v) for i, v in enumerate(settings)]
    else:
        return {prefix: settings}
    flat: Json = {}
    for name, value in items:
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
