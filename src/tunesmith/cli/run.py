"""``tunesmith run``: data, plan, train, evaluate, report."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/<name of the config>.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=1.")
@click.option("--subset", type=click.IntRange(min=1), metavar="N", help="Begin small: N training examples, own folder.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    config_file: Path, out: Path | None, overrides: tuple[str, ...], subset: int | None, as_json: bool, quiet: bool
) -> None:
    """Do all five stages of the project in CONFIG. On a directory that holds the run already, it resumes."""
    from tunesmith.config import read_any_config

    if subset is not None:
        overrides += (f"data.train_limit={subset}",)
    config = read_any_config(config_file, overrides)
    folder = out or Path("runs") / (config_file.stem if subset is None else f"{config_file.stem}-{subset}")
    from tunesmith import schedules
    from tunesmith.cli.progress import progress

    with progress(quiet) as listener:
        report = schedules.run(config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]))
    told = SUMMARIES[report.get("schedule", "one")](report, folder)
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else told)
    failed = [c["id"] for c in report["candidates"] if c["status"] == "failed"]
    if failed:
        raise SystemExit(1)


def summary(report: dict[str, Any], folder: Path) -> str:
    """The report in a few lines: a table of the candidates, the verdict, where to read more."""
    metric = report["task"]["metric"]
    width = max(len(c["id"]) for c in report["candidates"])
    lines = [
        f"{'candidate':<{width}}  {metric:>9}  {'95 % interval':>15}  {'trained':>8}  {'per answer':>12}  {'memory':>8}"
    ]
    for c in report["candidates"]:
        if c["status"] != "ok":
            lines.append(f"{c['id']:<{width}}  {c['status']}: {c.get('reason', '')}")
            continue
        m = c["metrics"][metric]
        interval = f"{m['low']:.3f} – {m['high']:.3f}"
        lines.append(
            f"{c['id']:<{width}}  {m['value']:>9.3f}  {interval:>15}  {c['train_seconds']:>6.0f} s  "
            f"{1000 * c['seconds_per_example']:>9.1f} ms  {c['peak_memory_bytes'] / 2**30:>4.1f} GiB"
        )
    verdict = report["verdict"]
    words = [
        textwrap.fill(verdict[part], 100, break_on_hyphens=False, break_long_words=False)
        for part in ("reason", "would_change")
    ]
    if "learning_curve" in report:
        words.append(textwrap.fill(report["learning_curve"]["told"], 100, break_long_words=False))
    lines += ["", *words, "", f"Report: {folder / 'report.html'}"]
    return "\n".join(line for line in lines if line is not None)


def mixture_summary(report: dict[str, Any], folder: Path) -> str:
    """A line for each task: zero-shot, alone, together, and what together changed."""
    width = max(len(name) for name in report["tasks"])
    lines = [f"{'task':<{width}}  {'metric':>11}  {'zero-shot':>9}  {'alone':>7}  {'together':>8}  together − alone"]
    for name, task in report["tasks"].items():
        values = [
            next((f"{v['value']:.3f}" for c, v in task["metrics"].items() if c.startswith(kind)), "–")
            for kind in ("prompt/zero-shot", "tune/", "multi/")
        ]
        against = next((c for c in task["comparisons"] if c["b"].startswith("tune/")), None)
        change = f"{against['difference']:+.3f} ({against['low']:+.3f} to {against['high']:+.3f})" if against else "–"
        lines.append(f"{name:<{width}}  {task['metric']:>11}  {values[0]:>9}  {values[1]:>7}  {values[2]:>8}  {change}")
    failed = [f"{c['id']} {c['status']}: {c['reason']}" for c in report["candidates"] if c["status"] != "ok"]
    words = textwrap.fill(report["verdict"]["reason"], 100, break_on_hyphens=False, break_long_words=False)
    return "\n".join([*lines, *failed, "", words, "", f"Report: {folder / 'report.html'}"])


def stages_summary(report: dict[str, Any], folder: Path) -> str:
    """The verdict, and where to read more."""
    words = textwrap.fill(report["verdict"]["reason"], 100, break_on_hyphens=False, break_long_words=False)
    return f"{words}\n\nReport: {folder / 'report.html'}"


SUMMARIES = {"one": summary, "mixture": mixture_summary, "stages": stages_summary}
