"""Successive halving and TPE, replayed on grids of trainings that were recorded once.

    python benchmarks/search.py --record [--cells LIST] [--out FOLDER]     # trains: hours, see below
    python benchmarks/search.py [--replays 200]                            # replays what is recorded: 20 minutes

A cell is a model, a method and a data set; its grid is 40 settings (five learning rates round the rule's, two batches,
two warm-ups, two ranks or weight decays), each trained with two or three seeds as ``tunesmith search hyperparameters``
trains a trial: to every rung, with validation loss, validation accuracy and test accuracy at each. On one core of 2023
minilm-head-banking77 takes about 15 minutes, smollm2-head-polarity 50, minilm-lora-sentiment 60, smollm2-lora-sentiment
160. What was interrupted goes on: a line of ``--out``/<cell>.jsonl for each training, and results/search-<cell>.json
when all are there. Data from TUNESMITH_TEST_DATA: banking77, nltk_sentence_polarity, uci_sentiment_sentences.

A replay is a search with its own seed over the grid's settings, the project's own first, within a share of the tokens
that the whole grid takes. What it chose is judged by the test accuracy, mean over the grid's seeds, against what the
whole grid would have chosen on validation, and against random search: as many settings, drawn at random and trained to
the end, as the same tokens pay for. In question is whether halving is within 0.5 points of the whole grid's choice on
average, at 30 % of its tokens or less, and better than random search in 80 % of the replays in which the two differ.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from environment import RESULTS, test_data, write_result

SHARES = (0.1, 0.2, 0.3)  # of the grid's tokens
FACTORS, WARMUPS = (0.25, 0.5, 1.0, 2.0, 4.0), (0.02, 0.1)
WITHIN, WON = 0.005, 0.8


class Cell(NamedTuple):
    """One grid: what is trained, on how much, and how long."""

    model: str
    method: str
    data: str
    train: int
    validation: int
    test: int
    epochs: int
    batch: int
    seeds: int


CELLS = {
    "minilm-head-banking77": Cell("minilm-l6", "head", "banking77", 1500, 385, 1540, 8, 16, 3),
    "smollm2-head-polarity": Cell("smollm2-135m-instruct", "head", "polarity", 600, 150, 600, 20, 16, 3),
    "minilm-lora-sentiment": Cell("minilm-l6", "lora", "sentiment", 480, 150, 400, 3, 8, 2),
    "smollm2-lora-sentiment": Cell("smollm2-135m-instruct", "lora", "sentiment", 240, 100, 200, 2, 8, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--settings", type=int, help="Only the first so many of each grid: a try, not kept.")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs") / "search")
    chosen = parser.parse_args()
    names = chosen.cells.split(",")
    if chosen.record:
        for name in names:
            record(name, CELLS[name], chosen.out, chosen.settings)
        return
    found = {}
    for name in names:
        file = RESULTS / f"search-{name}.json"
        if not file.is_file():
            print(f"{name}: not recorded", file=sys.stderr)
            continue
        found[name] = replay_all(json.loads(file.read_text(encoding="utf-8")), chosen.replays, name)
    if not found:
        sys.exit("no grid is recorded; give --record first")
    most = [cell[f"{SHARES[-1]:g}"] for cell in found.values()]
    differing = sum(cell["won"] + cell["lost"] for cell in most)
    won = sum(cell["won"] for cell in most) / max(1, differing)
    regret = float(np.mean([cell["regret"] for cell in most]))
    reached = regret <= WITHIN and won >= WON and max(cell["tokens"] for cell in most) <= SHARES[-1]
    write_result("search", {
        "replays": chosen.replays, "cells": found, "not_recorded": [name for name in names if name not in found],
        "mean_regret": round(regret, 5), "won_of_those_that_differ": round(won, 4), "reached": reached,
    })  # fmt: skip
    if not reached:
        sys.exit("a figure was missed")


# ── recording ────────────────────────────────────────────────────────────────────────────────────────────
def settings_of(cell: Cell, rate: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The grid's space, and its settings."""
    batches = [cell.batch // 2, cell.batch * 2]
    space: dict[str, Any] = {
        "train.learning_rate": [float(f"{factor * rate:.4g}") for factor in FACTORS],
        "train.global_batch_size": batches, "train.warmup_ratio": list(WARMUPS),
        **({"method.rank": [8, 32]} if cell.method == "lora" else {"train.weight_decay": [0.0, 0.1]}),
    }  # fmt: skip
    return space, [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def record(name: str, cell: Cell, out: Path, limit: int | None) -> None:
    """Train a cell's grid, a line for each training; the lines that are there are kept."""
    from tunesmith import parse_config, workflow
    from tunesmith.run import Run
    from tunesmith.search.halving import lengths
    from tunesmith.search.trials import Trainer

    task = {"kind": "classification"}
    if cell.data == "sentiment":
        task["instruction"] = "Say whether the review is positive or negative."
    config = parse_config({
        "task": task, "model": cell.model, "method": cell.method, "candidates": ["tune"], "forgetting": "off",
        "memorization": "off", "train": {"epochs": cell.epochs, "global_batch_size": cell.batch},
        "data": {
            "train": str(write_data(cell.data, out)), "train_limit": cell.train, "validation_size": cell.validation,
            "test_size": cell.test, "contamination": "off",
        },
    })  # fmt: skip
    run = Run(out / name)
    with run.lock():
        workflow.start(config, run, " ".join(["python", *sys.argv]))
        built = workflow.prepare(config, run, workflow.silent)
        plan = workflow.make_plan(config, run, workflow.silent)
        trainer = Trainer(config, run, built, plan, workflow.silent)
        loop = plan["loop"][cell.method]
        rungs = lengths(loop["epochs"] * plan["facts"]["train"], loop["global_batch_size"])
        space, settings = settings_of(cell, loop["learning_rate"])
        file = out / f"{name}.jsonl"
        done = {}
        if file.is_file():
            done = {(row["seed"], row["number"]): row["rungs"] for row in map(json.loads, file.open(encoding="utf-8"))}
        wanted = [(seed, n) for seed in range(cell.seeds) for n in range(len(settings))][:limit]
        left = [key for key in wanted if key not in done]
        begun = time.monotonic()
        for i, (seed, number) in enumerate(left):
            done[seed, number] = train_setting(trainer, config, settings[number], seed, rungs, run, cell)
            with file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"seed": seed, "number": number, "rungs": done[seed, number]}) + "\n")
            minutes = (time.monotonic() - begun) / (i + 1) * (len(left) - i - 1) / 60
            print(f"{name}: {i + 1} of {len(left)}, about {minutes:.0f} min left", file=sys.stderr, flush=True)
    if limit is None:
        write_result(f"search-{name}", {
            "cell": cell._asdict(), "learning_rate": loop["learning_rate"], "rungs": [round(n) for n in rungs],
            "space": space, "columns": ["validation loss", "validation accuracy", "test accuracy", "tokens", "from 0"],
            "trainings": [[" | ".join(_row(rung) for rung in done[seed, n]) for n in range(len(settings))]
                          for seed in range(cell.seeds)],
        })  # fmt: skip


