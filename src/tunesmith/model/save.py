"""A trained model or adapter as a folder that others can load, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.model.load import ORIGIN, LanguageModel
from tunesmith.run import replaced_folder


def save_model(
    folder: Path, write: Callable[[Path], None], lm: LanguageModel, base: str, origin: dict[str, Any]
) -> None:
    """Write weights (by ``write``), tokenizer and where they came from; renamed into place when complete.

    Args:
        folder: Replaced if it is there.
        write: Puts the weights, or the adapter, into the folder it is given.
        lm: Whose tokenizer is saved, and whose files the base's fingerprint is of.
        base: The base model as the user named it, so that an adapter finds it again.
        origin: Method, task and candidate, kept in ``tunesmith.json``.
    """
    with replaced_folder(folder) as temporary:
        write(temporary)
        lm.tokenizer.save_pretrained(temporary)
        about = {"format_version": 1, "base_model": base, "base_fingerprint": lm.folder.fingerprint, **origin}
        (temporary / ORIGIN).write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
