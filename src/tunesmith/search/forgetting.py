"""Which remedy against forgetting is worth its price on this data: trainings beside each other, on validation.

Every variant is a run directory of its own below the search's folder, all with the same splits; what is complete there
is kept, but for checkpoints. The test split is not looked at: what was found is to be judged by ``tunesmith run``.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith import workflow
from tunesmith.candidates.candidate import Listener, model_id
from tunesmith.config import FORMAT_VERSION, TEXT_TASKS, Config
from tunesmith.errors import ConfigError
from tunesmith.evaluate.compare import compare, metric_interval
from tunesmith.evaluate.forgetting import SEVERE_NATS, SEVERE_POINTS
from tunesmith.evaluate.metrics import METRICS
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Prediction
from tunesmith.run import Run, read_examples, read_json, read_predictions, write_examples, write_json, write_predictions
from tunesmith.search.variants import build_variants, default_names, same_training

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Json = dict[str, Any]
BASE = "base"
GENERAL_TEXT = "general-text"


def search_forgetting(
    config: Config, folder: Path, listener: Listener, command: str = "", *, names: Sequence[str] = (),
    exchange: float | None = None, minutes: float | None = None,
) -> Json:  # fmt: skip
    """Train the variants, measure what each gained and lost, and name the one that is best at the exchange rate.

    Reads and writes ``folder``: base/, one run directory for each variant, search.json.

    Args:
        config: The project.
        folder: Of the search.
        listener: Called as work goes on.
        command: What was typed, for the report.
        names: Variants to try, as ``search.variants`` reads them; by default a set of them.
        exchange: Score, in the metric's unit, that one nat per token of general text is worth; left out: as much as the
            two limits of severe forgetting say, 5 points for 0.25 nats.
        minutes: After this time no further variant is begun.

    Returns:
        The content of search.json: ``variants`` with ``quality`` and ``loss`` and their intervals, ``front``, ``knee``.

    Raises:
        TunesmithError: What cannot be used or done, in words; a variant that fails is recorded, and the others go on.
    """
    if config.task.kind not in TEXT_TASKS or getattr(config.task, "by", None) == "head":
        what = "a head" if config.task.kind in TEXT_TASKS else f"task {config.task.kind}"
        raise ConfigError(f"search forgetting is for models that answer in text ({', '.join(TEXT_TASKS)}), not {what}.")
    names = tuple(names) or default_names(config)
    with Run(folder).lock():
        listener("search: looking at the project", 0, 0, {})
        variants = build_variants(config, names, _rate)
        return _search(config, variants, folder, listener, command, exchange, minutes)


def _search(
    config: Config, variants: Mapping[str, Config], folder: Path, listener: Listener, command: str,
    given: float | None, minutes: float | None,
) -> Json:  # fmt: skip
    metric, started = config.task.metric, time.monotonic()
    exchange = _exchange(metric) if given is None else given
    bench = _Bench(config, variants, folder, listener, command)
    names = list(variants)
    expected = {
        name: bench.plans[name]["estimated_seconds"] for name in names if not _result(bench.runs[name]).is_file()
    }
    listener(f"search: {len(names)} variants, about {sum(expected.values()) / 60:.0f} minutes", 0, 0, {})
    rows = [bench.base()]
    pace = 1.0  # measured over estimated seconds of the training before
    for i, name in enumerate(names):
        run = bench.runs[name]
        if name not in expected:
            rows.append(read_json(_result(run)))
            continue
        if minutes is not None and time.monotonic() - started + pace * expected[name] > 60 * minutes:
            reason = f"it would not end within the {minutes:g} minutes of the search"
            rows.append({"name": name, "folder": run.folder.name, "status": "not_run", "reason": reason})
            continue
        left = pace * sum(expected.get(other, 0.0) for other in names[i:])
        stage = f"{name} ({i + 1} of {len(names)}, about {left / 60:.0f} min left)"
        listener(stage, 0, 0, {})
        begun = time.monotonic()
        donor = next((n for n in names[:i] if same_training(variants[n], variants[name])), None)
        rows.append({"name": name, "folder": run.folder.name, **bench.measure(name, donor, _named(listener, stage))})
        if rows[-1]["status"] == "ok":
            write_json(_result(run), rows[-1])
        bench.tidy(names[: i + 1], [other for other in names[i + 1 :] if other in expected])
        if donor is None:
            pace = (time.monotonic() - begun) / max(1.0, expected[name])
    first = bench.runs[names[0]]
    settings, splits = first.settings(), read_json(first.data_file)["splits"]
    report: Json = {
        "format_version": FORMAT_VERSION, "search": "forgetting", "name": folder.name, "created": settings["created"],
        "task": {"kind": config.task.kind, "metric": metric}, "exchange": exchange,
        "data": {part: splits[part]["count"] for part in ("train", "validation")},
        **judge(rows, metric, exchange, of_text=given is None), "seconds": round(time.monotonic() - started, 1),
        "command": command, "versions": settings["versions"], "hardware": settings["hardware"],
        "settings": config.model_dump(mode="json"),
    }  # fmt: skip
    write_json(folder / "search.json", report)
    return report


def _exchange(metric: str) -> float:
    span = METRICS[metric].span
    if span is None:
        raise ConfigError(
            f"--exchange: {metric} has no scale of its own, so no rate can be chosen. Give what one nat per token of "
            "general text is worth in it."
        )
    return SEVERE_POINTS / SEVERE_NATS * span


def _rate(config: Config) -> float:
    """The learning rate that a project would be trained with."""
    loop = workflow.plan(config)["loop"]
    rate: float = loop[config.method[0].kind]["learning_rate"]
    return rate


def _slug(name: str) -> str:
    return name.replace("=", "-").replace("+", "_")


def _result(run: Run) -> Path:
    return run.folder / "search.json"


def _named(listener: Listener, name: str) -> Listener:
    return lambda stage, done, total, values: listener(f"{name}: {stage.rsplit(': ', 1)[-1]}", done, total, values)


class _Bench:
    """The variants' folders, with what all share: splits, task, the base's answers, the texts that it wrote."""

    def __init__(
        self, config: Config, variants: Mapping[str, Config], folder: Path, listener: Listener, command: str
    ) -> None:
        from tunesmith.train.remedies.protection import texts_wanted

        self.config, self.variants, self.folder, self.listener = config, variants, folder, listener
        self.model = config.model or DEFAULT_MODEL
        self.runs = {name: Run(folder / _slug(name)) for name in variants}
        self.plans: dict[str, Json] = {}
        self.written = 0  # texts that the base has to write
        self.first = next(iter(self.runs.values()))
        for name, run in self.runs.items():
            one = variants[name]
            with run.lock():
                workflow.start(one, run, command)
                if run is not self.first and not run.data_file.is_file():
                    shutil.copytree(self.first.folder / "splits", run.folder / "splits", dirs_exist_ok=True)
                    shutil.copy(self.first.data_file, run.data_file)
                self.task = workflow.prepare(one, run, listener)
                self.plans[name] = workflow.make_plan(one, run, listener)
            if one.remedies.replay_from == "base":
                wanted = texts_wanted(one.remedies, self.plans[name]["facts"]["train"])
                self.written = max(self.written, sum(wanted.values()))

    def base(self) -> Json:
        """The untuned model's answers: what there is to lose, and nothing lost. It writes the texts, too."""
        file, texts = self.folder / BASE / "validation.parquet", self.folder / BASE / f"replay-{self.written}.parquet"
        if not file.is_file() or (self.written and not texts.is_file()):
            from tunesmith.model.load import load_model
            from tunesmith.train.remedies.replay import write_texts

            self.listener(f"{BASE}: loading {self.model}", 0, 0, {})
            lm = load_model(self.model)
            if self.written:
                write_examples(texts, write_texts(lm, self.written, self.config.seed, self.listener))
            write_predictions(file, self._answers(lm, BASE, self.listener))
        nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
        return {
            "name": BASE, "folder": None, "status": "ok", **self._quality(BASE, file), "loss": nothing,
            "kl_to_base": nothing, "train_seconds": 0.0,
        }  # fmt: skip

    def measure(self, name: str, donor: str | None, listener: Listener) -> Json:
        """Train one variant, or take the training of a donor that differs in λ only; what it gained and lost."""
        from tunesmith.model.load import load_model

        config, run, plan = self.variants[name], self.runs[name], self.plans[name]
        candidate = f"tune/{model_id(self.model)}/{config.method[0].kind}"
        folder = run.candidate(candidate)
        folder.mkdir(parents=True, exist_ok=True)
        texts = self.folder / BASE / f"replay-{self.written}.parquet"
        if config.remedies.replay_from == "base" and texts.is_file():
            shutil.copy(texts, folder / "replay.parquet")
        if donor is not None and not (folder / "checkpoints").exists():
            _take_training(self.runs[donor].candidate(candidate), folder)
        row = next(row for row in plan["candidates"] if row["id"] == candidate)
        with run.lock():
            entry = workflow.train_candidate(config, run, self.task, plan, row, listener)
            if entry["status"] != "ok":
                return {"status": "failed", "reason": entry["reason"]}
            write_predictions(
                folder / "validation.parquet", self._answers(load_model(entry["model"]), candidate, listener)
            )
        lost = entry["forgetting"]
        text = lost.get("suites", {}).get(GENERAL_TEXT, {"status": "not_run", "reason": lost.get("reason", "")})
        if "difference" in text:
            text = {"value": text["difference"], **{key: text[key] for key in ("low", "high", "n")}}
        return {
            "status": "ok", **self._quality(name, folder / "validation.parquet"),
            "loss": text, "kl_to_base": lost.get("kl_to_base"), "train_seconds": entry["train_seconds"],
            "learning_rate": plan["loop"][config.method[0].kind]["learning_rate"], "method": config.method[0].kind,
            "forgetting": lost, "overfitting": entry["overfitting"],
            "remedies": entry["details"].get("remedies", {}), "scales": entry["details"].get("scales", []),
        }  # fmt: skip

    def tidy(self, done: Sequence[str], waiting: Sequence[str]) -> None:
        """Delete checkpoints that nothing goes on from: those of full fine-tuning take gigabytes each."""
        for name in done:
            if not any(same_training(self.variants[name], self.variants[other]) for other in waiting):
                for folder in self.runs[name].folder.glob("candidates/*/checkpoints"):
                    shutil.rmtree(folder)

    def _answers(self, lm: LanguageModel, candidate: str, listener: Listener) -> list[Prediction]:
        """A loaded model's answers to the validation examples."""
        examples, done = read_examples(self.first.split("validation")), [0]

        def progress(n: int) -> None:
            done[0] += n
            listener(f"{candidate}: validation", done[0], len(examples), {})

        return self.task.predict(lm, examples, candidate, (), progress)

    def _quality(self, name: str, file: Path) -> Json:
        """The metric on validation, and its difference to the base's."""
        metric, rng = self.config.task.metric, np.random.default_rng([self.config.seed, 6])
        answers = read_predictions(file)
        found: Json = {"quality": metric_interval(answers, metric, rng).to_json()}
        if name != BASE:
            gained = compare(answers, read_predictions(self.folder / BASE / "validation.parquet"), metric, rng)
            found["gained"] = {key: getattr(gained, key) for key in ("difference", "low", "high", "n")}
        return found


