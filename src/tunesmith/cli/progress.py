"""Progress on the terminal: a bar with what is left on a TTY, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.candidates.candidate import Listener

PLAIN_EVERY = 15.0  # seconds between two lines of one stage where there is no terminal


@contextmanager
def progress(quiet: bool = False) -> Iterator[Listener]:
    """A listener that shows what a run is doing, on stderr, with what is fetched for it."""
    if quiet:
        yield lambda stage, done, total, values: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with Fetching(), _bars() as listener:
            yield listener
    else:
        with Fetching():
            yield _lines()


class Fetching(logging.Handler):
    """Shows on stderr what the sources log while something is fetched."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)  # noqa: T201

    def __enter__(self) -> None:
        logger = logging.getLogger("tunesmith.sources")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tunesmith.sources").removeHandler(self)


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def listener(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
            if stage not in tasks:
                for name, task in tasks.items():
                    if not bars.tasks[task].finished:
                        bars.update(task, total=1, completed=1)
                    del name
                tasks[stage] = bars.add_task(stage, total=None, shown="")
            bars.update(tasks[stage], completed=done, total=total or None, shown=_shown(done, total, values))

        yield listener
        for task in tasks.values():
            if not bars.tasks[task].finished:
                bars.update(task, total=1, completed=1)


def _lines() -> Listener:
    state: dict[str, Any] = {"stage": "", "said": 0.0, "began": 0.0, "first": 0.0}

    def listener(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
        now = time.monotonic()
        new = stage != state["stage"]
        if new:
            state.update(stage=stage, began=now, first=done)
        if new or now - state["said"] >= PLAIN_EVERY or (total and done >= total):
            state["said"] = now
            left = ""
            if state["first"] < done < total:
                each = (now - state["began"]) / (done - state["first"])
                left = f", about {each * (total - done):.0f} s left"
            shown = _shown(done, total, values)
            print(f"{stage}{': ' if shown else ''}{shown}{left}", file=sys.stderr, flush=True)  # noqa: T201

    return listener


def _shown(done: float, total: float, values: dict[str, Any]) -> str:
    parts = [f"{done:g}/{total:g}"] if total else []
    if "loss" in values:
        parts.append(f"loss {values['loss']:.3f}")
        parts.append(f"{values['tokens_per_second']:.0f} tokens/s")
    return ", ".join(parts)
