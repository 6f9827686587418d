"""``tunesmith compare``: two runs on the test examples they share."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("compare")
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--candidate", metavar="ID", help="Compare this candidate of both; default: each run's choice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: Path, second: Path, candidate: str | None, as_json: bool) -> None:
    """Compare two runs, example by example, on the test examples they share."""
    from tunesmith.report.runs import compare_runs, describe
    from tunesmith.run import Run

    result = compare_runs(Run.open(first), Run.open(second), candidate)
    click.echo(json.dumps(result, ensure_ascii=False, indent=2) if as_json else describe(result))
