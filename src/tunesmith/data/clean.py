"""``data clean``: a new file without what is certainly wrong, and a log of every change, to be replayed or undone.

Nothing goes because a model thinks it wrong: rows go when they are copies, say nothing, or stand in the test set, or
when a person has decided so; texts change where broken characters can be undone, or personal information is masked.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.check import settings_for
from tunesmith.data.checks.encoding import repair
from tunesmith.data.checks.personal_information import Found, bare, masked
from tunesmith.data.prepare import prepare_data, prepare_file
from tunesmith.errors import DataError

DROPPED = ("exact_duplicates", "near_duplicates", "empty_text", "split_leakage")  # their rows go
EDITED = ("encoding", "personal_information", "secrets")  # their texts change
FIXES = (*DROPPED, *EDITED)
USUAL = ("exact_duplicates", "empty_text", "encoding", "split_leakage")
FORMAT_VERSION = 1

Change = dict[str, Any]


def clean(
    source: Path,
    new: Path,
    fixes: Sequence[str] = USUAL,
    test: str | None = None,
    pseudonyms: bool = False,
    review: Path | None = None,
) -> dict[str, Any]:
    """Write ``source`` without what is wrong to ``new``, and every change to a log beside it.

    Args:
        source: JSON Lines; never changed.
        new: The file to write, which must not be there.
        fixes: Checks whose findings are mended.
        test: Held-out examples, for ``split_leakage``.
        pseudonyms: Put made-up values of the same form in place of personal ones, equal ones for equal ones.
        review: JSON Lines of what a person decided: ``{"row": 12, "label": "new"}`` or ``{"row": 12, "drop": true}``.

    Returns:
        ``rows`` before, ``dropped``, ``edited``, ``by_check``, and ``log``, its path. It holds the lines as they were,
        personal information too.

    Raises:
        DataError: If the file is no JSON Lines, ``new`` or its log is there already, or a decision fits no row.
    """
    log = new.with_name(f"{new.name}.changes.jsonl")
    if source.suffix.lower() not in (".jsonl", ".ndjson"):
        raise DataError(f"{source}: only JSON Lines can be cleaned. Write the data as .jsonl, one object a line.")
    for path in (new, log):
        if path.exists():
            raise DataError(f"{path}: is there already. Name another file with -o.")
    rows: dict[str, set[int]] = {}
    config = settings_for(str(source), test)
    kind = config.task.kind
    prepared = prepare_data(config.data, kind, config.seed) if test else prepare_file(config.data, kind)
    for finding in prepared.findings:
        if finding.check in fixes:
            rows.setdefault(finding.check, set()).update(finding.rows)
    decided = _decisions(review) if review is not None else {}
    lines = source.read_bytes().splitlines(keepends=True)
    beyond = sorted(number for number in decided if not 1 <= number <= len(lines))
    if beyond:
        raise DataError(f"{review}: row {beyond[0]} is not in {source}, which has {len(lines):,} lines. Mend it.")
    invent = _Pseudonyms() if pseudonyms else (lambda found: f"[{found.kind}]")
    changes: list[Change] = []
    for number, line in enumerate(lines, 1):
        names = [name for name, found in rows.items() if number in found]
        decision = decided.get(number)
        if decision is None and not names:
            continue
        before = line.decode("utf-8")
        after: str | None = None
        dropped = [name for name in names if name in DROPPED]
        if decision is not None and "label" not in decision:
            names = ["review"]
        elif dropped:
            names = dropped
        else:
            after = _edited(before, names, invent, decision, f"{source} line {number}")
            names += ["review"] * (decision is not None)
        if after != before:
            changes.append({"line": number, "checks": names, "before": before, "after": after})
    cleaned = b"".join(_applied(lines, changes))
    head = {"format_version": FORMAT_VERSION, "original": _digest(b"".join(lines)), "cleaned": _digest(cleaned)}
    new.write_bytes(cleaned)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in (head, *changes))
    by_check: dict[str, int] = {}
    for change in changes:
        for name in change["checks"]:
            by_check[name] = by_check.get(name, 0) + 1
    dropped_rows = sum(change["after"] is None for change in changes)
    return {
        "rows": len(lines), "dropped": dropped_rows, "edited": len(changes) - dropped_rows, "by_check": by_check,
        "log": str(log),
    }  # fmt: skip


def replay(log: Path, source: Path, new: Path, undo: bool = False) -> None:
    """Make the logged changes again, or undo them: ``new`` then is the cleaned or the original file, byte for byte.

    Raises:
        DataError: If ``source`` is not the file that the log was written for, or ``new`` is there already.
    """
    if new.exists():
        raise DataError(f"{new}: is there already. Name another file with -o.")
    head, *changes = [json.loads(line) for line in log.read_text(encoding="utf-8").split("\n") if line]
    begin, end = ("cleaned", "original") if undo else ("original", "cleaned")
    lines = source.read_bytes().splitlines(keepends=True)
    if _digest(b"".join(lines)) != head[begin]:
        raise DataError(f"{source}: not the {begin} file of {log}; its content differs. Name that file.")
    result = b"".join(_undone(lines, changes) if undo else _applied(lines, changes))
    if _digest(result) != head[end]:
        raise DataError(
            f"{log}: was changed since it was written, and does not lead to the {end} file. Nothing written."
        )
    new.write_bytes(result)


def _applied(lines: Sequence[bytes], changes: Sequence[Change]) -> Iterator[bytes]:
    by_line = {change["line"]: change for change in changes}
    for number, line in enumerate(lines, 1):
        change = by_line.get(number)
        if change is None:
            yield line
        elif change["after"] is not None:
            yield change["after"].encode()


def _undone(lines: Sequence[bytes], changes: Sequence[Change]) -> Iterator[bytes]:
    by_line = {change["line"]: change for change in changes}
    left, number = iter(lines), 1
    while True:
        change = by_line.pop(number, None)
        line = None if change is not None and change["after"] is None else next(left, None)
        if change is None and line is None:
            return
        yield change["before"].encode() if change is not None else line or b""
        number += 1


def _edited(
    before: str, checks: Sequence[str], invent: Callable[[Found], str], decision: Mapping[str, Any] | None, place: str
) -> str:
    """A line with its texts mended, or its label set; what is not changed stays as it is written."""
    row = json.loads(before)
    kinds = {"key": "secrets" in checks}

    def mended(text: str) -> str:
        if "encoding" in checks:
            text = repair(text)
        if "personal_information" in checks or "secrets" in checks:
            text = masked(text, lambda f: invent(f) if kinds.get(f.kind, "personal_information" in checks) else f.value)
        return text

    changed = _strings(row, mended)
    if decision is not None:
        columns = [key for key in row if key.lower() in ("label", "labels", "category", "class", "target", "intent")]
        if len(columns) != 1:
            raise DataError(f"{place}: which column holds the label? Expected one named label, category or the like.")
        changed[columns[0]] = decision["label"]
    if changed == row:
        return before
    return json.dumps(changed, ensure_ascii=False) + before[len(before.rstrip("\r\n")) :]


def _strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _strings(item, change) for key, item in value.items()}
    return value


def _decisions(path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            decision = json.loads(line)
            fits = isinstance(decision["row"], int) and (decision.get("drop") is True) != ("label" in decision)
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            problems.append(
                f'{path} line {number}: expected {{"row": 12, "label": "new"}} or {{"row": 12, "drop": true}}.'
            )
            continue
        found[decision["row"]] = decision
    if problems:
        raise DataError("\n".join(problems))
    return found


class _Pseudonyms:
    """Made-up values of the same form, the same for equal ones; nothing leads back but the log."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._random = random.Random(secrets.randbits(128))

    def __call__(self, found: Found) -> str:
        key = (found.kind, bare(found.value))
        if key not in self._known:
            if found.kind == "email":
                self._known[key] = f"person{len(self._known) + 1}@example.org"
            else:
                self._known[key] = "".join(map(self._other, found.value))
        return self._known[key]

    def _other(self, character: str) -> str:
        if character.isdecimal():
            return self._random.choice("0123456789")
        if character.isalpha():
            letter = self._random.choice("abcdefghijklmnopqrstuvwxyz")
            return letter.upper() if character.isupper() else letter
        return character


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
