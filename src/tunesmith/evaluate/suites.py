"""What a model is asked before and after training: public suites, the user's own questions, and texts.

Everything is scored by likelihood. Choices are ranked as lm-evaluation-harness ranks them (``acc_norm``), so that item
by item the scores are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.read import read_rows
from tunesmith.data.read.rows import BadRow
from tunesmith.data.render import listed
from tunesmith.errors import DataError, EvaluationError, NotFoundError, TunesmithError
from tunesmith.evaluate.harness import read_task, require_harness
from tunesmith.records import content_hash
from tunesmith.sources import resolve_suite
from tunesmith.sources.catalog import SUITES, SuiteKind, suite_entry

if TYPE_CHECKING:
    from tunesmith.config import Forgetting
    from tunesmith.model.load import LanguageModel

TIERS: dict[str, dict[str, int | None]] = {  # of each suite, how many items; None: all
    "quick": {"general-text": 100, "piqa": 100, "commonsenseqa": 100, "openbookqa": 100},
    "standard": dict.fromkeys(SUITES, 500),
    "full": dict.fromkeys(SUITES),
    "off": {},
}
OWN_LIMIT = {"quick": 100, "standard": 500, "full": None}  # items of each file of the user's
TEXT_TOKENS = 128  # of each text
PIECE_CHARACTERS = 400  # a document is scored in pieces of about this many, about 100 tokens of English
SHORTEST = 20  # characters of a text
FEWEST = 10  # questions, or documents, below which no interval means anything


@dataclass(frozen=True, slots=True)
class Item:
    """``prompt`` and its ``options``; of a text the prompt is empty and the one option is the text.

    ``right`` is the index of the right option; ``document`` names what items share, and is empty where nothing.
    """

    prompt: str
    options: tuple[str, ...]
    right: int
    document: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of items of one kind, in a fixed order."""

    name: str
    kind: SuiteKind
    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        """Equal for equal items, wherever they come from."""
        return content_hash([self.kind, [asdict(item) for item in self.items]])

    @property
    def has_choices(self) -> bool:
        return self.kind in ("multiple_choice", "yes_no")

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return float(np.mean([1 / len(item.options) for item in self.items]))

    @property
    def documents(self) -> list[str] | None:
        """What each item is part of; None where no two share anything."""
        names = [item.document for item in self.items]
        return names if any(names) else None


def load_suites(settings: Forgetting) -> dict[str, Suite | str]:
    """The suites of a tier and the user's own, by name; for one that cannot be had, why not.

    Raises:
        DataError: If the user's own files cannot be used; see :func:`read_own`.
    """
    suites: dict[str, Suite | str] = {}
    for name, limit in TIERS[settings.tier].items():
        try:
            suites[name] = read_suite(name, limit)
        except TunesmithError as error:
            suites[name] = str(error)
    return {**suites, **read_own(settings)}


