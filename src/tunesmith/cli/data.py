"""``tunesmith data``: look at data as the model will see it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

DEFAULT_MODEL = "smollm2-135m-instruct"
START, END = "⟦", "⟧"  # around what is trained, where there is no colour


@click.group()
def command() -> None:
    """Look at data as the model will see it."""


@command.command()
@click.argument("source", metavar="CONFIG_OR_FILE")
@click.option("--model", help="Whose tokenizer and chat template; otherwise the project file's.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="Examples to show.")
@click.option("--split", type=click.Choice(["train", "validation"]), default="train", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def preview(source: str, model: str | None, count: int, split: str, as_json: bool) -> None:
    """Show examples rendered through the model's chat template, with the trained tokens marked.

    The test split is not shown: it is kept sealed.
    """
    from tunesmith.data.prepare import prepare_data
    from tunesmith.data.render import Renderer
    from tunesmith.tasks import build_task

    config = _config(source)
    name = model or config.model or DEFAULT_MODEL
    prepared = prepare_data(config.data, config.task.kind, config.seed)
    tokenizer = _tokenizer(name)
    limit = config.train.max_length or int(min(tokenizer.model_max_length, 1 << 20))
    renderer = Renderer(tokenizer, limit, config.train.train_on)
    chosen = getattr(prepared.split, split)[:count]
    task = build_task(config.task, prepared.labels, prepared.instruction)
    shown = [(example, renderer.render(task.messages(example), example.id)) for example in chosen]
    if as_json:
        click.echo(json.dumps(_as_json(config, prepared, name, tokenizer, shown), ensure_ascii=False, indent=2))
        return
    sizes = ", ".join(f"{len(getattr(prepared.split, s))} {s}" for s in ("train", "validation", "test"))
    click.echo(f"{source}: {prepared.files['train'].format} layout, {sizes}; rendered for {name}.", err=True)
    for finding in prepared.findings:
        click.echo(f"{finding.severity}: {finding.message}", err=True)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for example, rendered in shown:
        trained = sum(label >= 0 for label in rendered.labels)
        over = f", over the limit of {limit}" if len(rendered.labels) > limit else ""
        click.echo(f"── {example.source} · {len(rendered.labels)} tokens, {trained} trained{over}")
        click.echo("".join(_marked(text, on, colour) for text, on in _spans(tokenizer, rendered)))


def _config(source: str) -> Any:
    """A project file, or the settings that fit a plain data file."""
    from itertools import islice

    from tunesmith.config import parse_config, read_config
    from tunesmith.data.read import BadRow, read_rows
    from tunesmith.data.read.formats import REQUIRED
    from tunesmith.sources import resolve_file

    if source.endswith((".yaml", ".yml")):
        return read_config(Path(source))
    rows = [row for _, row in islice(read_rows(resolve_file(source)), 100) if not isinstance(row, BadRow)]
    columns = {column for row in rows for column in row}
    known = any(columns.issuperset(required) for required in REQUIRED.values())
    kind = "generation" if known else "classification"
    return parse_config({"task": kind, "data": {"train": source, "policy": "skip"}}, source)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from tunesmith.sources import resolve_model

    return AutoTokenizer.from_pretrained(resolve_model(name).path, local_files_only=True)


def _spans(tokenizer: Any, rendered: Any) -> list[tuple[str, bool]]:
    """Pieces of text that are trained, or not, in turn."""
    spans: list[tuple[str, bool]] = []
    start = 0
    flags = [label >= 0 for label in rendered.labels]
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            spans.append((tokenizer.decode(rendered.input_ids[start:at]), flags[start]))
            start = at
    return spans


def _marked(text: str, trained: bool, colour: bool) -> str:
    safe = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)  # no terminal escapes
    if not trained:
        return safe
    return click.style(safe, fg="green", bold=True) if colour else f"{START}{safe}{END}"


def _as_json(config: Any, prepared: Any, model: str, tokenizer: Any, shown: Any) -> dict[str, Any]:
    return {
        "format_version": 1,
        "task": config.task.kind,
        "format": prepared.files["train"].format,
        "model": model,
        "splits": {s: len(getattr(prepared.split, s)) for s in ("train", "validation", "test")},
        "findings": [finding.to_json() for finding in prepared.findings],
        "examples": [
            {
                "source": example.source,
                "id": example.id,
                "tokens": len(rendered.input_ids),
                "trained_tokens": sum(label >= 0 for label in rendered.labels),
                "prompt_length": rendered.prompt_length,
                "input_ids": rendered.input_ids,
                "labels": rendered.labels,
                "spans": [{"text": text, "trained": on} for text, on in _spans(tokenizer, rendered)],
            }
            for example, rendered in shown
        ],
    }
