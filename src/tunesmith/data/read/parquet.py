"""Parquet, read in batches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.read.rows import BadRow, Row, open_bytes
from tunesmith.errors import DataError

BATCH_ROWS = 1024


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (row number from 1, columns or BadRow).

    Raises:
        DataError: If the file is no Parquet file or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_bytes(path) as file, tempfile.TemporaryFile() as unpacked:
        if path.suffix.lower() == ".gz":  # Parquet is read from its end, so it has to be unpacked first
            shutil.copyfileobj(file, unpacked)
        number = 0
        try:
            table = pq.ParquetFile(unpacked if path.suffix.lower() == ".gz" else file)
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for i in range(batch.num_rows):
                    number += 1
                    try:
                        yield number, batch.slice(i, 1).to_pylist()[0]
                    except (ValueError, OverflowError) as error:  # no UTF-8, a year beyond 9999
                        yield number, BadRow(number, f"a value that cannot be read ({error})")
        except DataError:
            raise
        except (pa.ArrowException, MemoryError, OSError, ValueError) as error:  # a damaged length asks for any memory
            why = " ".join(str(error).split())[:200]
            raise DataError(f"{path.name}: not a whole Parquet file ({why}). Write it again.") from error
