"""The run directory: what files a run has, and how they are written, read and listed.

One process writes a run directory at a time; every file appears whole or not at all (written beside, flushed to
disk, then renamed).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tunesmith.config import FORMAT_VERSION
from tunesmith.errors import NotFoundError, RunError
from tunesmith.records import Example, Message, Prediction

ARTIFACTS = ("adapter", "model", "head")  # folders of a candidate that hold its weights, by method
CURVE = "learning_curve.json"  # in a run directory: see search.learning_curve
PREDICTOR = "predictor.json"  # in a candidate's folder: a predictor on vectors, see candidates.predictor
# What to do with a chosen candidate that is no fine-tuned model, by its family.
USES = {
    "baseline": "It gives every example the same answer",
    "boosting": "Its trees are not kept; fit scikit-learn's HistGradientBoosting on the same columns",
    "prompt": "It is {model} as it is, asked with the prompt in {folder}/evaluation.json (details.prompt), which "
    "report.html shows to copy: 'tunesmith chat {model}'",
    "embedding": "'tunesmith chat {run}' asks it; see docs/candidates/embedding.md for Python",
    "setfit": "'tunesmith chat {run}' asks it; see docs/candidates/setfit.md for Python",
    "rag": "It is {model} with documents: 'tunesmith rag ask {index} QUESTION --model {model} --retriever {last}'",
}


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> RunError:
    """A full disk, a read-only folder or a broken device, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{path}: the disk is full. What was complete is kept; free some space and run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(f"{path}: cannot be written here ({error.strerror}). Choose another place with --out.")
    return RunError(f"{path}: {error.strerror or error}.")


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, renamed to ``folder`` when complete; what was there is replaced only then.

    Raises:
        RunError: If the disk does not take it.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, folder) from error


