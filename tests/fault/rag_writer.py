"""Adds a folder to an index in many small commits, with vectors that follow from the text alone and no model.

    python rag_writer.py INDEX DOCUMENTS

Prints a line before it begins and one after each commit, so that whoever kills it can aim.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tunesmith.rag import index
from tunesmith.rag.index import Index


def vectors(texts: Sequence[str]) -> np.ndarray:
    """One vector of length 1 for each text, shape (n, 32)."""
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
    found = np.array(rows, np.float32).reshape(-1, 32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def without_a_model(self: Index, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    return vectors(texts), 0


def say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    index.COMMIT_CHUNKS = 8
    Index._encode = without_a_model  # type: ignore[method-assign]
    opened = Index.open(Path(sys.argv[1]))
    say("begins")
    opened.add([Path(sys.argv[2])], lambda *_: say("commit"))
