"""``check``: everything that is wrong with data, before anything is trained on it."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.config import Config, Data, parse_config, read_config
from tunesmith.data.checks import Listener, gate, label_errors, silent
from tunesmith.data.checks.contamination import ENCODER
from tunesmith.data.checks.material import Material
from tunesmith.data.prepare import Prepared, prepare_data, prepare_file
from tunesmith.data.read import BadRow, read_rows
from tunesmith.data.read.formats import REQUIRED
from tunesmith.errors import DataError
from tunesmith.records import Finding
from tunesmith.sources import resolve_file, resolve_model

UNUSABLE = ("bad_rows", "empty_text")  # rows that a strict run refuses


def settings_for(source: str, test: str | None = None) -> Config:
    """A project file's settings, or those that fit a plain data file."""
    if source.endswith((".yaml", ".yml")):
        return read_config(Path(source))
    rows = [row for _, row in islice(read_rows(resolve_file(source)), 100) if not isinstance(row, BadRow)]
    columns = {column for row in rows for column in row}
    known = any(columns.issuperset(required) for required in REQUIRED.values())
    data = {"train": source, "policy": "skip", **({"test": test} if test else {})}
    return parse_config({"task": "generation" if known else "classification", "data": data}, source)


def check(
    source: str | Config,
    test: str | None = None,
    meaning: bool = False,
    listener: Listener = silent,
) -> dict[str, Any]:
    """Look at a project's data, or at one file, and say whether it is fit to be trained on.

    A project's data is read, split and checked as ``run`` would. A file is taken as it is; with ``test``, training rows
    that stand there are looked for. Rows that cannot be used are findings, not errors.

    Args:
        source: A project file or its settings, or a data file.
        test: Held-out examples of a data file.
        meaning: Also look at what texts mean, with a sentence encoder: better suspicions of wrong labels, texts far
            from all others, paraphrases of held-out texts.
        listener: Told of what is being done.

    Returns:
        ``rows``, ``gate`` (``ready``, ``warnings`` or ``not_ready``: a run would refuse the data), ``findings``,
        ``not_run`` (checks with the reason), ``seconds``, and the ``task`` it was read for.
    """
    config = settings_for(source, test) if isinstance(source, str) else source
    split = isinstance(source, Config) or source.endswith((".yaml", ".yml")) or test is not None
    strict, update = config.data.policy == "strict", {"policy": "skip"}
    data = config.data.model_copy(update={**update, "contamination": "meaning"} if meaning else update)
    begun = time.perf_counter()
    prepared, findings = _prepared(data, config, split, listener)
    seconds = {"checks": time.perf_counter() - begun}
    not_run: dict[str, str] = {}
    if prepared is not None:
        findings += [_refused(f) if strict and f.check in UNUSABLE else f for f in prepared.findings]
        findings += _by_model(prepared.material, meaning, seconds, not_run, listener)
    order = {"error": 0, "warning": 1, "info": 2}
    return {
        "rows": prepared.files["train"].rows if prepared else 0,
        "gate": gate(findings),
        "findings": [finding.to_json() for finding in sorted(findings, key=lambda f: order[f.severity])],
        "not_run": not_run,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "task": config.task.kind,
    }


def _prepared(data: Data, config: Config, split: bool, listener: Listener) -> tuple[Prepared | None, list[Finding]]:
    """What a run would start from, or the file alone where it cannot be split; and why a run would refuse it."""
    refused: list[Finding] = []
    try:
        if split:
            return prepare_data(data, config.task.kind, config.seed, config.fairness.copied, listener), refused
    except DataError as error:
        refused = [Finding("refused", "error", 1, str(error), fix="Mend what the message names; a run stops at it.")]
    try:
        return prepare_file(data, config.task.kind, listener), refused
    except DataError as error:
        return None, refused or [Finding("refused", "error", 1, str(error), fix="Mend what the message names.")]


def _refused(finding: Finding) -> Finding:
    return replace(
        finding,
        severity="error",
        fix="Mend them, or leave them out: data.policy: skip. Until then a run refuses them.",
    )


def _by_model(
    material: Material, meaning: bool, seconds: dict[str, float], not_run: dict[str, str], listener: Listener
) -> list[Finding]:
    """Label errors, and with a sentence encoder texts out of domain."""
    if not meaning:
        not_run["out_of_domain"] = "needs a sentence encoder: tunesmith check --meaning"
    reason = label_errors.why_not(material)
    if reason:
        not_run["label_errors"] = reason
        if meaning:
            not_run["out_of_domain"] = reason
        return []
    texts = [example.text or "" for example in material.examples]
    begun = time.perf_counter()
    listener("check: label errors", 0, 0, {})
    vectors = _meanings(texts, listener) if meaning else label_errors.word_vectors(texts)
    found = label_errors.check(material, vectors)
    if meaning:
        found += label_errors.out_of_domain(material, vectors)
    seconds["label_errors"] = time.perf_counter() - begun
    return found


def _meanings(texts: list[str], listener: Listener) -> np.ndarray:
    from tunesmith.model.embed import embed, load_encoder

    done = [0]

    def progress(n: int) -> None:
        done[0] += n
        listener("check: reading for meaning", done[0], len(texts), {})

    return embed(load_encoder(resolve_model(ENCODER)), texts, progress)[0]
