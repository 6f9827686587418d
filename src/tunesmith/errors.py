"""The error tree.

    TunesmithError (exit 1)
    ├── RefusedError (exit 3)         what the user gave cannot be used as it is
    │   ├── ConfigError               a setting (also ValueError)
    │   ├── DataError                 the examples (also ValueError)
    │   ├── ModelError                the model's files (also ValueError)
    │   └── HardwareError             it does not fit this machine
    ├── NotFoundError (exit 4)        a file, a model or a run that is not there (also FileNotFoundError)
    ├── MissingExtraError             an optional package is not installed (also ImportError)
    ├── SourceError                   a download failed or is not what its hash says
    ├── TrainingError                 training stopped: a loss that is not finite, an adapter that changed nothing
    ├── EvaluationError               a measurement could not be made
    └── RunError                      the run directory: damaged, in use, of another format

A message says what is wrong, with the value and the place; what was expected; what to do.
The library raises these; only ``cli`` turns them into text and an exit code.
"""

from __future__ import annotations


class TunesmithError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class RefusedError(TunesmithError):
    """What the user gave cannot be used as it is."""

    exit_code = 3


class ConfigError(RefusedError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(RefusedError, ValueError):
    """The examples cannot be used; the message lists every place."""


class ModelError(RefusedError, ValueError):
    """The model's files are damaged, unsafe, or of a kind that cannot be used."""


class HardwareError(RefusedError):
    """The job does not fit this machine."""


class NotFoundError(TunesmithError, FileNotFoundError):
    """A file, a model or a run is not there."""

    exit_code = 4

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingExtraError(TunesmithError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class SourceError(TunesmithError):
    """A download failed, or what came is not what its hash says."""


class TrainingError(TunesmithError):
    """Training stopped and its result must not be used."""


class EvaluationError(TunesmithError):
    """A measurement could not be made."""


class RunError(TunesmithError):
    """The run directory is damaged, in use, or was written by another version."""
