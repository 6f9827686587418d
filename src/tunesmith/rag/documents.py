"""Documents from files: text, Markdown, HTML, PDF, DOCX, and the rows of JSON Lines and CSV.

Whatever cannot be read is named with its reason, and the rest goes on. HTML, PDF and DOCX are read by another process
under limits of time and memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.read import BadRow, read_rows
from tunesmith.data.read.rows import not_utf8, open_bytes, read_lines, too_long
from tunesmith.errors import DataError, NotFoundError
from tunesmith.rag import parse
from tunesmith.records import content_hash

KINDS = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".jsonl": "rows",
    ".ndjson": "rows",
    ".csv": "rows",
    ".tsv": "rows",
}
TEXT_COLUMNS = ("text", "content", "body", "passage", "context")  # of a row, the first that is there
METADATA_LIMIT = 200  # characters; a longer value of a column is text, not something to filter by


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may take; rows of JSON Lines and CSV are read one by one, however large their file."""

    seconds: float = 60.0
    memory_bytes: int = 2 * 2**30
    file_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """A document that is there, before it is read.

    ``name`` is unique: the path below the folder that names are relative to, for a row with ``#`` and its line.
    ``digest`` is equal for equal content. ``size`` in bytes and ``mtime`` in nanoseconds are those of its file,
    ``source``.
    """

    name: str
    digest: str
    source: str
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was read. ``metadata`` can be filtered by: file, kind, title, and short columns of a row."""

    entry: Entry
    text: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Refused:
    """A document, file or folder that cannot be used, and why."""

    name: str
    reason: str


def read_documents(path: Path, limits: Limits | None = None, base: Path | None = None) -> Iterator[Document | Refused]:
    """Yield every document of a file, or of a folder and those below it, in the order of their names.

    Args:
        path: File or folder.
        limits: What reading one file may take.
        base: Folder that names are relative to; the working directory if None.
    """
    base = base or Path.cwd()
    with Parser(limits) as parser:
        for found in find_files(path, base):
            yield from [found] if isinstance(found, Refused) else read_file(found, base, parser)


def document_name(path: Path, base: Path) -> str:
    """The path below ``base``, or the whole path where it lies elsewhere; the same however it was written."""
    whole, start = os.path.abspath(path), os.path.join(base, "")
    name = whole.removeprefix(start) if whole != str(base) else "."
    return name.replace(os.sep, "/")


def find_files(path: Path, base: Path) -> Iterator[Path | Refused]:
    """Yield a file, or the files of a folder and those below it. Hidden ones are passed over without a word."""
    path = Path(os.path.abspath(path.expanduser()))
    if not path.is_dir():
        yield _known(path, base)
        return
    root = path.resolve()
    for place, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(place) / name
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                yield Refused(document_name(file, base), "a link that leaves its folder; give what it leads to")
            else:
                yield _known(file, base)


def _known(file: Path, base: Path) -> Path | Refused:
    if not file.is_file():
        return Refused(document_name(file, base), "no such file or folder" if not file.exists() else "not a file")
    if file.suffix.lower() not in KINDS:
        kind = f"the extension '{file.suffix}' is not known" if file.suffix else "it has no extension"
        return Refused(document_name(file, base), f"{kind}; known are {', '.join(KINDS)}")
    return file


def list_entries(file: Path, base: Path, known: Mapping[str, Entry]) -> Iterator[Entry | Refused]:
    """Yield what a file holds, without reading what is the same as in ``known`` by size and time of change."""
    if KINDS[file.suffix.lower()] == "rows":
        for row in _read_rows(file, base):
            yield row if isinstance(row, Refused) else row.entry
        return
    name = document_name(file, base)
    try:
        stat = file.stat()
        old = known.get(name)
        if old is not None and (old.size, old.mtime) == (stat.st_size, stat.st_mtime_ns):
            yield old
            return
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    except OSError as error:
        yield Refused(name, f"cannot be read ({error.strerror or error})")
        return
    yield Entry(name, digest, str(file), stat.st_size, stat.st_mtime_ns)


def read_file(
    file: Path, base: Path, parser: Parser, wanted: Collection[str] | None = None
) -> Iterator[Document | Refused]:
    """Yield the documents of one file; of rows only those whose names are ``wanted``, if that is given."""
    kind = KINDS[file.suffix.lower()]
    if kind == "rows":
        for row in _read_rows(file, base):
            if wanted is None or (row.name if isinstance(row, Refused) else row.entry.name) in wanted:
                yield row
        return
    name = document_name(file, base)
    entry = next(list_entries(file, base, {}))
    if isinstance(entry, Refused):
        yield entry
    elif entry.size > parser.limits.file_bytes:
        allowed = f"{parser.limits.file_bytes / 2**20:,.0f}"
        yield Refused(name, f"{entry.size / 2**20:,.0f} MiB; files up to {allowed} MiB are read. Split it")
    else:
        found = _read_text(file) if kind in ("text", "markdown") else parser.read(file, kind)
        if isinstance(found, str):
            yield Refused(name, found)
        else:
            text, title = found
            yield Document(
                entry, _clean(text), {"file": name, "kind": kind} | ({"title": _clean(title)} if title else {})
            )


def _read_text(file: Path) -> tuple[str, str] | str:
    """Text and no title, or why there is none."""
    lines = []
    try:
        with open_bytes(file) as stream:
            for number, offset, data in read_lines(stream):
                if data is None:
                    return f"line {number}: {too_long(number).reason}"
                try:
                    lines.append(data.decode("utf-8"))
                except UnicodeDecodeError as error:
                    return not_utf8(number, offset + error.start + 1).reason
    except (DataError, NotFoundError) as error:
        return _reason(error, file)
    text = "".join(lines)
    if "\0" in text:
        return "it holds NUL bytes, which text does not; is it another kind of file?"
    return (text, "") if text.strip() else parse.NOTHING


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────
def _read_rows(file: Path, base: Path) -> Iterator[Document | Refused]:
    name = document_name(file, base)
    try:
        stat = file.stat()
        for line, row in read_rows(file):
            if isinstance(row, BadRow):
                yield Refused(f"{name}#{line}", row.reason)
                continue
            text, rest = _row_text(row)
            if not text.strip():
                yield Refused(f"{name}#{line}", "no text in any column")
                continue
            metadata = {"file": name, "kind": "row"} | rest
            digest = content_hash([text, rest])
            yield Document(Entry(f"{name}#{line}", digest, str(file), stat.st_size, stat.st_mtime_ns), text, metadata)
    except (DataError, NotFoundError) as error:
        yield Refused(name, _reason(error, file))
    except OSError as error:
        yield Refused(name, f"cannot be read ({error.strerror or error})")


def _row_text(row: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """A row's text and its other columns, as far as they are short.

    The text is that of the first of ``TEXT_COLUMNS``, under the row's ``title``; or its ``question`` and ``answer``;
    or every column as ``name: value``.
    """
    cells = {str(key): _cell(value) for key, value in row.items() if isinstance(value, str | int | float | bool)}
    cells = {key: value for key, value in cells.items() if value.strip()}
    column = next((name for name in TEXT_COLUMNS if name in cells), None)
    if column is not None:
        used = {"title", column}
        text = (f"# {' '.join(cells['title'].split())}\n\n" if "title" in cells else "") + cells[column]
    elif {"question", "answer"} <= cells.keys():
        used = {"question", "answer"}
        text = f"{cells['question']}\n\n{cells['answer']}"
    else:
        used = set()
        text = "\n".join(f"{key}: {value}" for key, value in cells.items())
    kept = {k: v for k, v in cells.items() if (k not in used or k == "title") and len(v) <= METADATA_LIMIT}
    return text, kept


def _cell(value: Any) -> str:
    return _clean(value) if isinstance(value, str) else json.dumps(value)


def _clean(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold, and without NUL."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _reason(error: Exception, file: Path) -> str:
    """What an error says of a file, without naming it again."""
    said = str(error)
    for prefix in (f"{file}: ", f"{file.name}: ", f"{file.name} "):
        said = said.removeprefix(prefix)
    return said.rstrip(".")


# ── the other process ────────────────────────────────────────────────────────────────────────────────────
class Parser:
    """A process that reads HTML, PDF and DOCX one after another; started when first needed, again after it died."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def read(self, file: Path, kind: str) -> tuple[str, str] | str:
        """Text and title of a file, or why it gives none."""
        process = self._process or self._start()
        request = {"path": str(file), "kind": kind, "seconds": self.limits.seconds}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer = self._answer(process)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            process.kill()
            self._stop()
            return f"reading it takes longer than {self.limits.seconds:g} s"
        if not answer:
            code = self._stop()
            if code == -signal.SIGXCPU:
                return f"reading it takes longer than {self.limits.seconds:g} s"
            return f"it brought down the program that reads it (exit code {code}); save it anew"
        found = json.loads(answer)
        return found["refused"] if "refused" in found else (found["text"], found["title"])

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-P", parse.__file__, str(self.limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    def _answer(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """One line of the process; empty if it died, None if it took too long."""
        handle = process.stdout.fileno()  # type: ignore[union-attr]
        deadline = time.monotonic() + self.limits.seconds
        pieces: list[bytes] = []
        while not (pieces and pieces[-1].endswith(b"\n")):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                return None
            piece = os.read(handle, 1 << 20)
            if not piece:
                return b""
            pieces.append(piece)
        return b"".join(pieces)

    def _stop(self) -> int | None:
        """End the process, and say how it ended if it had by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            return process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
