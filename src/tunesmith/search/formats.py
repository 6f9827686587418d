"""In which form a table's rows are best shown to a model: a search over templates, measured on validation.

Each form is a ``data.template`` that the project file could say, so that what is chosen is trained, asked and saved as
any other. The same rows are in the same split whatever their form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.candidates.candidate import Listener
from tunesmith.config import Config
from tunesmith.data.prepare import prepare_data
from tunesmith.errors import ConfigError
from tunesmith.search.hyperparameters import Budget, search_hyperparameters

TEMPLATE = "data.template"


def search_formats(
    config: Config, folder: Path, listener: Listener, command: str = "", *, chosen: Sequence[Sequence[str]] = (),
    objective: str = "loss", minutes: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the project with its rows in each form, and say which is best and what that is worth on the test examples.

    Args:
        config: The project; its data must be a table.
        folder: Of the search, written as by ``search_hyperparameters``.
        listener: Called as work goes on.
        command: What was typed, for the report.
        chosen: Further forms: some of the columns alone, a line each.
        objective: ``loss``, or one of the task's metrics, on validation.
        minutes: The time it may take.

    Returns:
        The content of search.json.

    Raises:
        ConfigError: If the data is no table, or has no such columns.
    """
    if config.data.format != "table":
        raise ConfigError(
            f"data.format: {config.data.format}, but forms are for a table's rows. Set it to table, as in "
            "examples/table.yaml."
        )
    listener("data: reading", 0, 0, {})
    prepared = prepare_data(config.data, config.task.kind, config.seed)
    columns = [name for name, _ in prepared.split.train[0].columns]
    names = forms(columns, chosen)
    names = {config.data.template: names.get(config.data.template, "the project's")} | names
    return search_hyperparameters(
        config, folder, listener, command, space={TEMPLATE: list(names)}, objective=objective, names=names,
        budget=Budget(minutes=minutes) if minutes is not None else Budget(trials=len(names)),
    )  # fmt: skip


def forms(columns: Sequence[str], chosen: Sequence[Sequence[str]] = ()) -> dict[str, str]:
    """Templates by what they are called, the other way round.

    Raises:
        ConfigError: If a column is not there, or a name cannot stand in a template; all problems at once.
    """
    problems = [
        f"--columns {','.join(some)}: no column '{name}'; the table has {', '.join(columns)}."
        for some in chosen for name in some or [""] if name not in columns
    ]  # fmt: skip
    problems += [
        f"column '{name}': a name with one of {{}}:! cannot stand in a template. Rename it."
        for name in columns if set("{}:!") & set(name)
    ]  # fmt: skip
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    pairs = ", ".join(f'{json.dumps(name, ensure_ascii=False)}: "{{{name}}}"' for name in columns)
    rows = (columns, ["---"] * len(columns), [f"{{{name}}}" for name in columns])
    templates = {
        "names": "names", "sentence": "sentence", "{{" + pairs + "}}": "json",
        "\n".join(f"| {' | '.join(row)} |" for row in rows): "markdown",
    }  # fmt: skip
    for some in chosen:
        templates["\n".join(f"{name}: {{{name}}}" for name in some)] = ", ".join(some)
    return templates
