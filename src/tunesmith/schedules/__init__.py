"""Schedules: what data when. One task (``workflow``), several at once (a mixture), or one after another (stages)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith import workflow
from tunesmith.candidates.candidate import Listener
from tunesmith.config import AnyConfig, Mixture, Stages
from tunesmith.workflow import silent


def run(config: AnyConfig, folder: Path | str, listener: Listener = silent, command: str = "") -> dict[str, Any]:
    """Do everything that a project file asks for, in ``folder``; whatever is complete there is kept.

    Returns:
        The content of report.json. Of a mixture or of stages it sums up the reports of their tasks, which lie in
        run directories of their own below ``folder``.

    Raises:
        TunesmithError: What cannot be used or done, in words.
    """
    if isinstance(config, Mixture):
        from tunesmith.schedules.mixture import run_mixture

        return run_mixture(config, Path(folder), listener, command)
    if isinstance(config, Stages):
        from tunesmith.schedules.stages import run_stages

        return run_stages(config, Path(folder), listener, command)
    return workflow.run(config, folder, listener, command)


def plan(config: AnyConfig, listener: Listener = silent, probe: bool = False) -> dict[str, Any]:
    """What :func:`run` would do, nothing of it done: one plan, or for several tasks one by name under ``tasks``.

    ``probe`` measures two steps of every training, on random tokens, and corrects the memory's estimate by them.
    """
    if isinstance(config, Mixture):
        from tunesmith.schedules.mixture import task_configs

        return {"tasks": {name: workflow.plan(one, listener, probe) for name, one in task_configs(config).items()}}
    if isinstance(config, Stages):
        from tunesmith.schedules.stages import task_configs as stage_configs

        return {"tasks": {name: workflow.plan(one, listener, probe) for name, one in stage_configs(config).items()}}
    return workflow.plan(config, listener, probe)


__all__ = ["plan", "run"]
