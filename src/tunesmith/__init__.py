"""Adapts a language model to a task on the user's own machine, and shows with evidence whether it was worth it.

The verbs of the command line as functions; docs/reference/api.md describes them. Names are imported when they are
first used, so that ``import tunesmith`` needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.config import Config as Config
    from tunesmith.config import Mixture as Mixture
    from tunesmith.config import Stages as Stages
    from tunesmith.config import parse_config as parse_config
    from tunesmith.config import read_any_config as read_any_config
    from tunesmith.config import read_config as read_config
    from tunesmith.data.check import check as check
    from tunesmith.errors import TunesmithError as TunesmithError
    from tunesmith.judge import compare as compare
    from tunesmith.judge import evaluate as evaluate
    from tunesmith.judge import recheck as recheck
    from tunesmith.model.load import load_model as load_model
    from tunesmith.records import Example as Example
    from tunesmith.records import Message as Message
    from tunesmith.records import Prediction as Prediction
    from tunesmith.run import Run as Run
    from tunesmith.schedules import plan as plan
    from tunesmith.schedules import run as run
    from tunesmith.workflow import train as train

_HOMES = {
    "Config": "config", "Example": "records", "Message": "records", "Mixture": "config", "Prediction": "records",
    "Run": "run", "Stages": "config", "TunesmithError": "errors", "check": "data.check",
    "compare": "judge", "evaluate": "judge",
    "load_model": "model.load", "parse_config": "config", "plan": "schedules", "read_any_config": "config",
    "read_config": "config", "recheck": "judge", "run": "schedules", "train": "workflow",
}  # fmt: skip

__all__ = [
    "Config", "Example", "Message", "Mixture", "Prediction", "Run", "Stages", "TunesmithError", "check", "compare",
    "evaluate", "load_model", "parse_config", "plan", "read_any_config", "read_config", "recheck", "run", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tunesmith.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """Keeps ``tunesmith.run`` the verb, when importing ``tunesmith/run.py`` would set it to that module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
