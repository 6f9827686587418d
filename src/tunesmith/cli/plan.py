"""``tunesmith plan``: what a run would do, what it would cost, and what it could detect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "unexplained", "total")
LONG_SECONDS = 300.0  # a run to be tried on a subset first
SUBSET = 250  # training examples of it


@click.command("plan")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=1.")
@click.option("--probe", is_flag=True, help="Measure two steps of every training, and correct the memory's estimate.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(config_file: Path, overrides: tuple[str, ...], probe: bool, as_json: bool, quiet: bool) -> None:
    """Show what 'tunesmith run CONFIG' would do: facts, choices with their reasons, candidates with their cost.

    Nothing is trained, and nothing is written.
    """
    from tunesmith.config import read_any_config

    config = read_any_config(config_file, overrides)
    from tunesmith import schedules
    from tunesmith.cli.progress import progress

    with progress(quiet) as listener:
        plan = schedules.plan(config, listener, probe)
    several = plan.get("tasks", {})
    first = first_small(plan, config_file) if "data" in plan and not several else ""
    told = (
        "\n\n".join(f"── {name}\n{describe(one)}" for name, one in several.items())
        if several
        else describe(plan) + first
    )
    click.echo(json.dumps(plan, ensure_ascii=False, indent=2) if as_json else told)


def describe(plan: dict[str, Any]) -> str:
    """The plan as text for a terminal."""
    facts, data, effect = plan["facts"], plan["data"], plan["minimum_detectable_effect"]
    labels = f", {facts['labels']} labels" if facts["labels"] else ""
    # one target may be a token, a label of a head, or the better of two answers
    learned = facts["supervised_per_example"]
    each = "one target each" if learned == 1 else f"{learned:.0f} of them learned"
    lines = [
        f"data      {data['train']:,} train, {data['validation']:,} validation, {data['test']:,} test{labels}",
        f"          {facts['tokens_per_example']:.0f} tokens per example, {each}, {facts['prefix_tokens']} shared by "
        f"all; the longest has {facts['longest_example']:,}",
        *(f"          {finding['severity']}: {finding['message']}" for finding in data["findings"]),
        f"model     {facts['model']}: {facts['parameters'] / 1e6:,.0f} M parameters, {facts['layers']} layers, "
        f"{facts['context_length']:,} tokens of context",
        f"machine   {facts['cores']} cores, {facts['flops_per_second'] / 1e9:,.0f} GFLOP/s in {facts['dtype']}, "
        f"{facts['available_bytes'] / 2**30:.1f} GiB free",
        "",
    ]
    choices: list[tuple[str, ...]] = [("chosen for you", "", "because")]
    for choice in plan["choices"]:
        source = f" ({choice['source']})" if choice["source"] else ""
        choices.append((choice["setting"], f"{choice['value']}", choice["reason"] + source))
    candidates: list[tuple[str, ...]] = [("candidate", "time", "memory", "because")]
    candidates += [
        (c["id"], duration(c["estimated_seconds"]), f"{c['estimated_memory_bytes'] / 2**30:.1f} GiB", c["reason"])
        for c in plan["candidates"]
    ]
    memory: list[tuple[str, ...]] = [("memory, GiB", *(name for name in PARTS))]
    memory += [
        (c["id"], *(f"{c['memory'][name] / 2**30:.2f}" for name in PARTS)) for c in plan["candidates"] if "memory" in c
    ]
    tables = [choices] * bool(plan["choices"]) + [candidates] + [memory] * (len(memory) > 1)
    for table in tables:
        lines += [*columns(table), ""]
    return "\n".join([
        *lines,
        f"About {duration(plan['estimated_seconds'])} in all, by estimate.",
        f"With {effect['n']:,} test examples a difference of {effect['points']:.1f} points or more can be detected "
        f"(four times in five, if two candidates disagree on {100 * effect['discordance']:.0f} % of them).",
    ])  # fmt: skip


def first_small(plan: dict[str, Any], config_file: Path) -> str:
    """The proposal to begin a long run with few examples; "" where it is short or small anyway."""
    if plan["estimated_seconds"] < LONG_SECONDS or plan["data"]["train"] < 4 * SUBSET:
        return ""
    return (
        f"\nFirst small, to see that all works: tunesmith run {config_file} --subset {SUBSET}; then the whole. What "
        f"more examples would buy: tunesmith learning-curve {config_file}."
    )


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of a table as lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
