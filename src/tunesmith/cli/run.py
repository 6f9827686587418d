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
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(config_file: Path, out: Path | None, overrides: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Do all five stages of the project in CONFIG. On a directory that holds the run already, it resumes."""
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / config_file.stem
    from tunesmith import workflow
    from tunesmith.cli.progress import progress

    with progress(quiet) as listener:
        report = workflow.run(config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]))
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else summary(report, folder))
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
    lines += ["", *words, "", f"Report: {folder / 'report.html'}"]
    return "\n".join(line for line in lines if line is not None)
