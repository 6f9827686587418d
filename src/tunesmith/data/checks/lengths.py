"""Texts without words, and texts far longer than the others.

An empty text teaches its label for nothing; one that is far too long is mostly several rows run together, costs memory
for all of its batch, and is cut by the model. Too long is meant against the other texts; what exceeds a model's own
limit is counted in tokens by ``tunesmith plan``.
"""

from __future__ import annotations

import numpy as np

from tunesmith.data.checks.material import Material, finding, parts
from tunesmith.records import Finding

SPREADS = 6.0  # robust standard deviations of the logarithm above the median
LEAST_SPREAD = 0.25  # of the logarithm, where nearly all texts have one length
PLACEHOLDERS = {"n/a", "na", "null", "none", "nan", "nil", "undefined", "missing", "#n/a", "tbd", "todo", "lorem ipsum"}
LEAST_TEXTS, LEAST_CHARACTERS = 20, 200


def check(material: Material) -> list[Finding]:
    """Texts without a letter or digit, and overlong texts."""
    texts = [parts(example) for example in material.examples]
    empty = [e for e, own in zip(material.examples, texts, strict=True) if own and not all(map(has_words, own))]
    found = finding(
        "empty_text", "warning", empty,
        f"{len(empty):,} rows have a text that says nothing: only signs, or N/A and the like.",
        "tunesmith data clean DATA -o NEW --fix empty_text leaves them out.",
    )  # fmt: skip
    sizes = np.array([max((len(text) for text in own), default=0) for own in texts])
    limit = longest_usual(sizes)
    long = [material.examples[i] for i in np.flatnonzero(sizes > limit).tolist()]
    return found + finding(
        "overlong", "warning", long,
        f"{len(long):,} rows are far longer than the others: over {limit:,.0f} characters, where half have at most "
        f"{np.median(sizes) if len(sizes) else 0:,.0f}.",
        "Look whether several rows were run together; divide them or leave them out.",
    )  # fmt: skip


def has_words(text: str) -> bool:
    """Whether a text has a letter, a digit, or a sign that says something, and is more than what stands for nothing."""
    return text.strip().lower() not in PLACEHOLDERS and any(
        c.isalnum() or (ord(c) >= 0x2190 and not c.isspace()) for c in text
    )


def longest_usual(sizes: np.ndarray) -> float:
    """The length in characters above which a text is no longer one of these; infinite for few texts."""
    filled = sizes[sizes > 0]
    if len(filled) < LEAST_TEXTS:
        return float("inf")
    logs = np.log(filled)
    spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs - np.median(logs)))))
    return max(float(LEAST_CHARACTERS), float(np.exp(np.median(logs) + SPREADS * spread)))
