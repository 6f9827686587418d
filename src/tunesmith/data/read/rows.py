"""What every reader shares: the bad row, and a file's bytes and lines within bounds."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.errors import DataError, NotFoundError

LINE_LIMIT_BYTES = 16 * 2**20  # a longer line is no training example, and reading it whole would cost memory
EXPANSION_LIMIT = 200  # text seldom shrinks more than 20-fold; gzip's own maximum is 1,032
EXPANSION_FREE_BYTES = 64 * 2**20  # below this nobody is harmed, whatever the ratio


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. ``line`` is 1-based, where the row starts; in Parquet, its number."""

    line: int
    reason: str
    column: str | None = None
    file: str = ""  # where several files are read as one


class LeftOut(BadRow):
    """A row that its own file sets aside, such as a fuzzy translation: not used, and not counted as a row."""


Row = tuple[int, dict[str, Any] | BadRow]


class _Gunzip(io.RawIOBase):
    """The content of a gzip file, refused once it grows out of all proportion."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = gzip.GzipFile(path, "rb")
        self._allowed = max(EXPANSION_FREE_BYTES, EXPANSION_LIMIT * path.stat().st_size)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self._path.name}: damaged gzip file ({error}). Compress it again, or fetch it again."
            ) from error
        self._read += len(data)
        if self._read > self._allowed:
            raise DataError(
                f"{self._path.name}: grows to more than {EXPANSION_LIMIT} times its size when unpacked, "
                "which text does not. Unpack it yourself if you trust it."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacking ``.gz`` on the way; a byte order mark of UTF-8 is left in.

    Raises:
        NotFoundError: If it is not there.
        DataError: If it is a folder, cannot be read, or is UTF-16 or UTF-32.
    """
    try:
        raw: io.RawIOBase = _Gunzip(path) if path.suffix.lower() == ".gz" else path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    with raw, io.BufferedReader(raw, buffer_size=1 << 20) as file:
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path.name}: UTF-16 text. Re-save the file as UTF-8.")
        yield file


def read_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (line number, offset in bytes, line with its end); None for a line over ``LINE_LIMIT_BYTES``.

    A UTF-8 byte order mark at the start of the file is dropped.
    """
    number, offset = 0, 0
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        number += 1
        size = len(line)
        too_long = size > LINE_LIMIT_BYTES
        while too_long and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
            if not line:
                break
            size += len(line)
        start = offset
        offset += size
        if too_long:
            yield number, start, None
        elif number == 1 and line.startswith(b"\xef\xbb\xbf"):
            yield number, start + 3, line[3:]
        else:
            yield number, start, line


def too_long(line: int) -> BadRow:
    return BadRow(line, f"longer than {LINE_LIMIT_BYTES >> 20} MiB; is a line break missing?")


def not_utf8(line: int, byte: int) -> BadRow:
    """``byte`` is 1-based in the file."""
    return BadRow(line, f"not UTF-8 at byte {byte} of the file; re-save the file as UTF-8")
