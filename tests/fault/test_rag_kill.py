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


def add(index: Path, documents: Path, kill_after: float | None, commits: int = 0) -> tuple[int, float]:
    """Let another process add the folder; how it ended, and seconds from its beginning.

    ``kill_after`` counts seconds from the ``commits``-th commit (0: from the beginning).
    """
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(index), str(documents)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        began = time.monotonic()
        assert said == b"begins\n", process.stderr.read().decode()
        if kill_after is not None:
            for _ in range(commits):
                assert process.stdout.readline() == b"commit\n"
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        errors = process.stderr.read().decode()
        code = process.wait()
    assert code in (0, -signal.SIGKILL), errors
    return code, time.monotonic() - began


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Index, "_encode", without_a_model)
    folder, documents = tmp_path / "index", tmp_path / "documents"
    documents.mkdir()
    Index.create(folder, str(build_encoder(tmp_path / "encoder")), chunk_size=10, overlap=0)
    write_documents(documents, 0)
    code, _ = add(folder, documents, None)
    assert code == 0
    write_documents(documents, 1)
    code, seconds = add(folder, documents, None)
    before = generations(folder)
    assert (code, before) == (0, {f"d{i}": 1 for i in range(DOCUMENTS)} | {"new0": 0, "new1": 1})

    rng = random.Random(0)
    killed = partly = 0
    for generation in range(2, 2 + KILLS):
        write_documents(documents, generation)
        if generation % 2:  # at any moment
            code, _ = add(folder, documents, rng.uniform(0, seconds))
        else:  # soon after a commit that others would have followed
            code, _ = add(folder, documents, rng.uniform(0, seconds / 50), rng.randint(1, 3))
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

    code, _ = add(folder, documents, None)
    expected = {f"d{i}": 1 + KILLS for i in range(DOCUMENTS)} | {f"new{i}": i for i in range(2 + KILLS)}
    assert (code, generations(folder)) == (0, expected)
    assert Index.open(folder).stats()["chunks_outside_full_text_index"] == 0
