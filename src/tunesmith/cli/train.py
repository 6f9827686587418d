"""``tunesmith train``: data, plan and fine-tuning, with the test split left sealed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith.config import FINE_TUNED

if TYPE_CHECKING:
    from tunesmith.config import Config


@click.command("train")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/<name of the config>.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(config_file: Path, out: Path | None, overrides: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Fine-tune the model of CONFIG and save it, without the candidates to compare with.

    That is tune, and tune+rag where CONFIG has rag; every other candidate, setfit too, is left to 'tunesmith run'. The
    test split is not looked at. 'tunesmith run' on the same directory goes on from there.
    """
    from tunesmith.config import read_config

    config = read_config(config_file, overrides)
    folder = out or Path("runs") / config_file.stem
    from tunesmith import workflow
    from tunesmith.cli.progress import progress

    with progress(quiet) as listener:
        trained = workflow.train(config, folder, listener, shlex.join(["tunesmith", *sys.argv[1:]]))
    if as_json:
        click.echo(json.dumps({"run": str(folder), "candidates": trained}, ensure_ascii=False, indent=2))
    else:
        click.echo(describe(trained, config, config_file, folder))
    if any(entry["status"] == "failed" for entry in trained):
        raise SystemExit(1)


def describe(trained: list[dict[str, Any]], config: Config, config_file: Path, folder: Path) -> str:
    """What was trained, where it is, what was not, and what to type next."""
    lines = []
    for entry in trained:
        if entry["status"] != "ok":
            lines.append(f"{entry['id']}: failed: {entry['reason']}")
            continue
        details, fit = entry["details"], entry["overfitting"]
        lines += [
            f"{entry['id']}: validation loss {details['first_validation_loss']:.3f} → "
            f"{details['best_validation_loss']:.3f} at step {fit['best_step']} of {fit['last_step']}, "
            f"{entry['tokens_trained']:,} tokens in {entry['train_seconds']:.0f} s",
            f"  overfitting {fit['verdict']}, forgetting {entry['forgetting'].get('verdict', 'not measured')}",
            f"  {entry['model']}",
        ]
    others = [name for name in config.candidates if name not in FINE_TUNED]
    if others:
        lines.append(f"not fitted here: {', '.join(others)}")
    done = [entry for entry in trained if entry["status"] == "ok"]
    if done:
        lines += ["", "Next:", *_next(done, config, folder)]
        lines.append(f"  tunesmith run {config_file} --out {folder}    # compare it with the alternatives")
    return "\n".join(lines)


def _next(done: list[dict[str, Any]], config: Config, folder: Path) -> list[str]:
    """How to use the first model, and the first of those that expect documents before a question."""
    lines = []
    alone = [entry["model"] for entry in done if "rag" not in entry["details"]]
    if alone:
        lines += [f"  tunesmith chat {alone[0]}", f"  tunesmith evaluate {alone[0]} FILE"]
    for entry in [entry for entry in done if "rag" in entry["details"]][:1]:
        index = config.rag.index if config.rag is not None and config.rag.index else folder / "index"
        retriever = entry["details"]["rag"]["retriever"]
        lines.append(f"  tunesmith rag ask {index} QUESTION --model {entry['model']} --retriever {retriever}")
    return lines
