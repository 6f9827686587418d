"""What leaks into the training data do to the results: scores on test examples that leaked, and on the others.

The data's findings say which test and validation examples leaked (``data/checks/contamination.py``); here the probe
suites that were asked are looked for in the training data as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.config import Forgetting
from tunesmith.data.checks.contamination import FIXES, Text, find_leaks
from tunesmith.errors import TunesmithError
from tunesmith.evaluate.metrics import item_scores
from tunesmith.evaluate.suites import Suite, read_own, read_suite
from tunesmith.measures.uncertainty import bootstrap_interval, difference_of_means
from tunesmith.records import Example, Finding, Prediction, Split
from tunesmith.sources import find_suite

FEWEST = 10  # leaked test examples, and others; below that the interval says nothing
WORDS_ONLY = "paraphrases are looked for with data.contamination: meaning"

Json = dict[str, Any]


def contamination(
    split: Split,
    findings: Sequence[Mapping[str, Any]],
    looked_for: str | None,
    suites: Mapping[str, Suite | str],
    predictions: Mapping[str, Sequence[Prediction]],
    metric: str,
    rng: np.random.Generator,
) -> tuple[Json, list[Finding]]:
    """What report.json says of leaks, and the findings of suites.

    Args:
        split: The run's examples.
        findings: The data's findings, as in data.json.
        looked_for: The setting ``data.contamination``; None where the run has none.
        suites: Those that the candidates were asked, from :func:`asked_suites`.
        predictions: Those of every candidate on the test examples.
        metric: What candidates are compared by.
        rng: Source of the resamples.
    """
    reason = _not_looked_for(split, looked_for)
    if reason:
        return {"status": "not_run", "reason": reason}, []
    pairs = {
        severity: {pair[0] for f in findings if f["check"] == "contamination" and f["severity"] == severity
                   for pair in f.get("pairs", ())}
        for severity in ("warning", "info")
    }  # fmt: skip
    parts = {}
    for part, examples in (("validation", split.validation), ("test", split.test)):
        sources = {e.source for e in examples}
        in_other_words: Json = {"status": "not_run", "reason": WORDS_ONLY}
        if looked_for == "meaning":
            in_other_words = {"status": "ok", "found": len(pairs["info"] & sources)}
        leaks = len(pairs["warning"] & sources)
        parts[part] = {"leaked": leaks, "n": len(examples), "paraphrases": in_other_words}
    leaked = {e.id for e in split.test if e.source in pairs["warning"]}
    found, of_suites = suites_in(split.train, suites)
    effects = {name: effect(answers, leaked, metric, rng) for name, answers in predictions.items()} if leaked else {}
    return {"status": "ok", "parts": parts, "suites": of_suites, "candidates": effects}, found


def _not_looked_for(split: Split, looked_for: str | None) -> str:
    if looked_for is None:
        return "the run was made by a version that did not look"
    if not split.train:
        return "the run holds no training examples"
    if looked_for == "off":
        return "switched off in the config (data.contamination: off)"
    if any(e.image is not None for e in split.train):
        return "questions about images recur from picture to picture"
    return ""


def asked_suites(names: Iterable[str], settings: Forgetting) -> dict[str, Suite | str]:
    """The suites that candidates were asked; for one that cannot be looked for in the training data, why not.

    A suite is not fetched for this: one that is not on this machine was not asked either.
    """
    try:
        own = read_own(settings.model_copy(update={"harness": ()}))
    except TunesmithError as error:
        own = dict.fromkeys([*settings.suites, *settings.texts], str(error))
    found: dict[str, Suite | str] = {}
    for name in names:
        if name in settings.harness:
            found[name] = "items of a task of lm-evaluation-harness are not looked for"
        elif name in own:
            found[name] = own[name]
        else:
            try:
                found[name] = read_suite(name) if find_suite(name) else "it is not on this machine"
            except TunesmithError as error:
                found[name] = str(error)
    return found


def suites_in(train: Sequence[Example], suites: Mapping[str, Suite | str]) -> tuple[list[Finding], dict[str, Json]]:
    """Items of probe suites that stand in the training data; of each suite how many, or why it was not looked at."""
    findings: list[Finding] = []
    told: dict[str, Json] = {}
    for name, suite in suites.items():
        if isinstance(suite, str):
            told[name] = {"status": "not_run", "reason": suite}
            continue
        texts = [
            Text(f"{name}, item {i}", item.prompt.removeprefix("Question:").removesuffix("Answer:") or item.options[0])
            for i, item in enumerate(suite.items, start=1)
        ]
        found = find_leaks(train, texts, f"items of {name}", FIXES["suite"])
        findings += found
        told[name] = {"status": "ok", "leaked": sum(f.count for f in found), "n": len(suite.items)}
    return findings, told


def effect(predictions: Sequence[Prediction], leaked: Collection[str], metric: str, rng: np.random.Generator) -> Json:
    """Mean score of the answers to leaked test examples and to the others, and leaked − clean with its interval.

    The two are different examples, resampled each by itself: leaked ones may be easier or harder for other reasons, so
    the same difference of a candidate that was not trained, such as ``prompt/zero-shot``, belongs beside it.

    Args:
        predictions: Of one candidate.
        leaked: Ids of the test examples that stand in the training data.
        metric: Metrics of the whole test set are replaced by one that single answers have.
        rng: Source of the resamples.
    """
    scores = np.array(item_scores(predictions, metric))
    is_leaked = np.array([p.example_id in leaked for p in predictions])
    few = min(int(is_leaked.sum()), int((~is_leaked).sum()))
    if few < FEWEST:
        reason = f"it takes {FEWEST} leaked test examples and as many others, and of one of them there are {few}"
        return {"status": "not_run", "reason": reason}
    return {
        "status": "ok",
        "leaked": bootstrap_interval(scores[is_leaked], rng=rng).to_json(),
        "clean": bootstrap_interval(scores[~is_leaked], rng=rng).to_json(),
        "difference": difference_of_means(scores[is_leaked], scores[~is_leaked], rng=rng).to_json(),
    }
