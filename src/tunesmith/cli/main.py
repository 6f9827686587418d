"""The command line: a table of commands, loaded only when called, and errors turned into exit codes.

Exit codes: 0 ok, 1 failure, 2 usage, 3 data or config refused, 4 not found, 130 interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

import click

# name: (module, what it does). The module has a ``command``; it is imported only when the command is called,
# so that ``tunesmith --help`` needs neither torch nor transformers.
COMMANDS = {
    "run": ("tunesmith.cli.run", "Do all five stages: data, plan, train, evaluate, report. Resumes a run."),
    "check": ("tunesmith.cli.check", "Say what is wrong with data before anything is trained on it."),
    "plan": ("tunesmith.cli.plan", "Show what a run would do, what it would cost, and what it could detect."),
    "choose": ("tunesmith.cli.choose", "Rank pretrained models for a project, without training any."),
    "train": ("tunesmith.cli.train", "Fine-tune only, without the candidates to compare with."),
    "evaluate": ("tunesmith.cli.evaluate", "Score a model on a file of examples, or check a run's numbers."),
    "compare": ("tunesmith.cli.compare", "Compare two runs on the test examples they share."),
    "search": ("tunesmith.cli.search", "Try several trainings beside each other, on validation."),
    "learning-curve": ("tunesmith.cli.learning_curve", "Say how much more data would help, from subsets of yours."),
    "chat": ("tunesmith.cli.chat", "Talk to a model in the terminal."),
    "data": ("tunesmith.cli.data", "Look at data as the model will see it."),
    "rag": ("tunesmith.cli.rag", "Index documents, keep the index up to date, and search it."),
    "models": ("tunesmith.cli.models", "List, show and pull models."),
    "doctor": ("tunesmith.cli.doctor", "Say what this machine can do, and what is missing."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"tunesmith {version('tunesmith')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--debug", is_flag=True, help="Show the whole trace of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Adapt a language model to your task on your own machine, and see with evidence whether it was worth it."""
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``tunesmith`` command."""
    from tunesmith.errors import TunesmithError

    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("TUNESMITH_DEBUG"))
    try:
        code = cli.main(args=arguments, prog_name="tunesmith", standalone_mode=False)
        if isinstance(code, int):  # what a command gave to ctx.exit
            sys.exit(code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except TunesmithError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            click.echo(f"error: {line}" if not line.startswith(" ") else line, err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # the disk, where nobody put it into words before
        if debug:
            raise
        from pathlib import Path

        from tunesmith.run import disk_error

        click.echo(f"error: {disk_error(error, Path(error.filename or '.'))}", err=True)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"error: unexpected {type(error).__name__}: {error}. Run again with --debug for the trace.",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
