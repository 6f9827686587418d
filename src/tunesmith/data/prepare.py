"""From the data settings to splits: fetch the files, read them, split them, and gather what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.config import Data
from tunesmith.data.audit import audit_findings, audit_groups
from tunesmith.data.checks import Listener, run_checks, silent
from tunesmith.data.checks.duplicates import find_duplicates
from tunesmith.data.checks.material import Material
from tunesmith.data.lexicon import read_lexica
from tunesmith.data.read import ReadResult, read_examples
from tunesmith.data.read.formats import LABELLED
from tunesmith.data.split import labels_of, limit_train, same_text_key, split_examples
from tunesmith.errors import DataError
from tunesmith.records import Example, Finding, Split
from tunesmith.sources import resolve_files


@dataclass(frozen=True, slots=True)
class Prepared:
    """The splits, what each file held, and all findings (of reading, of splitting, of groups and labels, of checks)."""

    split: Split
    files: dict[str, ReadResult]
    findings: tuple[Finding, ...]
    material: Material
    task_kind: str = "classification"

    @property
    def instruction(self) -> str | None:
        """The system message that all rows of the training file share, for classification."""
        return self.files["train"].instruction

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of train, sorted; of several each by itself; empty where examples have none or numbers."""
        if self.task_kind == "regression":
            return ()
        labelled = [e for e in self.split.train if e.label is not None]
        return tuple(sorted({label for e in labelled for label in labels_of(e, self.task_kind)}))


def prepare_data(
    data: Data, task_kind: str, seed: int, swapped: Sequence[str] = (), listener: Listener = silent
) -> Prepared:
    """Read and split the data of a task; ``data.train_limit`` is applied last, so that it moves nothing.

    Classifications are stratified by label, and regressions by tenths of the target: see ``split_examples``. Texts that
    differ only in terms of the lexica ``swapped`` stay on one side of a split, as their swapped copies would.

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
        try:
            files[part] = read_source(source, data, task_kind, part)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    stratify = task_kind in LABELLED
    copies = find_duplicates(files["train"].examples)
    split = split_examples(
        files["train"].examples,
        seed=seed,
        validation_size=data.validation_size,
        test_size=data.test_size,
        validation=files["validation"].examples if "validation" in files else None,
        test=files["test"].examples if "test" in files else None,
        stratify=stratify,
        task_kind=task_kind,
        text_key=neutral_key(swapped) if swapped else same_text_key,
        copies=[(a, b) for a, b, _ in copies.respelled],
    )
    if data.train_limit is not None:
        kept = limit_train(split.train, data.train_limit, stratify, task_kind)
        split = Split(kept, split.validation, split.test, split.findings)
    found = tuple(finding for result in files.values() for finding in result.findings)
    found += split.findings + tuple(audit_findings(audit_groups(split.train, data.sensitive)))
    material = Material(data, task_kind, files["train"].examples, split, copies)
    found += tuple(run_checks(material, listener))
    return Prepared(split, files, found, material, task_kind)


def prepare_file(data: Data, task_kind: str, listener: Listener = silent) -> Prepared:
    """Read and check the training file alone; nothing is split off.

    Raises:
        NotFoundError: If the file is not there.
        DataError: If it cannot be used.
    """
    read = read_source(data.train, data, task_kind)
    split = Split(read.examples, (), ())
    material = Material(data, task_kind, read.examples, split, find_duplicates(read.examples))
    found = (*read.findings, *run_checks(material, listener))
    return Prepared(split, {"train": read}, found, material, task_kind)


def neutral_key(lexica: Sequence[str]) -> Callable[[Example], str]:
    """What two texts agree in that are each other's swaps: all but the lexica's terms."""
    found = read_lexica(lexica)

    def key(example: Example) -> str:
        text = example.text or ""
        for lexicon in found:
            text = lexicon.neutral(text)
        return same_text_key(replace(example, text=text))

    return key


def read_source(
    source: str, data: Data, task_kind: str, part: Literal["train", "validation", "test"] = "train"
) -> ReadResult:
    """Fetch and read what a source stands for, laid out as the settings say.

    Raises:
        NotFoundError: If there is no such file.
        DataError: If the data cannot be used.
    """
    return read_examples(
        resolve_files(source, _image_folder(data.image)),
        task_kind,
        format=data.format,
        text=data.text,
        label=data.label,
        group=data.group,
        image=data.image,
        sensitive=data.sensitive,
        columns=data.columns,
        template=data.template,
        policy=data.policy,
        name=source,
        part=part,
    )


def _image_folder(image: str | None) -> str | None:
    """The folder of the images, relative to the data file's: what stands before the first {column}."""
    if image is None or image.startswith(("/", "~")):
        return None
    return image.partition("{")[0].rpartition("/")[0] if "{" in image else ""
