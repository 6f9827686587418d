"""The images that rows name: found from the data file's folder, read whole once, and known by their content."""

from __future__ import annotations

import hashlib
import string
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.data.read.cells import RowError, read_scalar, read_text
from tunesmith.data.read.table import fill
from tunesmith.errors import MissingExtraError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # not EPS: reading one runs a PostScript interpreter


def locate_image(row: dict[str, Any], image: str, folder: Path) -> tuple[str, str]:
    """A row's image as an absolute path and 16 hexadecimal digits of its sha256.

    Args:
        row: The row's columns.
        image: A column with the path, or a path with {column}s.
        folder: Where a relative path begins.

    Raises:
        RowError: If the file is not there or cannot be read as an image.
        MissingExtraError: If Pillow is not installed.
    """
    if "{" in image:
        names = [field for _, field, _, _ in string.Formatter().parse(image) if field is not None]
        for name in names:
            if row.get(name) in (None, ""):
                raise RowError(f"'{name}' is missing or empty; expected a part of an image's path", name)
        written, column = fill(image, {name: read_scalar(row[name], name) for name in names}), names[0]
    else:
        written, column = read_text(row.get(image), image), image
    if "://" in written or "\0" in written:
        raise RowError(f"'{column}' gives {written!r}; expected the path of a file on this machine", column)
    path = (folder / Path(written).expanduser()).absolute()
    try:
        stamp = path.stat()
    except OSError as error:
        raise RowError(f"image {path}: {error.strerror or error}; expected an image file there", column) from error
    digest, problem = _read(path, stamp.st_size, stamp.st_mtime_ns)
    if problem:
        raise RowError(f"image {path}: {problem}", column)
    return str(path), digest


@lru_cache(maxsize=1 << 16)  # many rows may ask about one image
def _read(path: Path, size: int, changed: int) -> tuple[str, str]:
    """The image's hash, or what is wrong with it."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("Images need Pillow: pip install 'tunesmith[images]'") from error
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()  # the whole of it: verify() passes a photograph that is cut off
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return "", f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    except UnidentifiedImageError:
        return "", f"not an image that can be read; expected one of {', '.join(FORMATS)}"
    except Exception as error:  # a decoder may stumble over damage in any way
        return "", f"cannot be read ({' '.join(str(error).split())}); fetch or save it again"
    return hashlib.sha256(data).hexdigest()[:16], ""
