"""``tunesmith data``: look at data as the model will see it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

DEFAULT_MODEL = "smollm2-135m-instruct"
START, AGAINST, END = "⟦", "⟦not: ", "⟧"  # around what is trained, where there is no colour


@click.group()
def command() -> None:
    """Look at data as the model will see it."""


@command.command()
@click.argument("source", metavar="CONFIG_OR_FILE")
@click.option("--model", help="Whose tokenizer and chat template; otherwise the project file's.")
@click.option("--method", help="One of the project file's methods; otherwise its first.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="Examples to show.")
@click.option("--split", type=click.Choice(["train", "validation"]), default="train", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def preview(source: str, model: str | None, method: str | None, count: int, split: str, as_json: bool) -> None:
    """Show examples as the model reads them, with what is trained marked.

    Conversations through the chat template with their trained tokens; pairs with the answer that is preferred and the
    one that is not; source and target of an encoder-decoder; the text or image and the target of a head.

    The test split is not shown: it is kept sealed.
    """
    from tunesmith.data.check import settings_for
    from tunesmith.data.prepare import prepare_data
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import load_tokenizer
    from tunesmith.plan.facts import context_length
    from tunesmith.sources import resolve_model
    from tunesmith.tasks import build_task
    from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

    config = settings_for(source)
    name = model or config.model or DEFAULT_MODEL
    prepared = prepare_data(config.data, config.task.kind, config.seed, config.fairness.copied)
    task = build_task(config.task, prepared.labels, prepared.instruction)
    folder = resolve_model(name)
    kind = architecture(folder)
    interface = task.interface(kind, _method(config, method))
    tokenizer = load_tokenizer(folder, kind)
    limit = config.train.max_length or context_length(folder)
    chosen = getattr(prepared.split, split)[:count]
    # encoded without a limit, so that one that is too long is shown, and named as such
    items, _ = OBJECTIVES[interface].encode(task, tokenizer, chosen, EncodeSettings(sys.maxsize, config.train.train_on))
    shown = [(example, item, _pieces(interface, tokenizer, example, item))
             for example, item in zip(chosen, items, strict=True)]  # fmt: skip
    if as_json:
        click.echo(json.dumps(_as_json(config, prepared, name, interface, shown), ensure_ascii=False, indent=2))
        return
    sizes = ", ".join(f"{len(getattr(prepared.split, s))} {s}" for s in ("train", "validation", "test"))
    click.echo(f"{source}: {prepared.files['train'].format} layout, {sizes}; rendered for {name}.", err=True)
    for finding in prepared.findings:
        click.echo(f"{finding.severity}: {finding.message}", err=True)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for example, item, pieces in shown:
        over = f", over the limit of {limit:,}" if longest_reading(item) > limit else ""
        click.echo(f"── {example.source} · {_counts(item)}{over}")
        click.echo("".join(_marked(piece, colour) for piece in pieces))


@command.command("clean")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The new file.")
@click.option(
    "--fix", "fixes", multiple=True, metavar="CHECK", help="A check whose findings are mended; several times."
)
@click.option("--test", metavar="FILE", help="Held-out examples: rows that stand there go (split_leakage).")
@click.option("--pseudonyms", is_flag=True, help="Made-up values in place of personal ones, instead of masks.")
@click.option("--review", type=click.Path(path_type=Path), help="JSON Lines of what you decided of single rows.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="LOG", help="Make a log's changes again, to FILE.")
@click.option(
    "--undo", type=click.Path(path_type=Path), metavar="LOG", help="Undo a log's changes to the cleaned FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def clean_command(
    source: Path,
    out: Path,
    fixes: tuple[str, ...],
    test: str | None,
    pseudonyms: bool,
    review: Path | None,
    replay: Path | None,
    undo: Path | None,
    as_json: bool,
) -> None:
    """Write a JSON Lines file without what is wrong with it, and a log of every change; FILE itself stays as it is.

    Left alone, it drops exact duplicates, rows that say nothing and (with --test) rows of the test set, and undoes
    broken characters. --fix names others: near_duplicates, personal_information, secrets. Nothing goes because it looks
    suspicious: write what you decide of such rows into a file for --review, as {"row": 12, "label": "new"} or
    {"row": 12, "drop": true}.

    The log, OUT.changes.jsonl, holds the lines as they were; with it, --undo gives FILE back byte for byte.
    """
    from tunesmith.data.clean import FIXES, USUAL, clean
    from tunesmith.data.clean import replay as apply_log

    unknown = [name for name in fixes if name not in FIXES]
    if unknown:
        raise click.UsageError(f"--fix {unknown[0]}: cannot be mended without you. Known are {', '.join(FIXES)}.")
    log = replay or undo
    if log is not None:
        if fixes or test or pseudonyms or review or (replay and undo):
            raise click.UsageError("--replay and --undo: each alone, with FILE and -o.")
        apply_log(log, source, out, undo is not None)
        done = "restored" if undo else "cleaned"
        click.echo(json.dumps({"out": str(out), "done": done}) if as_json else f"{out}: {done}, as the log says.")
        return
    told = clean(source, out, fixes or USUAL, test, pseudonyms, review)
    if as_json:
        click.echo(json.dumps({"out": str(out), **told}))
        return
    by_check = ", ".join(f"{name} {n:,}" for name, n in told["by_check"].items()) or "nothing to mend"
    click.echo(f"{out}: {told['rows']:,} rows, {told['dropped']:,} left out, {told['edited']:,} changed ({by_check}).")
    click.echo(f"Every change stands in {told['log']}, with the lines as they were.")


def _method(config: Any, asked: str | None) -> str:
    """The method whose way of training is shown.

    Raises:
        ConfigError: If the project file does not name it.
    """
    from tunesmith.errors import ConfigError

    kinds = [method.kind for method in config.method]
    if asked is None:
        return str(kinds[0])
    if asked not in kinds:
        raise ConfigError(f"--method {asked}: not a method of this project ({', '.join(kinds)}). Name one of them.")
    return asked


class Piece(NamedTuple):
    """A piece of what the model reads or learns. ``role``: read, trained, against (an answer not preferred), target."""

    text: str
    role: str

    @property
    def trained(self) -> bool:
        return self.role != "read"


def _pieces(interface: str, tokenizer: Any, example: Any, item: Any) -> list[Piece]:
    """An item of an objective, decoded: what is read, and what is learned, in turn."""
    text = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's
    if interface == "head":
        read = example.image or text.decode(item.inputs)
        return [Piece(f"{read}\n", "read"), Piece(example.answer, "target")]
    if interface == "seq2seq":
        return [Piece(f"{text.decode(item.source)}\n", "read"), Piece(text.decode(item.target), "trained")]
    if interface == "preference":
        sides = ((item.prompt, "read"), (item.chosen, "trained"), (item.rejected, "against"))
        return [Piece(text.decode(list(ids)), role) for ids, role in sides]
    pieces = [Piece(f"{item.image}\n", "read")] if interface == "image_text" else []
    flags = [label >= 0 for label in item.labels]
    start = 0
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            pieces.append(Piece(text.decode(item.input_ids[start:at]), "trained" if flags[start] else "read"))
            start = at
    return pieces


def longest_reading(item: Any) -> int:
    """Tokens in one reading of the model: a pair's longer answer, an encoder-decoder's longer side."""
    if hasattr(item, "source"):
        return max(len(item.source), len(item.target))
    return int(getattr(item, "longest", item.tokens))


def _counts(item: Any) -> str:
    if hasattr(item, "rejected"):
        return f"{item.tokens:,} tokens, {len(item.chosen)} preferred to {len(item.rejected)}"
    if hasattr(item, "target"):
        return f"{item.tokens:,} tokens, {item.units} trained" if hasattr(item, "source") else (
            f"{item.tokens:,} tokens, one target" if not isinstance(item.inputs, str) else "an image, one target"
        )  # fmt: skip
    return f"{item.tokens:,} tokens, {item.units} trained"


def _marked(piece: Piece, colour: bool) -> str:
    safe = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in piece.text)  # no terminal escapes
    if piece.role == "read":
        return safe
    if piece.role == "against":
        return "\n" + (click.style(safe, fg="red", strikethrough=True) if colour else f"{AGAINST}{safe}{END}")
    return click.style(safe, fg="green", bold=True) if colour else f"{START}{safe}{END}"


def _as_json(config: Any, prepared: Any, model: str, interface: str, shown: Any) -> dict[str, Any]:
    return {
        "format_version": 1,
        "task": config.task.kind,
        "format": prepared.files["train"].format,
        "model": model,
        "interface": interface,
        "splits": {s: len(getattr(prepared.split, s)) for s in ("train", "validation", "test")},
        "findings": [finding.to_json() for finding in prepared.findings],
        "examples": [
            {
                "source": example.source,
                "id": example.id,
                "tokens": item.tokens,
                "trained_units": item.units,
                **({"input_ids": list(item.input_ids), "labels": list(item.labels)}
                   if hasattr(item, "input_ids") else {}),
                "spans": [{"text": p.text, "trained": p.trained, "role": p.role} for p in pieces],
            }
            for example, item, pieces in shown
        ],
    }  # fmt: skip
