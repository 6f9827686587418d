"""Arrow and Feather: files of either form of the format, among them those of a data set that `datasets` saved."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.read.rows import BadRow, Row, open_bytes
from tunesmith.errors import DataError

FILE_MAGIC = b"ARROW1"  # of the form with an index at its end; the stream, which `datasets` writes, has none


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (row number from 1, columns or BadRow).

    Raises:
        DataError: If the file is no Arrow file or is damaged.
    """
    import pyarrow as pa

    with open_bytes(path) as file, tempfile.TemporaryFile() as unpacked:
        source = file
        if path.suffix.lower() == ".gz":  # the index at the end is read first, so it has to be unpacked
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
            source = unpacked
        number = 0
        try:
            start = source.read(len(FILE_MAGIC))
            source.seek(0)
            if start == FILE_MAGIC:
                indexed = pa.ipc.open_file(source)
                batches = (indexed.get_batch(i) for i in range(indexed.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                batch.validate(full=True)  # a damaged offset would be read from memory that is not the file's
                for i in range(batch.num_rows):
                    number += 1
                    try:
                        yield number, batch.slice(i, 1).to_pylist()[0]
                    except (ValueError, OverflowError) as error:  # a year beyond 9999
                        yield number, BadRow(number, f"a value that cannot be read ({error})")
        except DataError:
            raise
        except (pa.ArrowException, MemoryError, OSError, ValueError) as error:  # a damaged length asks for any memory
            why = " ".join(str(error).split())[:200]
            raise DataError(f"{path.name}: not a whole Arrow file ({why}). Write it again.") from error
