"""Every command: help, a home in the table, JSON where it reads."""

from __future__ import annotations

import importlib
import json
import shlex

import click
import pytest

from end_to_end.projects import call
from tunesmith.cli.main import COMMANDS, cli


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        found += [(f"{name} {sub}".strip(), c) for sub, c in inner.items()]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_and_option_says_what_it_does(name: str, command: click.Command) -> None:
    result = call(*shlex.split(name), "--help")
    assert result.code == 0
    assert (command.help or "").strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in ("split",):
            assert parameter.help, parameter.name
    if name != "models pull":  # which prints one path a line
        assert "--json" in result.out


def test_the_table_holds_every_command_module() -> None:
    for module, text in COMMANDS.values():
        assert isinstance(importlib.import_module(module).command, click.Command)
        assert text.endswith(".")


def test_help_lists_all_commands() -> None:
    said = call("--help").out
    for name in COMMANDS:
        assert f"  {name} " in said
    assert call("--version").out.startswith("tunesmith ")


def test_json_of_what_needs_nothing() -> None:
    assert {"models", "suites"} == set(json.loads(call("models", "list", "--json").out))
