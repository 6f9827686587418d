"""Classes as they are in the data: how unequal in number, and whether something beside the matter tells them.

With one label in most rows, a model that always says it seems good; labels with few rows cannot be learned or judged;
and what gives a label away in the file, its name in the text or the text's length, may be missing elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np

from tunesmith.data.checks.material import Material, finding
from tunesmith.data.split import labels_of
from tunesmith.records import Finding

UNEQUAL = 10.0  # times as many rows of the commonest label as of the rarest
FEW = 5  # rows of a label
NAMED = 0.5  # share of rows whose text holds the label's name
BY_LENGTH = 0.25  # share of the lengths' variance (of logarithms) that the label explains


def check(material: Material) -> list[Finding]:
    """Class imbalance, labels that the text holds, and labels that the length gives away; of classifications."""
    if material.task_kind not in ("classification", "multi_label") or not material.examples:
        return []
    return [*_imbalance(material), *_named(material), *_by_length(material)]


def _imbalance(material: Material) -> list[Finding]:
    counts = Counter(label for e in material.examples for label in labels_of(e, material.task_kind))
    if len(counts) < 2:
        return []
    ordered = counts.most_common()
    (most, n), (least, fewest) = ordered[0], ordered[-1]
    few = {label for label, times in ordered if times < FEW}
    if n < UNEQUAL * fewest and not few:
        return []
    rare = [e for e in material.examples if few.intersection(labels_of(e, material.task_kind))]
    message = (
        f"the labels are unequal in number: '{most}' has {n:,} of {len(material.examples):,} rows, '{least}' {fewest:,}"
        f"; {len(few):,} labels have fewer than {FEW} rows. Always saying '{most}' would be right in "
        f"{100 * n / len(material.examples):.0f} %."
    )
    fix = "Add rows of the rare labels or join them with others; judge by macro_f1 (metric: macro_f1)."
    one = finding("class_imbalance", "info", rare or [material.examples[0]], message, fix)[0]
    if rare:
        return [one]
    return [Finding(one.check, one.severity, n, message, fix=fix)]


def _named(material: Material) -> list[Finding]:
    names = {label: re.compile(rf"\b{re.escape(re.sub(r'[_-]+', ' ', label))}\b", re.IGNORECASE)
             for label in {e.label for e in material.examples if e.label} if len(label) > 2}  # fmt: skip
    held = [e for e in material.examples if e.label in names and e.text and names[e.label].search(e.text)]
    if len(held) < NAMED * len(material.examples):
        return []
    message = f"{len(held):,} of {len(material.examples):,} texts hold the name of their own label."
    return finding(
        "label_in_text", "warning", held, message, "If the name is not there where the model will be used, take it out."
    )


def _by_length(material: Material) -> list[Finding]:
    groups: dict[str, list[float]] = defaultdict(list)
    for e in material.examples:
        if e.text and e.label:
            groups[e.label].append(float(np.log(len(e.text))))
    lengths = [np.array(group) for group in groups.values() if len(group) >= FEW]
    if len(lengths) < 2:
        return []
    whole = np.concatenate(lengths)
    between = sum(len(g) * float(g.mean() - whole.mean()) ** 2 for g in lengths)
    total = float(((whole - whole.mean()) ** 2).sum())
    # what as many groups of a random division would explain is taken off (ε², Kelley 1935)
    explained = 1 - (total - between) / max(total, 1e-12) * (len(whole) - 1) / max(1, len(whole) - len(lengths))
    if total <= 0 or explained < BY_LENGTH:
        return []
    typical = sorted((float(np.exp(np.median(groups[label]))), label) for label in groups if len(groups[label]) >= FEW)
    message = (
        f"the length of the text tells much of the label ({100 * explained:.0f} % of its variance): '{typical[0][1]}' "
        f"has about {typical[0][0]:,.0f} characters, '{typical[-1][1]}' {typical[-1][0]:,.0f}."
    )
    fix = "If the lengths differ only because of how the data was made, even them out: a model learns them first."
    return [Finding("length_by_label", "info", len(whole), message, fix=fix)]
