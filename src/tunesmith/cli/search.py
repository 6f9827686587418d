"""``tunesmith search``: several trainings of one project beside each other, compared on validation."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SHARED = (
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. seed=1."),
    click.option("--json", "as_json", is_flag=True, help="Print search.json."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)


def shared(function: Callable[..., None]) -> Callable[..., None]:
    """What every search is told."""
    for option in reversed(SHARED):
        function = option(function)
    return function


@click.group("search")
def command() -> None:
    """Try several trainings beside each other, on validation."""


@command.command("forgetting")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default runs/<name of the config>-forgetting.")
@click.option(
    "--remedies", "names", metavar="LIST",
    help="Variants to try, with commas, such as none,rate=0.25,lora+replay=0.03+scale=0.7; default: a set of them.",
)  # fmt: skip
@click.option(
    "--exchange", type=click.FloatRange(min=0), metavar="RATE",
    help="Score, in the metric's unit, that a nat per token of general text is worth; default: 0.2 of its range.",
)  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="After this time no variant is begun.")
@shared
def forgetting(
    config_file: Path, out: Path | None, names: str | None, exchange: float | None, minutes: float | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare remedies against forgetting on the project in CONFIG: what each learns, against what it forgets.

    Each is a training in a folder of its own, judged on the validation examples; the test examples are not looked at.
    The same command on the same folder goes on.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / f"{config_file.stem}-forgetting"
    from tunesmith.cli.progress import progress
    from tunesmith.report.search import write_search_page
    from tunesmith.run import Run
    from tunesmith.search.forgetting import search_forgetting

    with progress(quiet) as listener:
        report = search_forgetting(
            config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]), exchange=exchange, minutes=minutes,
            names=[name.strip() for name in names.split(",") if name.strip()] if names is not None else (),
        )  # fmt: skip
    write_search_page(Run(folder), report)
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else summary(report, config_file, folder))
    if any(row["status"] == "failed" for row in report["variants"]):
        raise SystemExit(1)


def summary(report: dict[str, Any], config_file: Path, folder: Path) -> str:
    """A line for each variant, the knee, and what to type next."""
    from tunesmith.report.search import reason, table

    rows = table(report)
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{'variant':<{width}}  {report['task']['metric']:>9}  {'general text':>12}  {'KL to base':>10}  at the rate"
    ]
    for row in rows:
        if row["status"] != "ok":
            lines.append(f"{row['name']:<{width}}  {row['status'].replace('_', ' ')}: {row['reason']}")
            continue
        mark = " ← knee" if row["chosen"] else " · front" if row["front"] else ""
        lines.append(
            f"{row['name']:<{width}}  {row['quality_words'][0]:>9}  {row['loss_words'][0]:>12}  "
            f"{row['kl_words'][0]:>10}  {row['worth_words']:>11}{mark}"
        )
    lines += ["", textwrap.fill(reason(report), 100, break_on_hyphens=False, break_long_words=False)]
    chosen = next((row for row in rows if row["chosen"] and row["folder"]), None)
    if chosen is not None:
        lines += ["", "Next:", f"  tunesmith run {config_file} {shlex.join(_settings(chosen, report))}"]
    return "\n".join([*lines, "", f"Report: {folder / 'report.html'}"])


def _settings(row: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """How the project is told to train as a variant was."""
    changes = [f"method={row['method']}"] if row["method"] != report["settings"]["method"][0]["kind"] else []
    if "rate=" in row["name"]:
        changes.append(f"train.learning_rate={row['learning_rate']:.3g}")
    kept = {key: value for key, value in row["remedies"].items() if key not in ("replayed", "held", "compared")}
    if len(kept.get("scale") or ()) < 2:  # λ was chosen: nothing is left to choose by it, or to compare
        kept.pop("exchange", None)
        if not any(kept.get(name) for name in ("replay", "kl", "ewc")):
            kept.pop("replay_from", None)
    if (seed := next((part for part in row["name"].split("+") if part.startswith("seed=")), None)) is not None:
        changes.append(seed)
    changes.append(f"remedies={json.dumps(kept)}")
    return [word for change in changes for word in ("--set", change)]


@command.command("hyperparameters")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder; default runs/<name of the config>-hyperparameters."
)
@click.option(
    "--space", "space_file", metavar="FILE", type=click.Path(path_type=Path),
    help="YAML file of settings with their values; default: learning rate, batch, warm-up and rank round the rules'.",
)  # fmt: skip
@click.option("--objective", metavar="NAME", default="loss", show_default=True, help="loss, or a metric of the task.")
@click.option("--trials", type=int, metavar="N", help="Settings to try; 18 unless a budget is given.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time it may take.")
@click.option("--tokens", type=click.FloatRange(min=0, min_open=True), help="Tokens it may train.")
@shared
def hyperparameters(
    config_file: Path, out: Path | None, space_file: Path | None, objective: str, trials: int | None,
    minutes: float | None, tokens: float | None, overrides: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the learning rate, batch, rank and length for the project in CONFIG, by successive halving.

    Settings are trained briefly and compared on validation; the better third goes on three times as long, and so on.
    Then the test examples are looked at once. The same command on the same folder goes on.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / f"{config_file.stem}-hyperparameters"
    from tunesmith.cli.progress import progress
    from tunesmith.search.hyperparameters import Budget, search_hyperparameters
    from tunesmith.search.space import import_optuna, read_space

    import_optuna()
    space = read_space(space_file, config) if space_file is not None else None
    with progress(quiet) as listener:
        report = search_hyperparameters(
            config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]), space=space, objective=objective,
            budget=Budget(trials, minutes, tokens),
        )  # fmt: skip
    click.echo(written(report, config_file, folder, as_json))


@command.command("formats")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default runs/<name of the config>-formats.")
@click.option(
    "--columns", "chosen", multiple=True, metavar="LIST", help="A further form: these columns alone, with commas."
)
@click.option("--objective", metavar="NAME", default="loss", show_default=True, help="loss, or a metric of the task.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time it may take.")
@shared
def formats(
    config_file: Path, out: Path | None, chosen: tuple[str, ...], objective: str, minutes: float | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the form in which the rows of the table in CONFIG are best shown: names, a sentence, JSON, Markdown.

    Each form is trained and compared on the same validation examples, as a search among hyperparameters does. The same
    command on the same folder goes on.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / f"{config_file.stem}-formats"
    from tunesmith.cli.progress import progress
    from tunesmith.search.formats import search_formats
    from tunesmith.search.space import import_optuna

    import_optuna()
    columns = [[name.strip() for name in some.split(",") if name.strip()] for some in chosen]
    with progress(quiet) as listener:
        report = search_formats(
            config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]), chosen=columns, objective=objective,
            minutes=minutes,
        )  # fmt: skip
    click.echo(written(report, config_file, folder, as_json))


def written(report: dict[str, Any], config_file: Path, folder: Path, as_json: bool) -> str:
    """Write the page of a search among settings; returns what is said of it."""
    from tunesmith.report.hyperparameters import render_hyperparameters
    from tunesmith.run import Run, write_atomic

    write_atomic(Run(folder).html_file, render_hyperparameters(report))
    return json.dumps(report, ensure_ascii=False, indent=2) if as_json else best_first(report, config_file, folder)


def best_first(report: dict[str, Any], config_file: Path, folder: Path) -> str:
    """A line for each trial, what the search bought, and what to type next."""
    from tunesmith.report.hyperparameters import objective_words, optimism_in_words, reason, short, table

    rows = table(report)
    head = ["", *(short(key) for key in report["space"]), objective_words(report), "epochs", ""]
    cells = [head] + [
        [str(row["key"]), *row["settings"], row["best"], f"{row['epochs']:.2f}" if row["epochs"] else "–",
         "← chosen" if row["chosen"] else "the project's own" if row["own"] else row["end"]]
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in cells
    ]
    for said in (reason(report), optimism_in_words(report)):
        lines += ["", textwrap.fill(said, 100, break_on_hyphens=False, break_long_words=False)]
    chosen = next(row for row in rows if row["chosen"])
    lines += ["", "Next:", f"  tunesmith run {config_file} {shlex.join(report['options'])}"]
    if chosen["own"]:
        lines[-1] += "   # as the project has it, for as long"
    return "\n".join([*lines, "", f"Report: {folder / 'report.html'}"])