def _row(numbers: list[float]) -> str:
    return " ".join(f"{number:.6g}" if number < 1000 else f"{number:.0f}" for number in numbers)


def train_setting(
    trainer: Any, config: Any, setting: dict[str, Any], seed: int, rungs: list[float], run: Any, cell: Cell
) -> list[list[float]]:
    """Validation loss, validation and test accuracy, tokens on top and from the start, of one setting at each rung."""
    from tunesmith.candidates.follow import follow
    from tunesmith.run import read_examples
    from tunesmith.search.space import configured
    from tunesmith.search.trials import forget

    validation, test = (read_examples(run.split(part)) for part in ("validation", "test"))
    cached = cell.method == "head"  # features of all are computed once, and accuracy costs nothing
    if cached:
        trainer.validation = (*validation, *test)
    folder, before, found = run.candidate("trial/grid"), 0, []
    forget(folder)
    changed = configured(config.model_copy(update={"seed": seed}), setting)
    for rung in range(len(rungs)):
        reached = trainer.reach(changed, folder, "", rungs, rung)
        losses = reached.losses[: len(validation)]
        everything = [*validation, *test]
        if cached:
            right = follow(trainer.task, reached.model, everything, trainer.items[config.data.template][1])().items
        else:
            right = [a.prediction == a.target for a in trainer.predict(reached.model, everything, changed, "")]
        of_validation, of_test = right[: len(validation)], right[len(validation) :]
        found.append([
            float(losses[:, 0].sum() / losses[:, 1].sum()), float(np.mean(of_validation)), float(np.mean(of_test)),
            reached.tokens - before, reached.tokens,
        ])  # fmt: skip
        before = reached.stem_tokens
    forget(folder)
    return found


def write_data(name: str, out: Path) -> Path:
    """The examples of a data set, in the order of its files."""
    file = out / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"banking77": banking77, "polarity": polarity, "sentiment": sentiment}[name]()
    file.write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in rows), encoding="utf-8")
    return file


