"""How much more data would help: a candidate fitted on nested subsets, and the curve carried on to twice the data.

All is kept in the run directory, beside what ``tunesmith run`` keeps there: both have the same settings and splits.
Every score is on the validation examples, by which candidates also choose their settings; the test split stays sealed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import workflow
from tunesmith.candidates import FAMILIES, Candidate, Context
from tunesmith.candidates.candidate import Listener
from tunesmith.candidates.embedding import Embedding
from tunesmith.candidates.predictor import Progress
from tunesmith.config import FORMAT_VERSION, Config, Forgetting
from tunesmith.data.read.formats import LABELLED
from tunesmith.data.split import limit_train
from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluate.compare import metric_interval, plain_id
from tunesmith.evaluate.metrics import METRICS, OF_HUNDRED
from tunesmith.measures.learning_curve import FARTHEST, LOSS_LAWS, SCORE_LAWS, Curve, Point, back_tests, fit_curve
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Example
from tunesmith.report.learning_curve import write_curve_page
from tunesmith.report.write import write_report
from tunesmith.run import CURVE, Run, read_examples, read_json, write_json
from tunesmith.tasks import Task

LEARNERS = ("embedding", "boosting", "setfit", "tune")  # families whose score is bought with examples
LEAST_EXAMPLES = 8  # in the smallest subset, and two for each label
DRAWS = {"embedding": 5, "boosting": 5}  # subsets of each size; of candidates that train longer 3
BAND = 41  # sizes at which the curve is drawn

Json = dict[str, Any]


def learning_curve(
    config: Config, folder: Path, listener: Listener, command: str = "", *, candidate: str | None = None,
    draws: int | None = None, target: float | None = None,
) -> Json:  # fmt: skip
    """Fit a candidate on subsets of the training examples, and say what twice as many would buy.

    Reads and writes ``folder``: run.yaml, data.json, splits/, plan.json as ``run`` does; curve/, learning_curve.json,
    learning_curve.html; a report that is there is written again. What is in curve/ is not measured again.

    Args:
        config: The project.
        folder: The run directory; one with other settings is refused.
        listener: Called as work goes on.
        command: What was typed, for the report.
        candidate: Its id, or the beginning of it that only one has; left out: the one that takes the least time.
        draws: Subsets of each size; left out: 5, or 3 of a candidate that is tuned.
        target: A score whose price in examples is asked for, in the metric's unit.

    Returns:
        The content of learning_curve.json.

    Raises:
        ConfigError: If no candidate, or none of that name, learns from examples.
        DataError: If there are too few training examples for four sizes.
    """
    run, started = Run(folder), time.monotonic()
    with run.lock():
        workflow.start(config, run, command)
        task = workflow.prepare(config, run, listener)
        planned = workflow.make_plan(config, run, listener)
        row = _choose(planned["candidates"], candidate)
        train = read_examples(run.split("train"))
        sizes = subset_sizes(len(train), len(task.labels))
        bench = _Bench(config, run, task, row, listener)
        rows = bench.measure(train, sizes, draws or DRAWS.get(row["family"], 3))
        curves = {"curve": _curve(rows, task.metric, len(train), config.seed, target)}
        if all("nll" in row["metrics"] for row in rows):
            curves["loss"] = _curve(rows, "nll", len(train), config.seed, None)
        settings = run.settings()
        report: Json = {
            "format_version": FORMAT_VERSION, "name": run.folder.name, "created": settings["created"],
            "candidate": row["id"], "task": {"kind": task.kind, "metric": task.metric},
            "data": {"train": len(train), "validation": bench.held}, **curves,
            "seconds": round(time.monotonic() - started, 1), "command": command,
            "versions": settings["versions"], "hardware": settings["hardware"],
            "settings": config.model_dump(mode="json"),
        }  # fmt: skip
        write_json(run.folder / CURVE, report)
        write_curve_page(run, report)
        if run.report_file.is_file():
            write_report(run)  # whose verdict says what more data would buy
        return report


def _choose(rows: Sequence[Json], asked: str | None) -> Json:
    learners = [row for row in rows if row["family"] in LEARNERS and plain_id(row["id"]) == row["id"]]
    ids = ", ".join(row["id"] for row in learners)
    if not learners:
        raise ConfigError(
            f"candidates: none of {', '.join(row['id'] for row in rows)} learns from many examples, so more would not "
            "change it. Add embedding or tune."
        )
    if asked is None:
        return min(learners, key=lambda row: row["estimated_seconds"])
    found = [row for row in learners if row["id"] == asked] or [r for r in learners if r["id"].startswith(asked)]
    if len(found) != 1:
        raise ConfigError(f"--candidate {asked}: {'several have' if found else 'none has'} that name. Name one: {ids}.")
    return found[0]


def subset_sizes(train: int, labels: int = 0) -> list[int]:
    """Sizes of the subsets, smallest first: all examples, halved down to a sixteenth, and one between each two.

    Twice a size is a size again, exactly; so up to 15 examples may be left out of the largest.

    Raises:
        DataError: If an eighth would be too small to learn from.
    """
    least = max(LEAST_EXAMPLES, 2 * labels)
    halvings = next((k for k in (4, 3) if train // 2**k >= least), None)
    if halvings is None:
        raise DataError(
            f"{train} training examples: a learning curve needs at least four sizes, the smallest of {least} (two for "
            f"each label, and {LEAST_EXAMPLES} at least), so {8 * least} examples. Bring more, or group labels."
        )
    base = train // 2**halvings
    between = round(base * 2**0.5)
    return sorted([base * 2**k for k in range(halvings + 1)] + [between * 2**k for k in range(halvings)])


def nested_subsets(
    train: Sequence[Example], sizes: Sequence[int], rng: np.random.Generator, kind: str
) -> list[tuple[Example, ...]]:
    """One draw: examples in random order, and the first of them for each size; labels keep their shares."""
    order = [train[i] for i in rng.permutation(len(train))]
    return [limit_train(order, size, kind in LABELLED, kind) for size in sizes]


class _Bench:
    """One candidate, fitted on subset after subset; what was measured before is kept."""

    def __init__(self, config: Config, run: Run, task: Task, row: Json, listener: Listener) -> None:
        # what is not asked here is not measured
        self.config = config.model_copy(
            update={"forgetting": Forgetting(tier="off"), "memorization": "off", "overfitting": "quick"}
        )
        self.run, self.task, self.row, self.listener = run, task, row, listener
        self.validation = read_examples(run.split("validation"))
        self.held = len(self.validation)
        self.folder = run.folder / "curve" / row["id"].replace("/", "__")
        self._vectors: dict[str, dict[str, np.ndarray]] = {}  # by example, then by pooling

    def measure(self, train: Sequence[Example], sizes: Sequence[int], draws: int) -> list[Json]:
        """One row for each subset, with its metrics; a subset of all examples is drawn once."""
        wanted: list[tuple[int, int, tuple[Example, ...]]] = []
        for draw in range(draws):
            rng = np.random.default_rng([self.config.seed, 12, draw])
            subsets = nested_subsets(train, sizes, rng, self.task.kind)
            wanted += [(len(s), draw, s) for s in subsets if draw == 0 or len(s) < sizes[-1]]
        missing = [w for w in wanted if not self._file(*w[:2]).is_file()]
        total, done, began = sum(size for size, *_ in missing), 0, time.monotonic()
        if missing and self.row["family"] == "embedding":
            self._embed(train)
        for size, draw, subset in missing:
            stage = f"{self.row['id']}: learning curve"
            if self._vectors:
                self.listener(stage, done, total, {})
                inner: Listener = workflow.silent
            else:
                left = (time.monotonic() - began) / done * (total - done) if done else None
                told = f", about {left / 60:.0f} min left" if left is not None else ""
                stage += f", {size} examples, draw {draw + 1} of {draws} ({done / total:.0%} done{told})"
                self.listener(stage, 0, 0, {})
                inner = _named(self.listener, stage)
            write_json(self._file(size, draw), self._measure(subset, size, draw, inner))
            done += size
        if self._vectors:
            self.listener(f"{self.row['id']}: learning curve", done, total, {})
        return [read_json(self._file(*w[:2])) for w in wanted]

    def _file(self, size: int, draw: int) -> Path:
        return self.folder / f"{size}-{draw}.json"

    def _measure(self, subset: Sequence[Example], size: int, draw: int, listener: Listener) -> Json:
        scratch = self.folder / f"{size}-{draw}"  # a killed training goes on from its checkpoints here
        scratch.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        candidate = self._build(subset, scratch, listener)
        candidate.fit(subset, self.validation)
        answers = candidate.predict(self.validation)
        found = workflow.measure(self.task, answers, self.config.seed)["metrics"]
        if all(answer.nll is not None for answer in answers):
            found["nll"] = metric_interval(answers, "nll", np.random.default_rng([self.config.seed, 6])).to_json()
        shutil.rmtree(scratch)
        return {"size": size, "draw": draw, "metrics": found, "seconds": round(time.monotonic() - began, 2)}

    def _build(self, subset: Sequence[Example], scratch: Path, listener: Listener) -> Candidate:
        planned = read_json(self.run.plan_file)
        if self.row["family"] == "tune":  # as many epochs as the plan gives so many examples
            parts = {"train": subset, "validation": self.validation, "test": read_examples(self.run.split("test"))}
            planned = workflow.plan_for(self.config, parts, self.task, workflow.silent).to_json()
        model = self.config.model or DEFAULT_MODEL
        context = Context(self.config, self.task, model, planned["loop"], planned["max_length"], listener)
        if self._vectors:
            return Embedding(context, self.row["id"], scratch, self._known)
        return FAMILIES[self.row["family"]].build(context, self.row["id"], scratch)

    def _embed(self, train: Sequence[Example]) -> None:
        """Embed every example once."""
        context = Context(self.config, self.task, self.config.model or DEFAULT_MODEL, {}, 0, self.listener)
        examples = [*train, *self.validation]
        found, _ = Embedding(context, self.row["id"], self.folder).vectors(examples, "embedding")
        for place, example in enumerate(examples):
            self._vectors[example.id] = {pooling: rows[place] for pooling, rows in found.items()}

    def _known(self, examples: Sequence[Example], progress: Progress) -> tuple[dict[str, np.ndarray], int]:
        rows = [self._vectors[example.id] for example in examples]
        return {pooling: np.stack([row[pooling] for row in rows]) for pooling in rows[0]}, 0


def _named(listener: Listener, name: str) -> Listener:
    return lambda stage, done, total, values: listener(f"{name}: {stage.rsplit(': ', 1)[-1]}", done, total, values)


# ── from scores to the curve ─────────────────────────────────────────────────────────────────────────────
def _curve(rows: Sequence[Json], metric: str, pool: int, seed: int, target: float | None) -> Json:
    """The fitted curve of one metric as JSON: points, laws, twice the data, back-tests, the target's price."""
    points = points_of(rows, metric)
    laws = SCORE_LAWS if METRICS[metric].higher_is_better else LOSS_LAWS
    top = 100.0 if METRICS[metric].unit is OF_HUNDRED else 1.0
    rng = np.random.default_rng([seed, 13])
    curve = fit_curve(points, pool, rng, laws, top)
    tests = back_tests(points, pool, rng, laws, top)
    sizes = np.geomspace(points[0].size, FARTHEST * points[-1].size, BAND)
    low, high = curve.band(sizes)
    band = zip(sizes, curve.mean(sizes), low, high, strict=True)
    return {
        "metric": metric,
        "points": [{"size": p.size, "value": float(np.mean(p.scores)), "draws": list(p.scores)} for p in points],
        "laws": {law.name: round(weight, 3) for law, weight in zip(laws, curve.weights, strict=True)},
        "now": float(curve.mean(curve.largest)[0]), "doubled": _doubled(curve),
        "band": [dict(zip(("size", "value", "low", "high"), map(float, row), strict=True)) for row in band],
        "back_tests": [{**test.predicted._asdict(), "seen": test.seen, "inside": test.inside} for test in tests],
        **({"target": _needed(curve, target)} if target is not None else {}),
    }  # fmt: skip


def points_of(rows: Sequence[Json], metric: str) -> list[Point]:
    """Scores by size, with the variance that the items give them, from their 95 % intervals."""
    found = []
    for size in sorted({row["size"] for row in rows}):
        values: list[Mapping[str, float]] = [row["metrics"][metric] for row in rows if row["size"] == size]
        errors = [(v["high"] - v["low"]) / (2 * 1.96) for v in values]
        found.append(Point(size, tuple(v["value"] for v in values), float(np.mean(np.square(errors)))))
    return found


def _doubled(curve: Curve) -> Json:
    """What twice the data would score, and what it would gain over the curve's value now."""
    size = round(FARTHEST * curve.largest)
    now, found = float(curve.mean(curve.largest)[0]), curve.predict(size)
    return {
        **found._asdict(), "gain": found.value - now, "gain_low": found.low - now, "gain_high": found.high - now,
    }  # fmt: skip


def _needed(curve: Curve, target: float) -> Json:
    """The price of a target; None where it is not reached within twice the data."""
    found = curve.needed(target)
    price = {key: round(v) if np.isfinite(v := getattr(found, key)) else None for key in ("size", "low", "high")}
    return {"value": target, **price, "reached": found.reached, "ever": found.asymptote}
