"""An index whose writer is killed at any moment opens, and holds each document whole: the old one or the new."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from end_to_end.projects import build_encoder
from fault.rag_writer import vectors, without_a_model
from tunesmith.rag.index import Index

SCRIPT = Path(__file__).with_name("rag_writer.py")
DOCUMENTS = 12
KILLS = 50


def text(name: str, generation: int) -> list[str]:
    """A document's chunks, of ten words each; their number changes from generation to generation."""
    return [" ".join(f"{name}g{generation}p{part}w{i}" for i in range(10)) for part in range(3 + generation % 3)]


def write_documents(folder: Path, generation: int) -> None:
    """All documents in this generation, and one that is new with it."""
    for name in [f"d{i}" for i in range(DOCUMENTS)] + [f"new{generation}"]:
        (folder / f"{name}.txt").write_text(" ".join(text(name, generation)))


def generations(folder: Path) -> dict[str, int]:
    """Which generation of each document the index holds, after checking that it holds all of it and nothing else."""
    index = Index.open(folder)
    rows: dict[str, dict[int, tuple[str, list[float]]]] = {}
    for row in index._table.search().select(["document", "position", "text", "vector"]).limit(None).to_list():
        parts = rows.setdefault(Path(row["document"]).stem, {})
        assert row["position"] not in parts
        parts[row["position"]] = row["text"], row["vector"]
    found = {}
    for name, parts in rows.items():
        found[name] = int(parts[0][0].split("g")[1].split("p")[0])
        texts = [parts[i][0] for i in range(len(parts))]
        assert texts == text(name, found[name])
        np.testing.assert_array_equal([parts[i][1] for i in range(len(parts))], vectors(texts))
    for name, generation in list(found.items())[:3]:  # and both kinds of search find it
        for hit in (
            index.text(f"{name}g{generation}p0w0", 1),
            index.dense(vectors(text(name, generation)[:1])[0], 1),
        ):
            assert (Path(hit[0].chunk.document).stem, hit[0].chunk.position) == (name, 0)
    return found


class Writers:
    """Processes that add the documents to the index, one after the other; see rag_writer.py."""

    def __init__(self, index: Path, documents: Path) -> None:
        self._forks = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SCRIPT), str(index), str(documents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._forks.kill()
        self._forks.communicate()

    def _say(self) -> None:
        assert self._forks.stdin is not None
        self._forks.stdin.write("\n")
        self._forks.stdin.flush()

    def _read(self) -> str:
        assert self._forks.stdout is not None
        return self._forks.stdout.readline().strip()

    def add(self, kill_after: float | None = None, commits: int = 0) -> tuple[int, float]:
        """Let a process add the documents; how it ended, and seconds from its beginning.

        ``kill_after`` counts seconds from the ``commits``-th commit (0: from the beginning).
        """
        self._say()
        said = self._read()
        began = time.monotonic()
        assert said.startswith("begins "), said
        number = int(said.split()[1])
        if kill_after is not None:
            for _ in range(commits):
                assert self._read() == "commit"
            time.sleep(kill_after)
            os.kill(number, signal.SIGKILL)
        self._say()
        while (said := self._read()) == "commit":
            continue
        assert said in ("0", str(-signal.SIGKILL)), said
        return int(said), time.monotonic() - began


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Index, "_encode", without_a_model)
    folder, documents = tmp_path / "index", tmp_path / "documents"
    documents.mkdir()
    Index.create(folder, str(build_encoder(tmp_path / "encoder")), chunk_size=10, overlap=0)
    with Writers(folder, documents) as writers:
        kill_at_any_moment(writers, folder, documents)


def kill_at_any_moment(writers: Writers, folder: Path, documents: Path) -> None:
    write_documents(documents, 0)
    code, _ = writers.add()
    assert code == 0
    write_documents(documents, 1)
    code, seconds = writers.add()
    before = generations(folder)
    assert (code, before) == (0, {f"d{i}": 1 for i in range(DOCUMENTS)} | {"new0": 0, "new1": 1})

    rng = random.Random(0)
    killed = partly = 0
    for generation in range(2, 2 + KILLS):
        write_documents(documents, generation)
        if generation % 2:  # at any moment
            code, _ = writers.add(rng.uniform(0, seconds))
        else:  # soon after a commit that others would have followed
            code, _ = writers.add(rng.uniform(0, seconds / 50), rng.randint(1, 3))
        after = generations(folder)
        for name in before | after:
            kept = name in before and after[name] == before[name]  # of an earlier killed round, maybe
            brought = name not in before and name.startswith("new")
            assert kept or brought or after[name] == generation, name
        killed += code == -signal.SIGKILL
        partly += 0 < sum(after[f"d{i}"] == generation for i in range(DOCUMENTS)) < DOCUMENTS
        before = after
    assert killed > KILLS / 2
    assert partly > 0  # kills did strike between commits

    code, _ = writers.add()
    expected = {f"d{i}": 1 + KILLS for i in range(DOCUMENTS)} | {f"new{i}": i for i in range(2 + KILLS)}
    assert (code, generations(folder)) == (0, expected)
    assert Index.open(folder).stats()["chunks_outside_full_text_index"] == 0
