"""``tunesmith check``: what is wrong with data, before anything is trained on it."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import click

SHOWN = 3  # examples of a finding


@click.command("check")
@click.argument("source", metavar="CONFIG_OR_FILE")
@click.option("--test", metavar="FILE", help="Held-out examples: training rows that stand there are looked for.")
@click.option("--meaning", is_flag=True, help="Also look at what texts mean, with a sentence encoder (minutes).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all rows of each finding.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(source: str, test: str | None, meaning: bool, as_json: bool, quiet: bool) -> None:
    """Look at the data of a project or a file, and say whether it is fit to be trained on.

    Duplicates, labels that contradict each other or are probably wrong, rows that stand in the test set, texts that are
    empty, overlong, cut off, garbled or in a broken encoding, personal information and keys. Each finding says where,
    why it matters, and what to do. Nothing is changed; 'tunesmith data clean' does that.

    The exit code is 3 if a run would refuse the data.
    """
    from tunesmith.cli.progress import progress
    from tunesmith.data.check import check

    if test is not None and source.endswith((".yaml", ".yml")):
        raise click.UsageError("--test: only with a data file; a project file names its own.")
    with progress(quiet) as listener:
        result = check(source, test, meaning, listener)
    click.echo(json.dumps(result, ensure_ascii=False, indent=2) if as_json else describe(source, result))
    if result["gate"] == "not_ready":
        raise SystemExit(3)


def describe(source: str, result: dict[str, Any]) -> str:
    """The findings as text for a terminal, the gravest first."""
    from tunesmith.data.checks import GATES

    lines = [f"{source}: {result['rows']:,} rows, read for {result['task']} · {GATES[result['gate']]}", ""]
    for found in result["findings"]:
        lines += textwrap.wrap(
            f"{found['severity']}: {found['check']}: {found['message']}", 110, subsequent_indent="  "
        )
        lines += [f"    {example}" for example in found["examples"][:SHOWN]]
        more = found["count"] - SHOWN
        lines += [f"    … and {more:,} more"] * (more > 0 and bool(found["examples"]))
        lines += textwrap.wrap(f"→ {found['fix']}", 106, initial_indent="    ", subsequent_indent="      ")
    lines += ["Nothing found."] * (not result["findings"])
    lines += [f"not run: {name}: {reason}" for name, reason in result["not_run"].items()]
    return "\n".join(lines)
