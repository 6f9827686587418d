"""A line typed at a terminal, read as one example that is laid out as the rows of the training file were."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.read.cells import RowError
from tunesmith.data.read.formats import LABELLED
from tunesmith.data.read.images import locate_image
from tunesmith.data.read.jsonl import parse_object
from tunesmith.data.read.rows import BadRow
from tunesmith.data.read.table import read_cell, render
from tunesmith.errors import DataError
from tunesmith.records import Example, Message

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # of ``images.FORMATS``


@dataclass(frozen=True, slots=True)
class TypedForm:
    """How a line becomes an example.

    ``columns`` are those of a table's row in their order, empty for any other layout; ``sees`` says that examples have
    an image. ``answer`` stands where an example of a file has its right answer, which nothing typed has.
    """

    task_kind: str
    answer: str
    columns: tuple[str, ...] = ()
    template: str = "names"
    sees: bool = False

    @property
    def help(self) -> str:
        """What a line is, in a sentence for the terminal."""
        if self.columns:
            return (
                f"Each line is a row, as JSON, as {self.columns[0]}=VALUE, … or as the values of "
                f"{', '.join(self.columns)} between commas."
            )
        if self.sees and self.task_kind in LABELLED:
            return "Each line is the path of an image."
        if self.sees:
            return "A line is an image's path and a question; without a path it asks about the image before."
        return "Each line is a text by itself."


def read_typed(line: str, form: TypedForm, image: str | None = None) -> Example:
    """The example that a line is.

    Args:
        line: What was typed.
        form: How it is laid out.
        image: The path of the image that a question without one is about.

    Raises:
        DataError: If it is none, with what was expected.
    """
    if form.columns:
        cells = _read_row(line, form.columns)
        return Example("typed", text=render(cells, form.template), label=form.answer, columns=cells)
    if form.sees and form.task_kind in LABELLED:
        path, digest = _image(line.strip().strip("\"'"))
        return Example("typed", label=form.answer, image=path, image_hash=digest)
    if form.task_kind in LABELLED:
        return Example("typed", text=line, label=form.answer)
    if not form.sees:
        return Example("typed", _asked(line, form))
    named, question = split_image(line)
    if named is None and image is None:
        raise DataError("no image yet; expected an image's path before the question, in quotes if it has blanks.")
    if not question:
        raise DataError(f"{named}: no question; expected one behind the image's path.")
    path, digest = _image(named or image or "")
    return Example("typed", _asked(question, form), image=path, image_hash=digest)


def _asked(question: str, form: TypedForm) -> tuple[Message, ...]:
    return (Message("user", question), Message("assistant", form.answer))


def split_image(line: str) -> tuple[str | None, str]:
    """The image's path that a line begins with, None if it names none, and the rest.

    A first word is a path where a file is there, or where it ends as images do: a path that is misspelt is no word
    of a question.
    """
    line = line.strip()
    quote = line[:1] if line[:1] in ("'", '"') and line[:1] in line[1:] else ""
    word, _, rest = line[1:].partition(quote) if quote else line.partition(" ")
    if word.lower().endswith(IMAGE_ENDINGS) or (word and Path(word).expanduser().is_file()):
        return word, rest.strip()
    return None, line


def _image(path: str) -> tuple[str, str]:
    try:
        return locate_image({"image": path}, "image", Path())
    except RowError as error:
        raise DataError(f"{error}.") from error


def _read_row(line: str, columns: Sequence[str]) -> tuple[tuple[str, str | float | None], ...]:
    """A row's cells in the order of the columns, each of which must be given; an empty value is a missing one."""
    values = _values(line, columns)
    absent = [column for column in columns if column not in values]
    unknown = [column for column in values if column not in columns]
    problems = [
        *([f"not given: {', '.join(absent)} (leave a value empty, or null, where there is none)"] if absent else []),
        *([f"no column of the model: {', '.join(unknown)}"] if unknown else []),
    ]
    cells = []
    for column in columns:
        try:
            cells.append((column, read_cell(values.get(column), column)))
        except RowError as error:
            problems.append(str(error))
    if problems:
        raise DataError(f"{'; '.join(problems)}. Expected the columns {', '.join(columns)}.")
    return tuple(cells)


def _values(line: str, columns: Sequence[str]) -> dict[str, Any]:
    """What a line gives by column, from JSON, from ``column=value`` between commas, or from the values alone."""
    if line.lstrip().startswith("{"):
        found = parse_object(line, 1)
        if isinstance(found, BadRow):
            raise DataError(f"{found.reason}. Expected the columns {', '.join(columns)}.")
        return found
    fields = [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    pairs = [field.partition("=") for field in fields]
    if any(sign and name.strip() in columns for name, sign, _ in pairs):
        loose = [name for name, sign, _ in pairs if not sign]
        if loose:
            named = ", ".join(repr(name) for name in loose)
            raise DataError(f"{named}: expected column=value everywhere, in quotes where a value has a comma.")
        names = Counter(name.strip() for name, _, _ in pairs)
        if twice := [name for name, n in names.items() if n > 1]:
            raise DataError(f"given twice: {', '.join(twice)}. Keep one.")
        return {name.strip(): value.strip() for name, _, value in pairs}
    if len(fields) != len(columns):
        raise DataError(
            f"{len(fields)} values; expected {len(columns)}, of {', '.join(columns)} in this order, or column=value "
            "pairs, or a JSON object."
        )
    return dict(zip(columns, fields, strict=True))