def _take_training(donor: Path, folder: Path) -> None:
    """The donor's checkpoints, by links where the disk has them, and its curve: nothing is left to be trained."""
    if (donor / "checkpoints").is_dir():
        try:
            shutil.copytree(donor / "checkpoints", folder / "checkpoints", copy_function=os.link)
        except (OSError, shutil.Error):
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            shutil.copytree(donor / "checkpoints", folder / "checkpoints")
        for curve in ("metrics.jsonl", "validations.jsonl"):
            shutil.copy(donor / curve, folder / curve)


# ── what follows ─────────────────────────────────────────────────────────────────────────────────────────
def judge(rows: Sequence[Json], metric: str, exchange: float, of_text: bool = False) -> Json:
    """The front, the knee and a sentence, from quality and loss of each row.

    A row is on the front if no other has at least its quality at no more loss, and one of them better. The knee is the
    row with the largest quality − exchange · loss; others whose intervals allow as much are not told apart from it.
    Loss is the change of nats per token on general text where that was measured for every row, otherwise the
    divergence from the base; a rate that holds for text only (``of_text``) then names no knee. Nor is there one where
    nothing was trained.
    """
    done = [row for row in rows if row["status"] == "ok"]
    axis = "loss" if all("value" in row["loss"] for row in done) else "kl_to_base"
    usable = [row for row in done if row.get(axis) and "value" in row[axis]]
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    point = {row["name"]: (sign * row["quality"]["value"], row[axis]["value"]) for row in usable}
    worth = {name: quality - exchange * loss for name, (quality, loss) in point.items()}
    front = [
        name
        for name, (quality, loss) in point.items()
        if not any(q >= quality and x <= loss and (q, x) != (quality, loss) for q, x in point.values())
    ]
    judged = worth.keys() - {BASE} and not (of_text and axis != "loss")
    knee = max(worth, key=lambda name: worth[name]) if judged else None
    spread = {
        row["name"]: math.hypot(_half(row["quality"]), exchange * _half(row[axis])) for row in usable
    }  # of the worth, as if quality and loss, and two variants, were independent: wider than a paired interval
    near = [
        name for name in worth if knee is not None and name != knee
        and worth[knee] - worth[name] < math.hypot(spread[knee], spread[name])
    ]  # fmt: skip
    return {
        "axis": axis, "front": sorted(front, key=lambda name: point[name][1]), "knee": knee, "not_told_apart": near,
        "variants": [row | {"worth": worth.get(row["name"])} for row in rows],
    }  # fmt: skip


def _half(interval: Json) -> float:
    return float(interval["high"] - interval["low"]) / 2
