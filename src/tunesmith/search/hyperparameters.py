"""Which learning rate, rank, batch and length are best for a project: successive halving on validation.

The project's own setting is the first trial and always trained to the end, so that what the search bought is known. The
folder is a run directory whose candidates are the trials; the test split is looked at once, when all is chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tunesmith import workflow
from tunesmith.candidates.candidate import Listener
from tunesmith.config import FORMAT_VERSION, Config, Remedies, parse_config
from tunesmith.errors import ConfigError, DataError, RunError, TrainingError
from tunesmith.evaluate.compare import compare, metric_interval
from tunesmith.evaluate.metrics import COMPARABLE, METRICS, metric_values
from tunesmith.plan.estimate import training_seconds
from tunesmith.plan.facts import Facts
from tunesmith.records import Interval, Prediction
from tunesmith.run import Run, read_examples, read_json, read_predictions, write_json, write_predictions
from tunesmith.search.halving import (
    LOSS,
    Outcome,
    Results,
    clearly_worse,
    examples_trained,
    lengths,
    most_trials,
    objective_by,
    selection_optimism,
    successive_halving,
)
from tunesmith.search.space import Proposals, Space, configured, default_space, in_options, own_setting, size
from tunesmith.search.trials import Trainer, forget
from tunesmith.tasks import Task

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Json = dict[str, Any]
FEWEST = 2  # trials that make a search: the project's own setting and another
TRIALS = 18  # unless a budget is given: two of them, and the project's own, are trained to the end
OWN = 0  # number of the trial with the project's own setting


class Budget(NamedTuple):
    """What a search may take: one of the three, or none for ``TRIALS``."""

    trials: int | None = None
    minutes: float | None = None
    tokens: float | None = None


def search_hyperparameters(
    config: Config, folder: Path, listener: Listener, command: str = "", *, space: Space | None = None,
    objective: str = LOSS, budget: Budget | None = None, names: Mapping[str, str] | None = None,
) -> Json:  # fmt: skip
    """Try settings of a project's first method and say which is best, and what it is worth on the test examples.

    Reads and writes ``folder``: a run directory with candidates/trial__NNN/, study.json, study.db, search.json. What is
    there is gone on from.

    Args:
        config: The project.
        folder: Of the search.
        listener: Called as work goes on.
        command: What was typed, for the report.
        space: As ``search.space`` reads it; left out: from the rules.
        objective: ``loss``, or one of the task's metrics, on validation.
        budget: What the search may take.
        names: What the report calls values that are long.

    Returns:
        The content of search.json.

    Raises:
        ConfigError: If the budget is too small, or the task has no such metric; says what the minimum is.
        RunError: If the folder holds a search of another project, space or objective.
        TrainingError: If no trial could be trained.
    """
    if config.remedies != Remedies():
        raise ConfigError(
            "remedies: the search trains without them. Leave them out (--set 'remedies={}'), and compare remedies "
            "afterwards with 'tunesmith search forgetting'."
        )
    budget = budget or Budget()
    if sum(limit is not None for limit in budget) > 1:
        raise ConfigError("--trials, --minutes and --tokens: each bounds the search by itself; give one of them.")
    run = Run(folder)
    with run.lock():
        raw = config.model_dump(mode="json")
        raw |= {"candidates": ["tune"], "method": raw["method"][:1], "rag": None, "fairness": {}}
        config = parse_config(raw | {"forgetting": "off", "memorization": "off"}, "search")
        workflow.start(config, run, command)
        task = workflow.prepare(config, run, listener)
        known = [LOSS, *(metric for metric in task.metrics if metric in COMPARABLE)]
        if objective not in known:
            raise ConfigError(
                f"--objective {objective}: task {task.kind} has no such metric. Take one of {', '.join(known)}."
            )
        plan = workflow.make_plan(config, run, listener)
        return _Search(config, run, task, plan, listener, space, objective, budget, names or {}).search(command)


class _Search:
    """A study: what is known of each trial, and how the next is measured."""

    def __init__(
        self, config: Config, run: Run, task: Task, plan: Json, listener: Listener, space: Space | None,
        objective: str, budget: Budget, names: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.config, self.run, self.task, self.plan, self.listener = config, run, task, plan, listener
        self.facts, self.loop = Facts(**plan["facts"]), plan["loop"][config.method[0].kind]
        self.space = space or default_space(config, self.loop, self.facts.train)
        self.own = own_setting(config, self.loop, self.space)
        self.objective = objective_by(objective)
        self.rungs = lengths(self.loop["epochs"] * self.facts.train, self.loop["global_batch_size"])
        self.budget, self.names = budget, names
        self.trainer = Trainer(config, run, task, plan, listener)
        self._require_enough()
        self._require_same()
        storage = f"sqlite:///{(run.folder / 'study.db').resolve()}"
        self.proposals = Proposals(storage, self.space, self.objective.higher_is_better, config.seed)

    # ── the budget ───────────────────────────────────────────────────────────────────────────────────────
    def _require_enough(self) -> None:
        """Refuse a budget that no comparison fits into."""
        least = examples_trained(FEWEST, self.rungs)
        what = f"the project's own setting and another, each trained on {self.rungs[-1]:,.0f} examples"
        fix = "Raise it, or lower train.epochs or data.train_limit."
        if self.budget.trials is not None and self.budget.trials < FEWEST:
            raise ConfigError(
                f"--trials {self.budget.trials}: a search compares at least {FEWEST}, the project's own setting "
                "and another."
            )
        tokens = least * self.facts.tokens_per_example
        if self.budget.tokens is not None and self.budget.tokens < tokens:
            raise ConfigError(f"--tokens {self.budget.tokens:g}: the least is {tokens:,.0f}, for {what}. {fix}")
        minutes = least * self._pace({}) / 60
        if self.budget.minutes is not None and self.budget.minutes < minutes:
            raise ConfigError(
                f"--minutes {self.budget.minutes:g}: the least is {math.ceil(10 * minutes) / 10:g} by estimate, for "
                f"{what}. {fix}"
            )

    def _pace(self, results: Results) -> float:
        """Seconds for an example: measured, or before that estimated."""
        tokens = sum(found.tokens for found in results.values())
        if tokens:
            return sum(found.seconds for found in results.values()) / tokens * self.facts.tokens_per_example
        method, batch = self.config.method[0].kind, self.loop["global_batch_size"]
        return training_seconds(self.facts, method, 1, batch, self.config.train.share_prefix) / self.facts.train

    def _wanted(self, results: Results) -> int:
        """How many trials are begun in all, as far as is known now; never more than there are settings."""
        wanted = self.budget.trials or TRIALS
        if self.budget.tokens is not None:
            wanted = most_trials(self.budget.tokens / self.facts.tokens_per_example, self.rungs)
        if self.budget.minutes is not None:
            wanted = max(1, most_trials(60 * self.budget.minutes / self._pace(results), self.rungs))
        return min(wanted, size(self.space, self.own))

    def _require_same(self) -> None:
        """Refuse a folder whose trials were drawn from another space or judged by something else."""
        file, now = self.run.folder / "study.json", {"space": self.space, "objective": self.objective.name}
        if file.is_file() and (self.run.folder / "candidates").exists():
            before = read_json(file)
            changed = [key for key in now if before[key] != now[key]]
            if changed:
                raise RunError(
                    f"{self.run.folder}: holds a search with another {' and '.join(changed)}. Use another --out, or "
                    "delete the folder."
                )
        else:
            (self.run.folder / "study.db").unlink(missing_ok=True)
            write_json(file, now)

    # ── trials ───────────────────────────────────────────────────────────────────────────────────────────
    def _folder(self, trial: int) -> Path:
        return self.run.candidate(f"trial/{trial:03}")

    def _setting(self, trial: int) -> Json:
        """What a trial is trained with: proposed once, then kept."""
        file = self._folder(trial) / "trial.json"
        if not file.is_file():
            write_json(file, {"setting": self.own if trial == OWN else self._propose(trial)})
        setting: Json = read_json(file)["setting"]
        return setting

    def _propose(self, trial: int) -> Json:
        return self.proposals.propose(trial, [self._setting(before) for before in range(trial)])

    def _measure(self, trial: int, rung: int) -> Outcome | None:
        """Train a trial as far as a rung, unless it was, or no time is left."""
        file = self._folder(trial) / f"rung-{rung}.json"
        if file.is_file():
            kept = read_json(file)
            outcome = Outcome(**{key: kept[key] for key in ("value", "items", "tokens", "seconds", "reason")})
        elif self._out_of_time(rung):
            return None
        else:
            outcome = self._train(trial, rung, file)
        self.results[trial, rung] = outcome
        if rung == 0 and outcome.value is not None:
            self.proposals.tell(trial, self._setting(trial), outcome.value)
        return outcome

    def _out_of_time(self, rung: int) -> bool:
        if self.budget.minutes is None or rung == 0:  # how many begin, the pace decides
            return False
        further = (self.rungs[rung] - self.rungs[rung - 1]) * self._pace(self.results)
        return sum(found.seconds for found in self.results.values()) + further > 60 * self.budget.minutes

    def _train(self, trial: int, rung: int, file: Path) -> Outcome:
        setting, started = self._setting(trial), time.monotonic()
        name = f"trial {trial + 1} of {self._wanted(self.results)}, rung {rung + 1} of {len(self.rungs)}"
        self.listener(f"{name}: {setting_in_words(setting)}", 0, 0, {})
        changed, before = configured(self.config, setting), 0
        if rung:
            before = read_json(file.with_name(f"rung-{rung - 1}.json"))["stem_tokens"]
        told: Json = {}
        try:
            reached = self.trainer.reach(changed, self._folder(trial), name, self.rungs, rung)
            told = {
                "steps": reached.steps, "epochs": reached.epochs, "warmup_ratio": reached.warmup_ratio,
                "stem_tokens": reached.stem_tokens,
            }  # fmt: skip
            items = reached.losses
            if self.objective.name != LOSS:
                answers = self._answers(("validation",), trial, rung, reached.model)["validation"]
                items, _ = metric_values(answers, self.objective.name)
            value = float(self.objective.of(items, np.ones((1, len(items))))[0])
            if not math.isfinite(value):
                raise TrainingError(f"the {self.objective.name} on validation is {value}")
            seconds = round(time.monotonic() - started, 2)
            outcome = Outcome(value, items.tolist(), reached.tokens - before, seconds)
        except (TrainingError, DataError) as error:
            outcome = Outcome(None, [], 0, round(time.monotonic() - started, 2), str(error))
        write_json(file, {
            "trial": trial, "rung": rung, "setting": setting, "value": outcome.value, "tokens": outcome.tokens,
            "seconds": outcome.seconds, "reason": outcome.reason, **told, "items": outcome.items,
        })  # fmt: skip
        return outcome

    def _answers(
        self, parts: Sequence[str], trial: int, rung: int, lm: LanguageModel | None = None
    ) -> dict[str, list[Prediction]]:
        """A trial's answers at a rung to validation or test examples, given once, by its model if that is at hand."""
        folder = self._folder(trial)
        files, name = {part: folder / f"rung-{rung}-{part}.parquet" for part in parts}, f"trial {trial + 1}"
        for part, file in files.items():
            if file.is_file():
                continue
            changed = configured(self.config, self._setting(trial))
            if lm is None:
                lm = self.trainer.reach(changed, folder, name, self.rungs, rung).model
            examples = read_examples(self.run.split("test")) if part == "test" else self.trainer.validation
            write_predictions(file, self.trainer.predict(lm, examples, changed, f"{name}, {part}"))
        return {part: read_predictions(file) for part, file in files.items()}

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────
    def search(self, command: str) -> Json:
        """Run the trials up the rungs, choose, look at the test examples, and write search.json."""
        self.results: Results = {}
        results, stopped = successive_halving(
            self._measure, self._wanted, len(self.rungs), self.objective, self.config.seed,
            stop=lambda trial, rung: forget(self._folder(trial), self.rungs[rung]),
        )  # fmt: skip
        trials = [self._row(trial, stopped.get(trial)) for trial in sorted({trial for trial, _ in results})]
        done = [row for row in trials if row["best_rung"] is not None]
        if not done:
            reasons = "\n".join(f"  {row['setting']}: {row['reason']}" for row in trials)
            raise TrainingError(f"none of {len(trials)} settings could be trained:\n{reasons}")
        chosen = min(done, key=lambda row: (-self.objective.gain(row["value"]), row["trial"]))
        best = results[chosen["trial"], chosen["best_rung"]]
        last = [results[row["trial"], row["best_rung"]] for row in done]
        near = [
            row["trial"] for row, found in zip(done, last, strict=True)
            if row is not chosen and not clearly_worse(found, best, self.objective, self.config.seed)
        ]  # fmt: skip
        judged = self._judge(chosen, next((row for row in done if row["trial"] == OWN), None))
        for row in trials:
            forget(self._folder(row["trial"]))
        settings, splits = self.run.settings(), read_json(self.run.data_file)["splits"]
        report: Json = {
            "format_version": FORMAT_VERSION, "search": "hyperparameters", "name": self.run.folder.name,
            "created": settings["created"], "task": {"kind": self.task.kind, "metric": self.task.metric},
            "objective": {"name": self.objective.name, "higher_is_better": self.objective.higher_is_better},
            "method": self.config.method[0].kind, "space": self.space, "names": dict(self.names),
            "budget": self.budget._asdict(),
            "rungs": [round(length) for length in self.rungs],
            "data": {part: splits[part]["count"] for part in splits} | {"compared_on": len(best.items)},
            "trials": trials, "chosen": chosen["trial"], "not_told_apart": near,
            "options": in_options(self.config, chosen["setting"] | {
                "train.epochs": round(chosen["epochs"], 4), "train.warmup_ratio": chosen["warmup_ratio"],
                "train.schedule": "constant_decay",
            }),
            "importance": self.proposals.importance(),
            "selection_optimism": selection_optimism(
                [found.items for found in last], self.objective, self.config.seed
            ),
            **judged, "tokens": sum(found.tokens for found in results.values()),
            "seconds": round(sum(found.seconds for found in results.values()), 1),
            "test_looks": self.run.test_looks(), "command": command, "versions": settings["versions"],
            "hardware": settings["hardware"], "settings": self.config.model_dump(mode="json"),
        }  # fmt: skip
        write_json(self.run.folder / "search.json", report)
        return report

    def _row(self, trial: int, stopped: str | None) -> Json:
        """What the report says of a trial; ``best_rung`` is the length at which it was worth most."""
        rungs = [self.results[trial, rung] for rung in range(len(self.rungs)) if (trial, rung) in self.results]
        values = [found.value for found in rungs]
        known = [(self.objective.gain(value), rung) for rung, value in enumerate(values) if value is not None]
        best = max(known)[1] if known else None
        told = read_json(self._folder(trial) / f"rung-{best}.json") if best is not None else {}
        return {
            "trial": trial, "setting": self._setting(trial), "values": values, "best_rung": best,
            "value": values[best] if best is not None else None,
            **{key: told.get(key) for key in ("steps", "epochs", "warmup_ratio")},
            "tokens": sum(found.tokens for found in rungs), "seconds": round(sum(f.seconds for f in rungs), 1),
            "stopped": stopped, "reason": next((found.reason for found in rungs if found.reason), ""),
        }  # fmt: skip

    def _judge(self, chosen: Json, own: Json | None) -> Json:
        """The metric of the chosen setting and of the project's own, on validation and on the sealed test examples."""
        metric, rng = self.task.metric, np.random.default_rng([self.config.seed, 6])
        rows = {"chosen": chosen} | ({"own": own} if own is not None and own is not chosen else {})
        if any(not (self._folder(r["trial"]) / f"rung-{r['best_rung']}-test.parquet").is_file() for r in rows.values()):
            self.run.count_test_look(", ".join(f"trial {row['trial'] + 1}" for row in rows.values()))
        answers = {n: self._answers(("validation", "test"), row["trial"], row["best_rung"]) for n, row in rows.items()}
        scores = {
            n: {p: metric_interval(told, metric, rng) for p, told in found.items()} for n, found in answers.items()
        }
        found: Json = {part: {n: scores[n][part].to_json() for n in rows} for part in ("validation", "test")}
        found["optimism"] = optimism(scores["chosen"]["validation"], scores["chosen"]["test"], metric)
        if "own" in rows:
            gained = compare(answers["chosen"]["test"], answers["own"]["test"], metric, rng)
            found["gained"] = {key: getattr(gained, key) for key in ("difference", "low", "high", "p_value", "n")}
        return found


def optimism(validation: Interval, test: Interval, metric: str) -> Json:
    """By how much the validation score is better than the test score, with the interval of two independent ones.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    a, b = (validation, test) if METRICS[metric].higher_is_better else (test, validation)
    difference = a.value - b.value
    return {
        "difference": difference,
        "low": difference - math.hypot(a.value - a.low, b.high - b.value),
        "high": difference + math.hypot(a.high - a.value, b.value - b.low),
    }


def setting_in_words(setting: Mapping[str, Any]) -> str:
    """``learning_rate 0.0013, rank 16``."""
    return ", ".join(
        f"{key.split('.')[1]} {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in setting.items()
    )
