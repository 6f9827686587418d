"""``tunesmith models``: what is in the catalog and on this machine, and fetching it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tunesmith.cli.progress import Fetching


@click.group("models")
def command() -> None:
    """List, show and pull models."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the catalog's models and probe suites, and which are on this machine."""
    from tunesmith.sources import find_model, find_suite
    from tunesmith.sources.catalog import MODELS, SUITES

    models = [_model_facts(name, find_model(name)) for name in MODELS]
    suites = [_suite_facts(name, find_suite(name)) for name in SUITES]
    if as_json:
        click.echo(json.dumps({"models": models, "suites": suites}, indent=2))
        return
    rows: list[tuple[str, ...]] = [("MODEL", "KIND", "PARAMETERS", "CONTEXT", "LICENCE", "HERE")]
    rows += [
        (
            m["name"],
            m["architecture"],
            f"{m['parameters'] / 1e6:.0f} M",
            f"{m['context_length']:,}",
            m["licence"].partition(" (")[0],
            "yes" if m["path"] else "no",
        )
        for m in models
    ]
    _echo_table(rows)
    click.echo()
    _echo_table(
        [("PROBE SUITE", "KIND", "ITEMS", "LICENCE", "HERE")]
        + [(s["name"], s["kind"], f"{s['items']:,}", s["licence"], "yes" if s["path"] else "no") for s in suites]
    )


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show one model or probe suite: facts, where it is, and whether it is safe to load.

    NAME is a catalog name, a folder, hf:owner/name or pypi:NAME==VERSION/file.gguf. Nothing is fetched.
    """
    from tunesmith.errors import NotFoundError
    from tunesmith.sources import find_model, find_suite
    from tunesmith.sources.catalog import MODELS, SUITES, unknown

    if name in SUITES:
        facts = _suite_facts(name, find_suite(name))
    else:
        found = find_model(name)
        if found is None and name not in MODELS:
            if name.startswith(("hf:", "pypi:")):
                raise NotFoundError(f"{name}: not on this machine. Fetch it with 'tunesmith models pull {name}'.")
            raise NotFoundError(unknown(name, "model", MODELS))
        facts = _model_facts(name, found)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        click.echo(f"{key.replace('_', ' ') + ':':<16}{_text(value)}")


@command.command("pull")
@click.argument("names", nargs=-1, required=True)
def pull(names: tuple[str, ...]) -> None:
    """Fetch models and probe suites, and print where each is.

    NAMES are catalog names, hf:owner/name or pypi:NAME==VERSION/file.gguf. What is here already is not
    fetched again.
    """
    from tunesmith.errors import NotFoundError
    from tunesmith.model.safety import check_model_folder
    from tunesmith.sources import resolve_model, resolve_suite
    from tunesmith.sources.catalog import MODELS, SUITES, unknown

    wrong = [
        unknown(name, "model or suite", [*MODELS, *SUITES])
        for name in names
        if name not in MODELS and name not in SUITES and not _is_source(name)
    ]
    if wrong:
        raise NotFoundError("\n".join(wrong))
    with Fetching():
        for name in names:
            if name in SUITES:
                path = resolve_suite(name)
            else:
                path = resolve_model(name).path
                check_model_folder(path)
            click.echo(f"{name}\t{path}")


@command.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--out", "target", type=click.Path(path_type=Path), required=True, help="An absent or empty folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def merge(adapter: Path, target: Path, as_json: bool) -> None:
    """Write a model with an adapter's update inside its weights, which needs no adapter any more.

    ADAPTER is a run, which stands for the model it chose, or a candidate's or an adapter's folder. The base is loaded
    in full precision, and the merged model is compared with the adapter on a fixed text.
    """
    from tunesmith.model.merge import export_merged
    from tunesmith.run import saved_model

    name = saved_model(str(adapter))
    difference = export_merged(Path(name), target)
    if as_json:
        click.echo(
            json.dumps({"adapter": name, "merged": str(target), "largest_difference_nats": difference}, indent=2)
        )
        return
    click.echo(str(target))
    click.echo(f"merged; no token differs from the adapter's by more than {difference:.1g} nats.", err=True)


def _is_source(name: str) -> bool:
    return name.startswith(("hf:", "pypi:")) or Path(name).expanduser().exists()


def _model_facts(name: str, found: Any) -> dict[str, Any]:
    """Everything known about a model; ``path`` and what follows from it are None while it is not here."""
    from tunesmith.sources.catalog import MODELS

    facts: dict[str, Any] = {"name": name}
    if name in MODELS:
        facts |= {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(MODELS[name]).items()}
        facts["wheels"] = [f"{w.requirement}/{w.member}" for w in MODELS[name].wheels]
    path = found.path if found else None
    return facts | {
        "path": str(path) if path else None,
        "fingerprint": found.fingerprint if found else None,
        "size_bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path else None,
        "problems": _problems(path) if path else None,
    }


def _problems(path: Path) -> list[str]:
    from tunesmith.errors import ModelError
    from tunesmith.model.safety import check_model_folder

    try:
        check_model_folder(path)
    except ModelError as error:
        return [line.strip(" -") for line in str(error).splitlines()[1:]]
    return []


def _suite_facts(name: str, path: Path | None) -> dict[str, Any]:
    from tunesmith.sources.catalog import SUITES

    suite = SUITES[name]
    return {
        "name": name,
        "kind": suite.kind,
        "items": suite.items,
        "licence": suite.licence,
        "source": f"pypi:{suite.part.requirement}/{suite.part.member}",
        "sha256": suite.sha256,
        "path": str(path) if path else None,
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _echo_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
