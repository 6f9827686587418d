"""What happens during training: one JSON line a step in metrics.jsonl, and whoever listens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.run import disk_error, write_atomic

Listener = Callable[[dict[str, Any]], None]


class MetricsFile:
    """Append-only metrics. Opened at a step, it drops the lines of later steps, which a resumed run
    will redo; at -1 all."""

    def __init__(self, path: Path, from_step: int, listener: Listener | None = None) -> None:
        self.path = path
        self.listener = listener
        kept = [line for line in read_metrics(path) if line["step"] <= from_step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, event: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, allow_nan=False) + "\n")
        except OSError as error:
            raise disk_error(error, self.path) from error
        if self.listener is not None:
            self.listener(event)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
