"""``tunesmith evaluate``: a run's numbers from its predictions, or a model on a file of examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("evaluate")
@click.argument("model", metavar="RUN_OR_MODEL")
@click.argument("data", metavar="[DATA]", required=False)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Project file with the task.")
@click.option("--text", metavar="COLUMN", help="Column with the input.")
@click.option("--label", metavar="COLUMN", help="Column with the label or the answer.")
@click.option("--out", type=click.Path(path_type=Path), help="Parquet file to write the predictions to.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    model: str,
    data: str | None,
    config_file: Path | None,
    text: str | None,
    label: str | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score a model on a file of examples; or, with a run alone, check its numbers.

    With DATA: a model that a run saved, or any other with --config, is scored on every example of DATA. Looks at a
    run's test split are counted in the run.

    Without DATA: every number of the run is computed again from its stored predictions. If all equal report.json,
    the report is written again; if not, they are listed and the exit code is 1.
    """
    if data is None:
        given = {"--config": config_file, "--text": text, "--label": label, "--out": out}
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise click.UsageError(f"{', '.join(useless)}: only with DATA, a file of examples to score the model on.")
        _recheck(Path(model), as_json)
        return
    from tunesmith.config import read_config

    config = read_config(config_file) if config_file is not None else None
    from tunesmith import judge
    from tunesmith.cli.progress import progress

    with progress(quiet) as listener:
        result = judge.evaluate(model, data, config, text=text, label=label, out=out, listener=listener)
    click.echo(json.dumps(result, ensure_ascii=False, indent=2) if as_json else describe(result))
    for run, looks in result["test_looks"].items():
        click.echo(f"note: {run}: its test split has been looked at {looks} times now.", err=True)


def _recheck(folder: Path, as_json: bool) -> None:
    from tunesmith import judge

    result = judge.recheck(folder)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    elif result["equal"]:
        click.echo(
            f"{result['run']}: all {result['numbers']:,} numbers equal those computed again from the predictions. "
            "The report was written again."
        )
    if not result["equal"]:
        count = len(result["differences"])
        click.echo(f"error: {result['run']}: {count:,} values differ from what its predictions say:", err=True)
        for found in result["differences"]:
            click.echo(f"  {found['where']}: reported {found['reported']}, found {found['recomputed']}", err=True)
        click.echo("Nothing was changed. Delete the evaluation.json of these candidates and run again.", err=True)
        raise SystemExit(1)


def describe(result: dict[str, Any]) -> str:
    """The scores as text for a terminal."""
    lines = [f"{result['model']} on {result['n']:,} examples of {result['data']}"]
    lines += [
        f"  {metric:<12} {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
        for metric, value in result["metrics"].items()
    ]
    lines.append(f"  {1000 * result['seconds_per_example']:.1f} ms per answer")
    if result["truncated_answers"]:
        lines.append(f"  {result['truncated_answers']:,} answers were cut at the token limit")
    if result.get("texts_cut"):
        lines.append(f"  {result['texts_cut']:,} texts were longer than the encoder reads, and were cut")
    if result["predictions"]:
        lines.append(f"  predictions: {result['predictions']}")
    return "\n".join(lines)
