"""Which labels go with which groups in the training data, before anything is learned from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from tunesmith.data.label_words import label_words
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.language import language_of
from tunesmith.measures.uncertainty import mean_standard_error, wilson_interval
from tunesmith.records import Example, Finding, Interval

GIVEN_AWAY = 0.5  # correlation of a word with a label, from which on the word nearly is the label
STRONG = 1.25  # lift: the four-fifths rule turned round, 29 CFR 1607.4(D)
NAMED = 5  # pairs of group and label in one sentence

Json = dict[str, Any]


def audit_groups(train: Sequence[Example], columns: Sequence[str]) -> Json:
    """Counts, shares and lift of each group and label in the training examples; cells under 30 examples have no share.

    The lift P(label | group) / P(label) says how much oftener a label stands with a group than with all; its interval
    is the delta method's, on the logarithm, clustered where examples share a ``data.group``.

    Args:
        train: Training examples.
        columns: The sensitive columns.

    Returns:
        ``status``, ``columns``, and ``words`` that give a label away; of each column that has two large enough groups,
        ``groups`` with ``n``, ``share``, length in ``words``, ``languages``, and for each of the ``labels`` ``n``,
        ``share`` and ``lift``; and always what was left out.
    """
    if not columns:
        return {"status": "not_run", "reason": "no data.sensitive"}
    found = {column: _audit_column(train, column) for column in columns}
    reasons = [part["reason"] for part in found.values() if part["status"] != "ok"]
    return {
        "status": "not_run" if reasons else "ok",
        **({"reason": "; ".join(reasons)} if reasons else {}),
        "columns": found,
        "words": label_words(train, columns),
    }


def _audit_column(train: Sequence[Example], column: str) -> Json:
    known = [(dict(e.sensitive)[column], e) for e in train if column in dict(e.sensitive)]
    sizes = Counter(group for group, _ in known)
    small = {group: n for group, n in sizes.items() if n < SMALLEST}
    left_out = {
        "n": len(known), "without_group": len(train) - len(known),
        "small_groups": {"groups": len(small), "examples": sum(small.values())},
    }  # fmt: skip
    if len(sizes) - len(small) < 2:
        reason = f"not enough data: fewer than two groups of '{column}' have {SMALLEST} training examples"
        return {"status": "not_run", "reason": reason, **left_out}
    kept = [(group, e) for group, e in known if group not in small]
    groups, labels = np.array([group for group, _ in kept]), np.array([e.label or "" for _, e in kept])
    shared = [e.group for _, e in kept]
    clusters = None if not any(shared) else [f"cluster {g}" if g else f"example {i}" for i, g in enumerate(shared)]
    table = {
        group: {
            "n": sizes[group], "share": sizes[group] / len(known),
            **_texts([e.text or "" for of, e in kept if of == group], None if clusters is None else [
                c for c, (of, _) in zip(clusters, kept, strict=True) if of == group
            ]),
            "labels": {
                label: _cell(groups == group, labels == label, clusters) for label in sorted(set(labels.tolist()))
            },
        }
        for group in sorted(sizes)
        if group not in small
    }  # fmt: skip
    return {"status": "ok", **left_out, "groups": table}


def _texts(texts: Sequence[str], clusters: Sequence[str] | None) -> Json:
    """Mean length in words with its interval, and the share of each language that can be told."""
    lengths = [len(text.split()) for text in texts]
    mean, half = float(np.mean(lengths)), NormalDist().inv_cdf(0.975) * mean_standard_error(lengths, clusters)
    told = Counter(language_of(text) or "not told" for text in texts)
    return {
        "words": Interval(mean, mean - half, mean + half, len(texts)).to_json() if math.isfinite(half) else None,
        "languages": {name: wilson_interval(count, len(texts)).to_json() for name, count in told.most_common()},
    }


def _cell(of_group: np.ndarray, of_label: np.ndarray, clusters: Sequence[str] | None) -> Json:
    both = of_group & of_label
    n = int(both.sum())
    unknown = {"n": n, "share": None, "lift": None, "reason": "not enough data"}
    if n < SMALLEST:
        return unknown
    share = n / int(of_group.sum())
    lift = share / float(of_label.mean())
    # what each example adds to the logarithm of the lift, to first order; its mean is 0
    influence = both / both.mean() - of_group / of_group.mean() - of_label / of_label.mean() + 1
    half = NormalDist().inv_cdf(0.975) * mean_standard_error(influence, clusters)
    if not math.isfinite(half):  # all of one cluster
        return unknown
    return {"n": n, "share": share, "lift": Interval(lift, lift * math.exp(-half), lift * math.exp(half), n).to_json()}


def audit_findings(audit: Json) -> list[Finding]:
    """What a user should know of an audit: groups unknown or too small, and labels that go strongly with a group."""
    findings = []
    for column, part in audit.get("columns", {}).items():
        if part["without_group"]:
            n = part["without_group"]
            message = f"{n:,} training examples have no '{column}'; bias is measured without them."
            findings.append(Finding("group_unknown", "warning", n, message, fix="Fill the column where it is known."))
        if part["small_groups"]["groups"]:
            few, n = part["small_groups"]["groups"], part["small_groups"]["examples"]
            message = (
                f"{few:,} of the groups of '{column}' have fewer than {SMALLEST} training examples ({n:,} in all): "
                "not enough to say anything about them."
            )
            fix = "Add examples of them, or give them a common name in the column."
            findings.append(Finding("group_too_small", "warning", n, message, fix=fix))
        strong = [
            (cell["lift"]["value"], cell["n"], group, label)
            for group, row in part.get("groups", {}).items()
            for label, cell in row["labels"].items()
            if cell["lift"] is not None and cell["lift"]["low"] > STRONG
        ]
        if strong:
            strong.sort(reverse=True)
            pairs = ", ".join(f"'{label}' with {group} ({lift:.1f} times)" for lift, _, group, label in strong[:NAMED])
            more = f" and {len(strong) - NAMED:,} more" if len(strong) > NAMED else ""
            findings.append(Finding(
                "group_and_label", "warning", sum(n for _, n, _, _ in strong),
                f"labels go strongly together with groups of '{column}', oftener than with all: {pairs}{more}.",
                fix="If the world is not so, add examples that are otherwise; the report says if answers widen it.",
            ))  # fmt: skip
    told = [row for row in audit.get("words", []) if row["correlation"]["low"] > GIVEN_AWAY]
    if told:
        words = ", ".join(
            f"'{row['word']}' with {row['label']} (r = {row['correlation']['value']:.2f})" for row in told[:NAMED]
        )
        findings.append(Finding(
            "label_word", "warning", len(told), f"one word nearly gives the label away: {words}.",
            fix="If the word is an artefact of how the data was made, take it out: elsewhere it will not be there.",
        ))  # fmt: skip
    return findings
