"""Adds a folder to an index in many small commits, with vectors that follow from the text alone and no model.

    python rag_writer.py INDEX DOCUMENTS

A line of stdin forks a process that adds the folder, so that LanceDB is imported once: it prints ``begins`` and its
number, then ``commit`` after each commit, so that whoever kills it can aim. The next line of stdin asks how it ended,
and is answered with its exit code; until then its number stays its own, even when it has ended by itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
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


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def add(folder: Path, documents: Path) -> None:
    opened = Index.open(folder)
    say(f"begins {os.getpid()}")
    opened.add([documents], lambda *_: say("commit"))


if __name__ == "__main__":
    index.COMMIT_CHUNKS = 8
    Index._encode = without_a_model  # type: ignore[method-assign]
    index._lancedb()
    while sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                add(Path(sys.argv[1]), Path(sys.argv[2]))
                code = 0
            except Exception:
                traceback.print_exc()
                say("failed")
            finally:
                os._exit(code)
        sys.stdin.readline()
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
