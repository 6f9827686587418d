"""``tunesmith chat``: talk to a model in the terminal, or ask a trained one its task."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tunesmith.candidates.predictor import SavedPredictor
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel
    from tunesmith.records import Example, Message, Prediction
    from tunesmith.tasks import Task

LEAVE = "/exit or Ctrl-D leaves, Ctrl-C stops an answer."
LISTED = 5  # labels shown with their probabilities, the likeliest first
CONVERSATION_TOKENS = 256  # the longest answer, where no task says it


@click.command("chat")
@click.argument("model")
@click.option("--system", metavar="TEXT", help="System prompt; default: what the model was trained with.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 8192),
    help=f"Longest answer; default: the task's, in a conversation {CONVERSATION_TOKENS}.",
)  # fmt: skip
@click.option("--message", metavar="TEXT", help="Answer this once and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --message: print JSON.")
def command(model: str, system: str | None, max_new_tokens: int | None, message: str | None, as_json: bool) -> None:
    """Talk to MODEL: a catalog name, a path, hf:owner/name, or a run, which stands for the model it chose.

    A decoder trained for conversations or preferences, on several tasks, or not at all holds a conversation. Any
    other model, and a predictor on vectors (embedding, setfit), is asked line by line, as in evaluation: a text, a row
    of its table (JSON, column=value pairs, or the values between commas), an image's path, or an image's path and a
    question. Labels come with their probabilities.

    Answers are greedy, as in evaluation: the same conversation gives the same answer.
    """
    if as_json and message is None:
        raise click.UsageError("--json: only with --message, which answers once.")
    from tunesmith.run import saved_model, saved_predictor

    kept = saved_predictor(model)
    name = saved_model(model) if kept is None else str(kept)
    if kept is None:
        _refuse_untrained(name)
    from tunesmith.candidates.predictor import SavedPredictor, load_predictor
    from tunesmith.model.load import load_model

    click.echo(f"loading {name} …", err=True)
    asked = load_model(name) if kept is None else load_predictor(kept)
    _say_which(Path(model).expanduser(), Path(name), asked.origin)
    talk: Conversation | Questions
    if isinstance(asked, SavedPredictor) or not _converses(asked):
        talk = Questions(asked, name, system, max_new_tokens)
    else:
        talk = Conversation(asked, system, max_new_tokens or CONVERSATION_TOKENS)
    if message is not None:
        reply = talk.ask(message, quiet=as_json)
        if as_json:
            click.echo(json.dumps({"model": name, **reply}, ensure_ascii=False, indent=2))
        if reply["stopped"]:
            raise KeyboardInterrupt
        return
    click.echo(f"{name}. {talk.help} {LEAVE}", err=True)
    read_lines(talk)


def _refuse_untrained(name: str) -> None:
    """A base model of a kind that says nothing before it is trained for a task."""
    from tunesmith.errors import ModelError
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import ADAPTER_CONFIG, is_saved
    from tunesmith.sources import resolve_model

    if is_saved(name) or (Path(name).expanduser() / ADAPTER_CONFIG).is_file():
        return
    if (kind := architecture(resolve_model(name))) != "decoder":
        raise ModelError(
            f"{name}: a model of kind {kind} that was not trained for a task holds no conversation. Give a trained "
            "one, or a decoder; 'tunesmith evaluate --config' asks it a task."
        )


def _say_which(folder: Path, saved: Path, origin: dict[str, Any]) -> None:
    """Of a run, which candidate is asked: the verdict's choice, or its only fine-tuned model."""
    from tunesmith.run import Run, read_json

    if not (folder / "run.yaml").is_file():
        return
    run = Run.open(folder)
    choice = read_json(run.report_file)["verdict"]["choice"]
    if choice and run.candidate(choice) in (saved, saved.parent):
        click.echo(f"asking {choice}, which the verdict chose.", err=True)
        return
    chosen = f"the verdict is {choice or 'no candidate'}"
    click.echo(f"note: asking {origin.get('candidate', saved)}, the only fine-tuned model; {chosen}.", err=True)


def _converses(lm: LanguageModel) -> bool:
    """Whether a model is talked to, and not asked its task line by line.

    So is a decoder that was saved before the layout of its data was.
    """
    if lm.interface not in ("causal", "preference"):
        return False
    kind = lm.origin.get("task", {}).get("kind", "generation")
    several = len(lm.origin.get("parts", ())) > 1
    return kind in ("generation", "preference") or several or "data" not in lm.origin


