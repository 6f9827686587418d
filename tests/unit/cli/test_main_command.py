"""How errors become exit codes and sentences."""

from __future__ import annotations

import errno

import click
import pytest

from end_to_end.projects import Result, call
from tunesmith.cli import main
from tunesmith.errors import ConfigError, DataError, ModelError, NotFoundError, RunError, TrainingError


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> Result:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda self, ctx, name: broken)
    return call(*options, "run")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TrainingError("it stopped."), 1, "error: it stopped.\n"),
        (RunError("in use."), 1, "error: in use.\n"),
        (ConfigError("one.\ntwo."), 3, "error: one.\nerror: two.\n"),
        (DataError("bad rows.\n  line 1: x"), 3, "error: bad rows.\n  line 1: x\n"),
        (ModelError("unsafe."), 3, "error: unsafe.\n"),
        (NotFoundError("nowhere."), 4, "error: nowhere.\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted.\n"),
        (click.ClickException("no."), 1, "Error: no.\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    result = ending(monkeypatch, error)
    assert result.code == code
    assert result.out == ""
    assert result.err == said


def test_a_full_disk_that_nobody_foresaw_names_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ending(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/some/file"))
    assert result.code == 1
    assert result.err.startswith("error: /some/file: the disk is full.")


def test_what_nobody_foresaw_is_one_line_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ending(monkeypatch, ZeroDivisionError("division by zero"))
    assert result.code == 1
    assert (
        result.err == "error: unexpected ZeroDivisionError: division by zero. Run again with --debug for the trace.\n"
    )
    with pytest.raises(ZeroDivisionError):
        ending(monkeypatch, ZeroDivisionError("division by zero"), "--debug")