def banking77() -> Iterator[tuple[str, str]]:
    with (test_data("banking77") / "train.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            yield row["text"].strip(), row["category"]


def polarity() -> Iterator[tuple[str, str]]:
    import zipfile

    with zipfile.ZipFile(test_data("nltk_sentence_polarity") / "sentence_polarity.zip") as archive:
        for kind, label in (("neg", "negative"), ("pos", "positive")):
            text = archive.read(f"sentence_polarity/rt-polarity.{kind}").decode("latin-1")
            yield from ((line.strip(), label) for line in text.splitlines())


def sentiment() -> Iterator[tuple[str, str]]:
    for file in sorted(test_data("uci_sentiment_sentences").glob("*_labelled.txt")):
        for line in file.read_text(encoding="utf-8").split("\n"):
            text, tab, label = line.rpartition("\t")
            if tab:
                yield text.strip(), "positive" if label.strip() == "1" else "negative"


# ── replaying ────────────────────────────────────────────────────────────────────────────────────────────
def replay_all(grid: dict[str, Any], replays: int, name: str) -> dict[str, Any]:
    """What searches within each share of the grid's tokens come to, on average."""
    table = np.array([[[[float(number) for number in rung.split()] for rung in text.split(" | ")] for text in texts]
                      for texts in grid["trainings"]])  # (seeds, settings, rungs, columns)  # fmt: skip
    settings = [dict(zip(grid["space"], v, strict=True)) for v in itertools.product(*grid["space"].values())]
    spread = 100 * table[:, :, -1, 2].mean(0)
    found: dict[str, Any] = {"settings": len(settings), "spread_of_test_accuracy": [
        round(float(q), 2) for q in np.quantile(spread, [0, 0.5, 1])
    ]}  # fmt: skip
    for share in SHARES:
        rows = [replay(grid, table, settings, share, seed) for seed in range(replays)]
        regret, better, tokens = (np.array(column) for column in zip(*rows, strict=True))
        found[f"{share:g}"] = {
            "regret": round(float(regret.mean()), 5), "within_half_a_point": round(float((regret <= WITHIN).mean()), 3),
            "tokens": round(float(tokens.max()), 4), "won": int((better > 0).sum()), "lost": int((better < 0).sum()),
            "even": int((better == 0).sum()), "better_than_random_by": round(float(better.mean()), 5),
        }  # fmt: skip
        print(f"{name}: {share:g} of the tokens: {found[f'{share:g}']}", file=sys.stderr, flush=True)
    return found


def replay(
    grid: dict[str, Any], table: np.ndarray, settings: list[dict[str, Any]], share: float, seed: int
) -> tuple[float, float, float]:
    """One search: regret against the whole grid's choice, gain over random search, share of the grid's tokens."""
    from tunesmith.search.halving import Outcome, Results, most_trials, objective_by, ranking, successive_halving
    from tunesmith.search.space import Proposals

    objective = objective_by("loss")
    seen, truth = table[seed % len(table)], table[:, :, :, 2].mean(0)  # (settings, rungs, …), (settings, rungs)
    proposals = Proposals(None, grid["space"], objective.higher_is_better, seed)
    own = {
        key: axis[len(axis) // 2] if key == "train.learning_rate" else axis[0] for key, axis in grid["space"].items()
    }
    tried: list[dict[str, Any]] = []

    def measure(trial: int, rung: int) -> Outcome:
        if rung == 0:
            tried.append(own if trial == 0 else proposals.propose(trial, tried))
        value, _, _, tokens, _ = seen[settings.index(tried[trial]), rung]
        if rung == 0:
            proposals.tell(trial, tried[trial], float(value))
        return Outcome(float(value), [], int(tokens), 0.0)

    budget = share * len(settings) * grid["rungs"][-1]
    trials = min(len(settings), most_trials(budget, grid["rungs"]))
    results: Results
    results, _ = successive_halving(measure, lambda _: trials, len(grid["rungs"]), objective, seed)
    best = ranking(results, objective)[0]
    chosen = truth[settings.index(tried[best[0]]), best[1]]
    spent, whole = sum(found.tokens for found in results.values()), seen[:, -1, 4]
    drawn = np.random.default_rng([seed, 1]).permutation(len(settings))
    drawn = drawn[: max(1, int(spent // whole.mean()))]
    random = truth[drawn[seen[drawn, -1, 0].argmin()], -1]
    reference = truth[seen[:, -1, 0].argmin(), -1]
    return float(reference - chosen), float(chosen - random), float(spent / whole.sum())


if __name__ == "__main__":
    main()
