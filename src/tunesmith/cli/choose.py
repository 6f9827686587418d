"""``tunesmith choose``: which pretrained model to tune, without tuning any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tunesmith.cli.plan import columns, duration


@click.command("choose")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--models", metavar="LIST", help="Models to look at, with commas; default: the catalog's, and the project's."
)
@click.option(
    "--licence", "licences", multiple=True, metavar="NAME", help="What a licence may begin with; may be repeated."
)
@click.option("--language", metavar="CODE", help="Language of the texts, such as en.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. seed=1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    config_file: Path, models: str | None, licences: tuple[str, ...], language: str | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Rank pretrained models for the project in CONFIG, by scores of their frozen features on at most 2,000 examples.

    Models are first filtered by kind, licence, language, length and memory. The test examples are not looked at, and
    nothing is trained or written.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    from tunesmith.cli.progress import progress
    from tunesmith.search.choose import choose_model

    names = [name.strip() for name in models.split(",") if name.strip()] if models else []
    with progress(quiet) as listener:
        report = choose_model(config, listener, names, licences, language)
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else describe(report, config_file))


def describe(report: dict[str, Any], config_file: Path) -> str:
    """The ranked models side by side, the rejected ones, the choice and what the next size would buy."""
    labels = report["task"] == "classification"
    unit, factor = (" points", 100) if labels else ("", 1)
    table: list[tuple[str, ...]] = [(
        "model", "accuracy of the probe" if labels else "− loss of the probe", "to the best", "H-score", "LogME",
        "zero-shot", "parameters", "tokens a word", "per text", "tuning: memory", "an epoch", "licence",
    )]  # fmt: skip
    for row in report["ranked"]:
        best, zero = row["to_best"], row["zero_shot"]
        table.append((
            row["name"] + (" ←" if row["name"] == report["choice"] else ""), f"{row['probe']['score']:.3f}",
            f"{factor * best['low']:+.1f} to {factor * best['high']:+.1f}", f"{row['h_score']:.2f}",
            f"{row['logme']:.3f}",
            f"{zero['score']:.3f}" if "score" in zero else "not run", f"{row['parameters'] / 1e6:,.0f} M",
            f"{row['tokens_per_word']:.2f}", f"{1000 * row['seconds_per_text']:.1f} ms",
            f"{row['tuning']['memory_bytes'] / 2**30:.1f} GiB", duration(row["tuning"]["seconds_per_epoch"]),
            row["licence"] or "not known",
        ))  # fmt: skip
    lines = [*columns(table), ""]
    lines += [f"rejected  {row['name']}: {'; '.join(row['reasons'])}" for row in report["rejected"]]
    lines += ["", f"Choice: {report['choice']}, {report['reason']}."]
    if (larger := report["next_size"]) is not None:
        low, high = factor * larger["low"], factor * larger["high"]
        lines.append(f"The next size, {larger['name']}, would change {low:+.1f} to {high:+.1f}{unit}, by the probe.")
    data = report["data"]
    lines.append(
        f"Chosen on {data['train']:,} training and {data['validation']:,} validation examples in "
        f"{duration(report['seconds'])}; no model was trained, so 'tunesmith run' has the last word."
    )
    return "\n".join([*lines, "", "Next:", f"  tunesmith run {config_file} --set model={report['choice']}"])
