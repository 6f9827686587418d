"""``tunesmith learning-curve``: how much more data would help, from subsets of what there is."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from pathlib import Path

import click


@click.command("learning-curve")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--candidate", metavar="ID", help="Which candidate to fit, such as embedding or tune; default: the fastest."
)
@click.option("--target", type=float, metavar="SCORE", help="A score, such as 0.9: how many examples would it take?")
@click.option(
    "--draws", type=click.IntRange(2, 50), help="Subsets of each size; default 5, or 3 where a model is tuned."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/<name of the config>.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=1.")
@click.option("--json", "as_json", is_flag=True, help="Print learning_curve.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    config_file: Path, candidate: str | None, target: float | None, draws: int | None, out: Path | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Say what twice the data would buy: a candidate of the project in CONFIG, fitted on subsets of its examples.

    Judged on the validation examples; the test examples are not looked at. The same command goes on where it was.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / config_file.stem
    from tunesmith.cli.progress import progress
    from tunesmith.report.learning_curve import PAGE, sentences
    from tunesmith.search.learning_curve import learning_curve

    with progress(quiet) as listener:
        report = learning_curve(
            config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]), candidate=candidate, draws=draws,
            target=target,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    told = [textwrap.fill(s, 100, break_on_hyphens=False, break_long_words=False) for s in sentences(report)]
    click.echo("\n".join([*told, "", f"Report: {folder / PAGE}"]))