def read_lines(talk: Conversation | Questions) -> None:
    """Read lines from the terminal, or a pipe, and answer each until the end."""
    from tunesmith.errors import DataError

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
            click.echo(f"\n{talk.help} {LEAVE}", err=True)
            continue
        if said in ("/exit", "/quit"):
            return
        if said == "/reset":
            click.echo(talk.reset(), err=True)
        elif said.startswith("/") and not talk.may_begin(said):
            click.echo(f"no command '{said}'. {talk.help} {LEAVE}", err=True)
        elif said:
            try:
                reply = talk.ask(said)
            except DataError as error:
                click.echo(f"error: {error}", err=True)
                continue
            if reply["stopped"] or reply["truncated"]:
                cut = f"(cut at {talk.max_new_tokens} tokens)"
                click.echo("(stopped)" if reply["stopped"] else cut, err=True)


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────
class Conversation:
    """What was said to a decoder so far; a turn is shown piece by piece while it is written."""

    help = "/reset forgets the conversation,"

    def __init__(self, lm: LanguageModel, system: str | None, max_new_tokens: int) -> None:
        from tunesmith.data.render import Renderer
        from tunesmith.records import Message

        lm.model.set_attn_implementation("sdpa")  # which decodes with a cache
        self.lm, self.max_new_tokens = lm, max_new_tokens
        self.renderer = Renderer(lm.tokenizer, lm.max_length)
        if not self.renderer.has_template:
            click.echo(
                "note: a base model without chat template; it is shown plain text and goes on from it.", err=True
            )
        system = system if system is not None else lm.origin.get("instruction")
        self._opening = [Message("system", system)] if system else []
        self._turns = list(self._opening)

    def ask(self, said: str, quiet: bool = False) -> dict[str, Any]:
        """The model's next turn, which is shown unless ``quiet`` and remembered.

        Raises:
            DataError: If the conversation leaves no room for an answer, or holds the model's control tokens.
        """
        from tunesmith.records import Message

        asked = [*self._turns, Message("user", said)]
        show: Callable[[str], None] = (lambda text: None) if quiet else _show
        reply = answer(self.lm, self.renderer, asked, self.max_new_tokens, show)
        if not quiet:
            click.echo()
        self._turns = [*asked, Message("assistant", reply["answer"])]
        return reply

    def reset(self) -> str:
        """Forget what was said; returns the sentence that says so."""
        self._turns = list(self._opening)
        return "the conversation is forgotten."

    def may_begin(self, line: str) -> bool:
        """Whether a line that begins with a slash is something said."""
        return False


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


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────
class Questions:
    """A trained model or predictor that is asked its task, each line by itself, as the task's own evaluation asks.

    Raises:
        ModelError: If what it was trained on was not saved with it.
        UsageError: If an option is given that its answers do not depend on.
    """

    def __init__(
        self, asked: LanguageModel | SavedPredictor, name: str, system: str | None, max_new_tokens: int | None
    ) -> None:
        from tunesmith.candidates.predictor import SavedPredictor
        from tunesmith.data.read.typed import TypedForm
        from tunesmith.errors import ModelError
        from tunesmith.judge import saved_layout, saved_task

        layout = saved_layout(name, asked.origin)
        if layout is None or "task" not in asked.origin:
            raise ModelError(
                f"{name}: was saved without its task and the layout of its data, so a line cannot be read as one of "
                "its examples. Train it again with this version; 'tunesmith evaluate --config' still scores it."
            )
        task: Any = saved_task(name, asked.origin)
        read_alone = isinstance(asked, SavedPredictor) or asked.interface == "head"
        useless = [
            option
            for option, value, fits in (
                ("--system", system, not read_alone),
                ("--max-new-tokens", max_new_tokens, hasattr(task, "max_new_tokens")),
            )
            if value is not None and not fits
        ]
        if useless:
            raise click.UsageError(f"{', '.join(useless)}: its task, {task.kind}, is not asked in such a way.")
        given = {"instruction": system, "max_new_tokens": max_new_tokens}
        self.task = replace(task, **{key: value for key, value in given.items() if value is not None})
        self.asked, self.name = asked, name
        self._image: str | None = None
        self.max_new_tokens = getattr(self.task, "max_new_tokens", 0)
        blank = {"classification": next(iter(task.labels), ""), "multi_label": "", "regression": "0"}
        sees = task.kind == "image_text" or layout.image is not None
        columns = tuple(asked.origin.get("columns", ()))
        self._form = TypedForm(task.kind, blank.get(task.kind, "-"), columns, layout.template, sees)
        self.help = self._form.help

    def ask(self, said: str, quiet: bool = False) -> dict[str, Any]:
        """The task's prediction for a line, which is shown unless ``quiet``.

        Raises:
            DataError: If the line is no example of the task, or too long for a model; a predictor's encoder cuts it,
                which is said.
        """
        from tunesmith.data.read.typed import read_typed

        example = read_typed(said, self._form, self._image)
        if example.messages:  # a question; another one may follow about the same image
            self._image = example.image
        try:
            found = self._predict(example)
        except KeyboardInterrupt:
            return {"answer": None, "stopped": True, "truncated": False}
        if not quiet:
            _show(in_words(found, self.task) + "\n")
        return to_json(found, self.task)

    def _predict(self, example: Example) -> Prediction:
        from tunesmith.candidates.predictor import SavedPredictor

        if isinstance(self.asked, SavedPredictor):
            cut_before = self.asked.texts_cut
            (found,) = self.asked.predict([example])
            if self.asked.texts_cut > cut_before:
                click.echo("note: the line is longer than the encoder reads; its end was cut off.", err=True)
            return found
        self._refuse_overlong(self.asked, example)
        (found,) = self.task.predict(self.asked, [example], self.name)
        return found

    def _refuse_overlong(self, lm: LanguageModel, example: Example) -> None:
        from tunesmith.cli.data import longest_reading
        from tunesmith.errors import DataError
        from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

        encode = OBJECTIVES[lm.interface].encode
        ((item,), _) = encode(self.task, lm.tokenizer, [example], EncodeSettings(sys.maxsize))
        if (tokens := longest_reading(item)) > lm.max_length:
            raise DataError(f"the line has {tokens:,} tokens; the model takes {lm.max_length:,}. Shorten it.")

    def reset(self) -> str:
        """Forget the image; returns the sentence that says so."""
        had, self._image = self._image, None
        return "the image is forgotten." if had else "nothing to forget: each line is asked by itself."

    def may_begin(self, line: str) -> bool:
        """Whether a line that begins with a slash is an absolute path, not a command."""
        return self._form.sees