def read_suite(name: str, limit: int | None = None) -> Suite:
    """The first ``limit`` items of a catalog suite in the order of their hashes, the same on every machine.

    Raises:
        EvaluationError: If the file holds what the suite should not, or no usable item.
        SourceError: If it cannot be had.
    """
    kind = suite_entry(name).kind
    items = []
    for number, line in enumerate(resolve_suite(name).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            items.append(_READ[kind](json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"suite {name}, line {number}: {error}. Delete it from the cache and pull again."
            ) from error
    usable = _by_hash([item for item in items if item is not None], limit)
    if not usable:
        raise EvaluationError(f"suite {name} has no usable item.")
    return Suite(name, kind, usable)


def read_own(settings: Forgetting) -> dict[str, Suite | str]:
    """The user's own questions and texts, by the path as it was written.

    Raises:
        DataError: If a row cannot be used, a file has too few, or a task of the harness is none; all of them in one
            message.
        MissingExtraError: If there are tasks of the harness and it is not installed.
    """
    problems: list[str] = []
    if settings.harness:
        require_harness()
    for path in settings.harness:
        try:
            read_task(path)
        except EvaluationError as error:
            problems.append(str(error))
    found: dict[str, Suite | str] = {}
    for paths, read, kind, what in (
        (settings.suites, _own_questions, "multiple_choice", "questions"),
        (settings.texts, _own_texts, "text", "documents"),
    ):
        for path in paths:
            before = len(problems)
            try:
                items = list(read(path, problems))
            except (DataError, NotFoundError) as error:
                problems.append(str(error))
                continue
            count = len({item.document or item.prompt for item in items})
            if count < FEWEST and len(problems) == before:
                problems.append(f"{path}: {count} {what}; expected {FEWEST} or more, so that a loss can be told.")
            found[path] = Suite(path, kind, _by_hash(items, OWN_LIMIT.get(settings.tier)))  # type: ignore[arg-type]
    if problems:
        raise DataError(listed(f"forgetting: {len(problems):,} problems in your suites, texts and tasks.", problems))
    return found


def _by_hash(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Each item once, in the order of hashes, cut at ``limit``."""
    hashed = {hashlib.sha256(f"{item.prompt}|{item.options}".encode()).hexdigest(): item for item in items}
    return tuple(hashed[key] for key in sorted(hashed)[:limit])


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────
def _text(row: Mapping[str, Any]) -> Item:
    return Item("", (" ".join(str(row["passage"]).split()),), 0)


def _choices(row: Mapping[str, Any]) -> Item | None:
    """A question with lettered options; None where the answer is not among them."""
    options = [part.strip() for part in re.split(r"(?:^|\n)\s*[A-H]\.\s*", row["options"]) if part.strip()]
    answer = re.sub(r"^[A-H]\.\s*", "", row["answer"]).strip()
    return _question(row, options, options.index(answer)) if answer in options and len(options) > 1 else None


def _yes_no(row: Mapping[str, Any]) -> Item:
    return _question({**row, "question": f"{row['question'].strip()}?"}, ["no", "yes"], _TRUTH.index(row["answer"]))


def _answers(row: Mapping[str, Any]) -> Item:
    """A question with right answers only."""
    return _question(row, [answer.strip() for answer in row["answer"]], 0)


_TRUTH = ("False", "True")
_READ = {"text": _text, "multiple_choice": _choices, "yes_no": _yes_no, "answers": _answers}


def _question(row: Mapping[str, Any], options: Sequence[str], right: int) -> Item:
    passage = f"{row['passage'].strip()}\n" if row.get("passage") else ""
    prompt = f"{passage}Question: {row['question'].strip()}\nAnswer:"
    return Item(prompt, tuple(f" {option}" for option in options), right)


def _own_questions(path: str, problems: list[str]) -> Iterator[Item]:
    for line, row in read_rows(Path(path)):
        problem = row.reason if isinstance(row, BadRow) else _wrong_with(row)
        if problem is not None:
            problems.append(f"{path} line {line}: {problem}.")
        elif not isinstance(row, BadRow):
            options = [option.strip() for option in row["options"]]
            yield _question(row, options, options.index(row["answer"].strip()))


def _wrong_with(row: Mapping[str, Any]) -> str | None:
    """Why a row is no question with options; None if it is one."""
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"'{key}' is {json.dumps(row.get(key))[:60]}, expected text"
    if not isinstance(row.get("passage", ""), str):
        return f"'passage' is {json.dumps(row['passage'])[:60]}, expected text, or leave it out"
    options = row.get("options")
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        return f"'options' is {json.dumps(options)[:60]}, expected a list of texts"
    options = [option.strip() for option in options]
    if len(options) < 2 or len(set(options)) < len(options):
        return f"'options' is {json.dumps(options)[:60]}, expected two or more that differ"
    if row["answer"].strip() not in options:
        return (
            f"'answer' is {json.dumps(row['answer'])[:60]}, which is none of the options; write one as it stands there"
        )
    return None


def _own_texts(path: str, problems: list[str]) -> Iterator[Item]:
    for name, text in _documents(path, problems):
        words = " ".join(text.split())
        if len(words) < SHORTEST:
            problems.append(f"{name}: {len(words)} characters; expected {SHORTEST} or more.")
        for start in range(0, len(words), PIECE_CHARACTERS):
            piece = words[start : start + PIECE_CHARACTERS].strip()
            if start == 0 or len(piece) > PIECE_CHARACTERS // 4:  # a short end says little
                yield Item("", (piece,), 0, name)


def _documents(path: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of each document of a folder, or of each row of a file."""
    if Path(path).is_dir():
        for file in sorted(f for f in Path(path).rglob("*") if f.suffix.lower() in (".txt", ".md")):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (UnicodeDecodeError, OSError) as error:
                problems.append(f"{file}: cannot be read as UTF-8 ({error}). Save it anew.")
                continue
            if not text.strip():
                problems.append(f"{file}: is empty. Remove it.")
            else:
                yield str(file), text
        return
    for line, row in read_rows(Path(path)):
        if isinstance(row, BadRow):
            problems.append(f"{path} line {line}: {row.reason}.")
        elif not isinstance(row.get("text"), str) or not row["text"].strip():
            problems.append(f"{path} line {line}: 'text' is {json.dumps(row.get('text'))[:60]}, expected text.")
        else:
            yield f"{path}:{line}", row["text"]


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────
def suite_scores(lm: LanguageModel, suite: Suite) -> dict[str, list[float]]:
    """Scores of each item, by measure.

    ``nll``: nats per token of the text, of the right option, or over all right answers. ``accuracy``, where there are
    options: 1 if the right one is the likeliest, by log-likelihood for each of its characters, so that length does not
    decide; of yes and no by the log-likelihood itself.

    Raises:
        EvaluationError: If an item is longer than the model can take.
    """
    from tunesmith.model.score import score_continuations

    if suite.kind == "text":
        texts = [lm.tokenizer(item.options[0]).input_ids[:TEXT_TOKENS] for item in suite.items]
        scored = score_continuations(lm, [ids[:1] for ids in texts], [[ids[1:]] for ids in texts])
        return {"nll": [float(loss[0].mean()) for loss in scored]}
    prompts = [lm.tokenizer(item.prompt).input_ids for item in suite.items]
    options = [[lm.tokenizer(o, add_special_tokens=False).input_ids for o in item.options] for item in suite.items]
    longest = max(len(p) + max(map(len, o)) for p, o in zip(prompts, options, strict=True))
    if longest > lm.max_length:
        raise EvaluationError(
            f"suite {suite.name}: a question has {longest:,} tokens, the model takes {lm.max_length:,}. Shorten it."
        )
    found = score_continuations(lm, prompts, options)
    if suite.kind == "answers":
        return {"nll": [float(np.mean([loss.mean() for loss in right])) for right in found]}
    scores: dict[str, list[float]] = {"accuracy": [], "nll": []}
    for losses, item in zip(found, suite.items, strict=True):
        lengths = [1.0 if suite.kind == "yes_no" else float(len(option.strip())) for option in item.options]
        best = int(np.argmax([-loss.sum() / n for loss, n in zip(losses, lengths, strict=True)]))
        scores["accuracy"].append(float(best == item.right))
        scores["nll"].append(float(losses[item.right].mean()))
    return scores
