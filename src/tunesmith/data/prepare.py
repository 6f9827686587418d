"""From the data settings to splits: fetch the files, read them, split them, and gather what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.config import Data
from tunesmith.data.read import ReadResult, read_examples
from tunesmith.data.split import limit_train, split_examples
from tunesmith.errors import DataError
from tunesmith.records import Finding, Split
from tunesmith.sources import resolve_file


@dataclass(frozen=True, slots=True)
class Prepared:
    """The splits, what each file held, and all findings (those of reading, then those of splitting)."""

    split: Split
    files: dict[str, ReadResult]
    findings: tuple[Finding, ...]

    @property
    def instruction(self) -> str | None:
        """The system message that all rows of the training file share, for classification."""
        return self.files["train"].instruction

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of train, sorted; empty where examples have none."""
        return tuple(sorted({e.label for e in self.split.train if e.label is not None}))


def prepare_data(data: Data, task_kind: str, seed: int) -> Prepared:
    """Read and split the data of a task; ``data.train_limit`` is applied last, so that it moves nothing.

    Raises:
        NotFoundError: If a file is not there.
        DataError: If the data cannot be used; the problems of all files in one message.
    """
    files: dict[str, ReadResult] = {}
    problems: list[str] = []
    parts: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    for part in parts:
        source: str | None = getattr(data, part)
        if source is None:
            continue
        path = resolve_file(source)
        try:
            files[part] = read_examples(
                path,
                task_kind,
                format=data.format,
                text=data.text,
                label=data.label,
                group=data.group,
                policy=data.policy,
                name=source,
                part=part,
            )
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    stratify = task_kind == "classification"
    split = split_examples(
        files["train"].examples,
        seed=seed,
        validation_size=data.validation_size,
        test_size=data.test_size,
        validation=files["validation"].examples if "validation" in files else None,
        test=files["test"].examples if "test" in files else None,
        stratify=stratify,
    )
    if data.train_limit is not None:
        kept = limit_train(split.train, data.train_limit, stratify)
        split = Split(kept, split.validation, split.test, split.findings)
    found = tuple(finding for result in files.values() for finding in result.findings)
    return Prepared(split, files, found + split.findings)