@contextlib.contextmanager
def held_for_writing(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder that is there; a second process is refused, and a lock goes with the process that held it.

    Args:
        folder: Gets a file ``.lock``.
        busy: What the second process is told, after the folder's name.

    Raises:
        RunError: If another process holds it, or the lock cannot be written.
    """
    try:
        handle = (folder / ".lock").open("a+")
    except OSError as error:
        raise disk_error(error, folder) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder}: {busy}") from error
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any parser reads: no NaN, no infinity, keys in the order given."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file. Is it a run directory that finished this stage?") from error
    except ValueError as error:
        raise RunError(f"{path}: not valid JSON ({error}). Delete it and run again.") from error


class Run:
    """A run directory. Paths are attributes; writing is by whole files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_file = folder / "run.yaml"
        self.data_file = folder / "data.json"
        self.plan_file = folder / "plan.json"
        self.report_file = folder / "report.json"
        self.html_file = folder / "report.html"

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run, or raise NotFoundError / RunError."""
        run = cls(folder)
        if not run.settings_file.is_file():
            raise NotFoundError(f"{folder}: not a run directory (it has no run.yaml).")
        version = run.settings().get("format_version")
        if version != FORMAT_VERSION:
            raise RunError(f"{folder}: written in format {version}; this version reads format {FORMAT_VERSION}.")
        return run

    def settings(self) -> dict[str, Any]:
        try:
            loaded = yaml.safe_load(self.settings_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            loaded = None
        if not isinstance(loaded, dict):
            raise RunError(f"{self.settings_file}: damaged. Start the run again in a new folder.")
        return loaded

    def candidate(self, candidate_id: str) -> Path:
        return self.folder / "candidates" / candidate_id.replace("/", "__")

    def split(self, part: str) -> Path:
        return self.folder / "splits" / f"{part}.parquet"

    def saved_model(self, candidate_id: str) -> Path | None:
        """The folder with a candidate's weights; None if it has none."""
        folders = (self.candidate(candidate_id) / name for name in ARTIFACTS)
        return next((folder for folder in folders if folder.is_dir()), None)

    def chosen_model(self) -> Path:
        """The folder with the weights of the candidate that the verdict chose, or of the only one that has any.

        Raises:
            NotFoundError: If there is no report, or the choice is no fine-tuned model and there are several or none.
        """
        report = read_json(self.report_file)
        choice = report["verdict"]["choice"]
        found = self.saved_model(choice) if choice else None
        if found is None:
            saved = [path for c in report["candidates"] if (path := self.saved_model(c["id"]))]
            if len(saved) == 1:
                return saved[0]
            raise NotFoundError(
                f"{self.folder}: its verdict is {choice or 'no candidate'}, which is no fine-tuned model. "
                + (self._use(choice) if choice else "")
                + (f"Name one of its models: {', '.join(map(str, saved))}." if saved else "It has no fine-tuned model.")
            )
        return found

    def _use(self, choice: str) -> str:
        """What to do with a chosen candidate that is no fine-tuned model, as a sentence; "" where nothing is known."""
        family, _, last = choice.partition("/")
        if choice.endswith("+threshold"):
            return (
                f"It is {choice.removesuffix('+threshold')} with a threshold for each group; they stand in "
                f"{self.candidate(choice)}/evaluation.json (details.remedy). "
            )
        if family not in USES:
            return ""
        config = self.settings().get("config", {})
        model = config.get("model") or read_json(self.plan_file)["facts"]["model"]
        index = (config.get("rag") or {}).get("index") or self.folder / "index"
        use = USES[family].format(
            run=self.folder, folder=self.candidate(choice), model=model, index=index, last=last.rsplit("/", 1)[-1]
        )
        return f"{use}. "

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for writing; a second process is refused, a crashed one leaves nothing behind."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        with held_for_writing(self.folder, "another process is writing this run. Wait for it, or use --out."):
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what a killed process had begun to write; nobody else writes while the lock is held."""
        for place in ("", "splits/", "candidates/*/", "candidates/*/*/"):
            for stale in list(self.folder.glob(f"{place}.*.{'[0-9a-f]' * 8}")):
                if stale.is_dir():
                    shutil.rmtree(stale, ignore_errors=True)
                else:
                    stale.unlink(missing_ok=True)

    # ── the sealed test split ────────────────────────────────────────────────────────────────────────────
    def count_test_look(self, who: str) -> int:
        """Record that candidates were judged on the test split; returns how often that happened.

        One pass over the candidates of a run is one look; a resumed pass, or an evaluation later, is another.
        """
        path = self.folder / "test_looks.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"who": who}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, path) from error
        return self.test_looks()

    def test_looks(self) -> int:
        path = self.folder / "test_looks.jsonl"
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def saved_model(name: str) -> str:
    """The weights that a name stands for: of a run its verdict's choice, of a candidate's folder what it saved.

    Anything else, such as a catalog name, stands for itself.

    Raises:
        NotFoundError: If it is a candidate's folder with a predictor on vectors, or a run without a fine-tuned model.
    """
    path = Path(name).expanduser()
    if (path / PREDICTOR).is_file():
        raise NotFoundError(f"{name}: a predictor on vectors, which writes no text. Ask it: tunesmith chat {name}")
    if (path / "run.yaml").is_file():
        return str(Run.open(path).chosen_model())
    return str(next((path / inner for inner in ARTIFACTS if (path / inner / "tunesmith.json").is_file()), name))


def saved_predictor(name: str) -> Path | None:
    """The candidate's folder with a predictor on vectors, of that name or chosen by the run of that name, if any."""
    path = Path(name).expanduser()
    if (path / "report.json").is_file() and (path / "run.yaml").is_file():
        choice = read_json(path / "report.json")["verdict"]["choice"]
        path = Run.open(path).candidate(choice) if choice else path
    return path if (path / PREDICTOR).is_file() else None


# ── Parquet files: splits and predictions ────────────────────────────────────────────────────────────────
def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as Parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. Has this stage of the run finished?")
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path}: damaged Parquet file ({error}). Delete it and run again.") from error
    return rows


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    write_table(path, [
        {"id": e.id, "source": e.source, "text": e.text, "label": e.label, "group": e.group,
         "messages": _turns(e.messages), "rejected": _turns(e.rejected), "image": e.image,
         "image_hash": e.image_hash, "columns": json.dumps(e.columns, ensure_ascii=False),
         "sensitive": _pairs(e.sensitive)}
        for e in examples
    ])  # fmt: skip


def _pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(pairs), ensure_ascii=False)


def _turns(messages: tuple[Message, ...]) -> str:
    return json.dumps([asdict(m) for m in messages], ensure_ascii=False)


def read_examples(path: Path) -> tuple[Example, ...]:
    examples = []
    for row in read_table(path):
        example = Example(
            row["source"],
            tuple(Message(**m) for m in json.loads(row["messages"])),
            row["text"],
            row["label"],
            row["group"],
            # splits written before there were these have no such columns
            tuple(Message(**m) for m in json.loads(row.get("rejected") or "[]")),
            row.get("image"),
            tuple((name, value) for name, value in json.loads(row.get("columns") or "[]")),
            row.get("image_hash"),
            tuple(json.loads(row.get("sensitive") or "{}").items()),
        )
        if example.id != row["id"]:
            raise RunError(f"{path}: example {row['id']} was changed after the split. Start the run again.")
        examples.append(example)
    return tuple(examples)


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    write_table(path, [asdict(p) | {"sensitive": _pairs(p.sensitive)} for p in predictions])


def read_predictions(path: Path) -> list[Prediction]:
    rows = read_table(path)
    for row in rows:
        if row["probabilities"] is not None:
            row["probabilities"] = tuple(row["probabilities"])
        row["sensitive"] = tuple(json.loads(row.get("sensitive") or "{}").items())
    return [Prediction(**row) for row in rows]
