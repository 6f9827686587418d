"""Writes the reference pages that follow from the code: config.md from the settings, cli.md from the commands.

    python docs/build.py

A test compares the pages with what this writes.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/build.py; change the code instead. -->"
GROUPS = (
    ("The project file", "Config", "The top of the file. A group may be left out where all its settings may."),
    ("data", "Data", "What is learned from, and how it is read."),
    ("task, kind: classification", "Classification", "Short form: `task: classification`."),
    ("task, kind: multi_label", "MultiLabel", "Any number of labels for each text. Short form: `task: multi_label`."),
    ("task, kind: regression", "Regression", "A number for each text. Short form: `task: regression`."),
    ("task, kind: generation", "Generation", "Short form: `task: generation`."),
    ("task, kind: translation", "Translation", "Text to text. Short form: `task: translation`."),
    ("task, kind: preference", "Preference", "Pairs of a better and a worse answer. Short form: `task: preference`."),
    ("task, kind: image_text", "ImageText", "A question about an image. Short form: `task: image_text`."),
    ("method, kind: lora", "Lora", "Short form: `method: lora`. Several methods: `method: [lora, full]`."),
    ("method, kind: qlora", "Qlora", "Short form: `method: qlora`. Needs the extra `qlora`."),
    ("method, kind: full", "Full", "Short form: `method: full`. It has no settings of its own."),
    ("method, kind: head", "Head", "Short form: `method: head`."),
    ("method, kind: gradual", "Gradual", "Short form: `method: gradual`."),
    ("train", "Train", "How training goes. What is left out is chosen by the plan, which says why."),
    ("budget", "Budget", "Bounds the epochs that the plan chooses; a `train.epochs` that you write stands."),
    ("forgetting", "Forgetting", "What the base model and the tuned one are asked, to tell what was lost: "
     "[costs](costs.md#forgetting). Short form: `forgetting: quick`."),
    ("guardrails", "Guardrails", "The worst that a fine-tuned candidate (of bias, any) may show and still be "
     "chosen; one beyond it is excluded by name, one that was not measured is never called certain."),
    ("fairness", "Fairness", "Bias looked into further; nothing of it is done unless asked for."),
    ("prices", "Prices", "With them, the report says what each candidate costs in money."),
    ("rag", "Rag", "Documents for task generation: candidates that look answers up in them."),
    ("remedies", "Remedies", "What training does to keep what the base model could do, for decoders that learn text; "
     "each is off unless it is given: [remedies against forgetting](../howto/forgetting-remedies.md)."),
    ("tasks: several at once", "TaskPart", "Instead of `task` and `data`, a mapping of names to tasks, each with its "
     "own `data` beside its settings: `tasks: {mood: {kind: classification, data: {train: mood.csv}}, …}`."),
    ("mixing", "Mixing", "How often each task is drawn, where no weights are given."),
    ("stages: one after another", "Stage", "Instead of `task` and `data`, a list of stages; `joint: false` beside it "
     "leaves out the comparison with training on all at once."),
)  # fmt: skip
MEANINGS = {  # of the groups, whose fields have descriptions instead
    "task": "What goes in and out.",
    "data": "What is learned from.",
    "train": "How training goes.",
    "tasks": "Several tasks for this stage, as in a mixture.",
    "mixing": "How often each of them is drawn.",
    "budget": "What the run may cost.",
    "forgetting": "What is asked to tell what the model lost, and a guard on training.",
    "guardrails": "What excludes a fine-tuned candidate.",
    "fairness": "Swapped texts, remedies against bias.",
    "rag": "Documents that answers are looked up in.",
    "remedies": "What is done against forgetting.",
}
CLOSING = """## In the shell

`--set key=value` overrides a setting for one run: `tunesmith run project.yaml --set train.epochs=1 --set method=full`.
Values are YAML. An unknown setting is refused, with the nearest known one named; all problems are said at once.

A relative path under `data`, `rag`, `forgetting`, `fairness.swaps` or `remedies.replay_from` is looked up beside the
project file first, then in the working directory.
"""


def config_page() -> str:
    """The page of all settings."""
    from tunesmith import config

    lines = ["# Settings", "", NOTE, "", "Every setting of a project file. Where the default is –, it is chosen for"]
    lines += ["you from the data, the model and the machine; `tunesmith plan` shows what and why.", ""]
    for title, name, text in GROUPS:
        lines += [f"## {title}", "", text, ""]
        fields = {key: field for key, field in getattr(config, name).model_fields.items() if key != "kind"}
        if fields:
            lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
        for key, field in fields.items():
            value = _type(field.annotation, field.metadata)
            meaning = field.description or MEANINGS[key]
            lines.append(f"| `{key}` | {value} | {_default(field)} | {meaning} |")
        lines += [""] * bool(fields)
    return "\n".join([*lines, CLOSING])


def _type(annotation: Any, metadata: list[Any]) -> str:
    """What may be written, in words."""
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0], metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if all(hasattr(part, "model_fields") for part in parts):
            return "a kind below"
        return " or ".join(_type(part, metadata) for part in parts)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        inner = _type(get_args(annotation)[0], [])
        return f"{inner}, or a list" if inner == "a kind below" else f"list of {inner}"
    if get_origin(annotation) is dict:
        return "mapping of names to tasks" if "TaskPart" in str(annotation) else "mapping of text to text"
    if hasattr(annotation, "model_fields"):
        return "group below"
    word = {str: "text", int: "whole number", float: "number", bool: "true, false"}[annotation]
    signs = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
    bounds = [f"{sign} {getattr(item, name):g}" for item in metadata for name, sign in signs if hasattr(item, name)]
    return ", ".join([word, *bounds])


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or hasattr(type(value), "model_fields"):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        names = [item.kind if hasattr(type(item), "model_fields") else str(item) for item in value]
        return f"`[{', '.join(names)}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def cli_page() -> str:
    """The page of all commands: what each prints for ``--help``."""
    from tunesmith.cli.main import cli

    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "Data goes to stdout, everything else to stderr. Exit codes: [exit-codes.md](exit-codes.md).",
    ]
    with click.Context(
        cli, info_name="tunesmith", terminal_width=100, help_option_names=cli.context_settings["help_option_names"]
    ) as top:
        lines += ["", "```", cli.get_help(top), "```"]
        for name in cli.list_commands(top):
            command = cli.get_command(top, name)
            if command is None:
                raise LookupError(name)
            lines += _command(command, name, top)
    return "\n".join([*lines, ""])


def _command(command: click.Command, name: str, parent: click.Context) -> list[str]:
    command._help_option = None  # click keeps what it was first shown with, in a test perhaps without -h
    with click.Context(command, info_name=name, parent=parent, terminal_width=100) as context:
        lines = ["", f"## {context.command_path}", "", "```", command.get_help(context), "```"]
        if isinstance(command, click.Group):
            for inner, below in command.commands.items():
                lines += _command(below, inner, context)
    return lines


PAGES = {"config.md": config_page, "cli.md": cli_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (FOLDER / page).write_text(write(), encoding="utf-8")