def to_json(found: Prediction, task: Task) -> dict[str, Any]:
    """A prediction for machines; ``answer`` is a label, a list of labels, a number or a text."""
    answers: dict[str, Callable[[str], Any]] = {"multi_label": _labels, "regression": float}
    shares = {"probabilities": dict(zip(task.labels, found.probabilities, strict=True))} if found.probabilities else {}
    return {
        "task": task.kind, "answer": answers.get(task.kind, str)(found.prediction), **shares,
        "prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens,
        "seconds": round(found.seconds, 3), "stopped": False, "truncated": found.truncated,
    }  # fmt: skip


def in_words(found: Prediction, task: Task) -> str:
    """A prediction on a line: a text, a number, or labels with the likeliest ones' probabilities behind."""
    if task.kind == "regression":
        return f"{float(found.prediction):.6g}"
    said = ", ".join(_labels(found.prediction)) or "none" if task.kind == "multi_label" else found.prediction
    words = getattr(task, "words", {})
    if words.get(said, said) != said.replace("_", " "):  # the project file names it: 1 is sarcastic
        said = f"{said}, {words[said]}"
    if found.probabilities is None:
        return said
    ranked = sorted(zip(task.labels, found.probabilities, strict=True), key=lambda pair: -pair[1])
    more = ", …" if len(ranked) > LISTED else ""
    return f"{said}  ({', '.join(f'{label} {share:.3f}' for label, share in ranked[:LISTED])}{more})"


def _labels(joined: str) -> list[str]:
    from tunesmith.records import LABEL_SEPARATOR

    return [label for label in joined.split(LABEL_SEPARATOR) if label]


def _show(text: str) -> None:
    safe = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)  # no terminal escapes
    click.echo(safe, nl=False)
