"""``tunesmith doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

import click

LOW_DISK_BYTES = 5 * 10**9  # room for the catalog's models, and the checkpoints of a run
LOW_MEMORY_BYTES = 3 * 10**9  # LoRA on 135M parameters in fp32, with room for the system


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report. ``broken`` means that Tunesmith cannot work as it is."""

    name: str
    status: Literal["ok", "warning", "broken"]
    value: Any
    text: str


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this machine can do, and what is missing. Exits with 1 when something needed is broken."""
    checks = run_checks()
    broken = [check for check in checks if check.status == "broken"]
    verdict = _verdict(checks)
    if as_json:
        click.echo(json.dumps({"checks": [asdict(c) for c in checks], "verdict": verdict, "ok": not broken}, indent=2))
    else:
        marks = {"ok": "ok     ", "warning": "warning", "broken": "BROKEN "}
        for check in checks:
            click.echo(f"{marks[check.status]}  {check.name:<13} {check.text}")
        click.echo(f"\n{verdict}")
    if broken:
        sys.exit(1)


def run_checks() -> list[Check]:
    """Look at everything; takes about five seconds, most of it importing torch and measuring."""
    checks: list[Check] = []
    looks: list[Callable[[], list[Check]]] = [_python, _packages, _home, _machine, _models, _network]
    for look in looks:
        try:
            checks += look()
        except Exception as error:  # the doctor reports what fails; it does not fail with it
            checks.append(Check(look.__name__.strip("_"), "broken", None, f"{type(error).__name__}: {error}"))
    return checks


def _verdict(checks: list[Check]) -> str:
    broken = [c.name for c in checks if c.status == "broken"]
    warned = [c.name for c in checks if c.status == "warning"]
    if broken:
        return f"Not ready: {', '.join(broken)} must be mended first."
    if warned:
        return f"Ready, with {len(warned)} thing{'s' * (len(warned) > 1)} to know: {', '.join(warned)}."
    return "Ready."


def _python() -> list[Check]:
    fits = sys.version_info >= (3, 11)
    text = platform.python_version() + ("" if fits else ": 3.11 or newer is needed")
    return [Check("python", "ok" if fits else "broken", platform.python_version(), text)]


def _packages() -> list[Check]:
    """Whether every required package is there in the version asked for."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    wrong = []
    for line in requires("tunesmith") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found[requirement.name], prereleases=True):
            wrong.append(f"{requirement.name} {found[requirement.name]} is not {requirement.specifier}")
    missing = any("not installed" in line for line in wrong)
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft") if name in found)
    text = f"{shown}; " + ("; ".join(wrong) + ". Install tunesmith again." if wrong else "all as required")
    return [Check("packages", "broken" if missing else "warning" if wrong else "ok", found, text)]


def _home() -> list[Check]:
    from tunesmith.hardware import free_disk_bytes
    from tunesmith.sources import home

    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror}). Set TUNESMITH_HOME to a folder that can."
        return [Check("home", "broken", str(folder), text)]
    free = free_disk_bytes(folder)
    low = free < LOW_DISK_BYTES
    return [
        Check("home", "ok", str(folder), f"{folder}, can be written"),
        Check(
            "disk",
            "warning" if low else "ok",
            free,
            f"{_gigabytes(free)} free there{', little' if low else ''}",
        ),
    ]


def _machine() -> list[Check]:
    from tunesmith.hardware import detect, measure_matmul, measure_sgemm

    machine = detect()
    low = machine.memory_bytes < LOW_MEMORY_BYTES
    fp32, bf16 = measure_sgemm(), measure_matmul("bfloat16")
    memory = f"{_gigabytes(machine.memory_bytes)}, {_gigabytes(machine.available_bytes)} available"
    gpus = [asdict(a) for a in machine.accelerators]
    shown = ", ".join(f"{a.name} ({_gigabytes(a.memory_bytes)})" for a in machine.accelerators)
    return [
        Check(
            "processor",
            "ok",
            {"name": machine.cpu_name, "physical": machine.physical_cores, "usable": machine.usable_cores},
            f"{machine.cpu_name}, {machine.physical_cores} cores, {machine.usable_cores} usable here",
        ),
        Check("memory", "warning" if low else "ok", machine.memory_bytes, memory + (", little" if low else "")),
        Check("accelerators", "ok", gpus, shown or "none; training runs on the processor"),
        Check("dtype", "ok", machine.dtype, f"{machine.dtype}: {machine.dtype_reason}"),
        Check(
            "speed",
            "ok",
            {"float32_flops_per_second": fp32, "bfloat16_flops_per_second": bf16},
            f"processor {fp32 / 1e9:.0f} GFLOP/s in float32, {bf16 / 1e9:.0f} in bfloat16 (measured)",
        ),
    ]


def _models() -> list[Check]:
    from tunesmith.sources import find_model
    from tunesmith.sources.catalog import MODELS

    here = [name for name in MODELS if find_model(name)]
    text = ", ".join(here) or "none yet; they are fetched when first used, or with 'tunesmith models pull'"
    return [Check("models", "ok", here, text)]


def _network() -> list[Check]:
    offline = [
        f"{name}={os.environ[name]}"
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PIP_NO_INDEX")
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
    ]
    text = f"offline ({', '.join(offline)})" if offline else "may be used to fetch models; never tried here"
    return [Check("network", "ok", offline, text)]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
