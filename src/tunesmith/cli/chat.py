"""``tunesmith chat``: talk to a model in the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel
    from tunesmith.records import Message

HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer."


@click.command("chat")
@click.argument("model")
@click.option("--system", metavar="TEXT", help="System prompt; default: what the model was trained with.")
@click.option("--max-new-tokens", type=click.IntRange(1, 8192), default=256, show_default=True, help="Longest answer.")
@click.option("--message", metavar="TEXT", help="Answer this once and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --message: print JSON.")
def command(model: str, system: str | None, max_new_tokens: int, message: str | None, as_json: bool) -> None:
    """Talk to MODEL: a catalog name, a path, hf:owner/name, or a run, which stands for the model it chose.

    Answers are greedy, as in evaluation: the same conversation gives the same answer.
    """
    if as_json and message is None:
        raise click.UsageError("--json: only with --message, which answers once.")
    from tunesmith.run import saved_model

    name = saved_model(model)
    from tunesmith.data.render import Renderer
    from tunesmith.errors import ModelError
    from tunesmith.model.load import load_model
    from tunesmith.records import Message

    click.echo(f"loading {name} …", err=True)
    lm = load_model(name)
    if lm.interface not in ("causal", "preference"):
        raise ModelError(f"{name}: a model of kind {lm.interface} holds no conversation. 'tunesmith evaluate' asks it.")
    lm.model.set_attn_implementation("sdpa")  # which decodes with a cache
    renderer = Renderer(lm.tokenizer, lm.max_length)
    if not renderer.has_template:
        click.echo("note: a base model without chat template; it is shown plain text and goes on from it.", err=True)
    system = system if system is not None else lm.origin.get("instruction")
    opening = [Message("system", system)] if system else []
    if message is not None:
        show: Callable[[str], None] = (lambda text: None) if as_json else _show
        reply = answer(lm, renderer, [*opening, Message("user", message)], max_new_tokens, show)
        click.echo(json.dumps({"model": name, **reply}, ensure_ascii=False, indent=2) if as_json else "")
        if reply["stopped"]:
            raise KeyboardInterrupt
        return
    click.echo(f"{name}. {HELP}", err=True)
    converse(lm, renderer, opening, max_new_tokens)


def converse(lm: LanguageModel, renderer: Renderer, opening: list[Message], max_new_tokens: int) -> None:
    """Read messages from the terminal, or a pipe, and answer each until the end."""
    from tunesmith.errors import DataError
    from tunesmith.records import Message

    turns = list(opening)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        import readline  # noqa: F401  # input() gets line editing by its import alone
    while True:
        try:
            said = input("> " if at_terminal else "").strip()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo(f"\n{HELP}", err=True)
            continue
        if said in ("/exit", "/quit"):
            return
        if said == "/reset":
            turns = list(opening)
            click.echo("the conversation is forgotten.", err=True)
        elif said.startswith("/"):
            click.echo(f"no command '{said}'. {HELP}", err=True)
        elif said:
            asked = [*turns, Message("user", said)]
            try:
                reply = answer(lm, renderer, asked, max_new_tokens, _show)
            except DataError as error:
                click.echo(f"error: {error}", err=True)
                continue
            click.echo()
            if reply["stopped"] or reply["truncated"]:
                click.echo("(stopped)" if reply["stopped"] else f"(cut at {max_new_tokens} tokens)", err=True)
            turns = [*asked, Message("assistant", reply["answer"])]


def answer(
    lm: LanguageModel,
    renderer: Renderer,
    turns: list[Message],
    max_new_tokens: int,
    show: Callable[[str], None],
) -> dict[str, Any]:
    """The model's next turn, shown piece by piece while it is written; Ctrl-C ends it early.

    Raises:
        DataError: If the conversation leaves no room for an answer, or holds the model's control tokens.
    """
    import torch
    from transformers import TextStreamer

    from tunesmith.errors import DataError
    from tunesmith.model.generate import end_tokens

    prompt = renderer.prompt(tuple(turns))
    room = lm.max_length - len(prompt)
    if room < 1:
        raise DataError(f"the conversation has {len(prompt):,} tokens; the model takes {lm.max_length:,}. Use /reset.")
    pieces: list[str] = []

    class Shown(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)
            show(text)

    ids = torch.tensor([prompt], device=lm.device)
    streamer = Shown(lm.tokenizer, skip_prompt=True, skip_special_tokens=True)
    ends, started, stopped = end_tokens(lm), time.monotonic(), False
    written: list[int] = []
    try:
        with torch.no_grad():
            out = lm.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=min(max_new_tokens, room),
                do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                eos_token_id=ends, pad_token_id=lm.tokenizer.pad_token_id, streamer=streamer,
            )  # fmt: skip
        written = out[0, len(prompt) :].tolist()
    except KeyboardInterrupt:
        stopped = True
    return {
        "answer": "".join(pieces).strip(), "prompt_tokens": len(prompt), "completion_tokens": len(written),
        "seconds": round(time.monotonic() - started, 3), "stopped": stopped,
        "truncated": not stopped and not (written and written[-1] in ends),
    }  # fmt: skip


def _show(text: str) -> None:
    safe = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)  # no terminal escapes
    click.echo(safe, nl=False)
