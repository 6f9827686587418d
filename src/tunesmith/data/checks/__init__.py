"""The table of checks of the data, each from the splits and the data settings to findings; one check, one file."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.config import Data
from tunesmith.data.checks import contamination, personal_information
from tunesmith.records import Finding, Split

CHECKS: dict[str, Callable[[Split, Data], list[Finding]]] = {
    "contamination": contamination.check,
    "personal_information": personal_information.check,
}
