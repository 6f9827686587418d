"""Garbled texts: letters that follow each other as nowhere else in the data.

Keys hit at random, letters shuffled or replaced. How surprising a text's runs of three characters are, is learned from
all other texts of the file; so a few texts of another language stand out as well, and what is found is for review.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.data.checks.material import Material, finding, parts
from tunesmith.records import Finding

SPREADS = 5.0  # robust standard deviations above the median; chosen on other data: benchmarks/data_checks.py
PRIOR = 10  # characters of the usual surprise that every text starts with: short texts vary much
LEAST_TEXTS, MOST_CHARACTERS = 100, 2000


def check(material: Material) -> list[Finding]:
    """Texts whose letters follow each other as in no other."""
    places, texts = [], []
    for place, example in enumerate(material.examples):
        for text in parts(example):
            places.append(place)
            texts.append(text)
    found = sorted({places[i] for i in np.flatnonzero(unlikely(texts) > SPREADS).tolist()})
    garbled = [material.examples[place] for place in found]
    message = f"{len(garbled):,} rows look garbled: their letters follow each other as nowhere else; for review."
    fix = "Look at them; leave out those that say nothing. A text of another language may be one of them."
    return finding("garbled", "warning", garbled, message, fix)


def unlikely(texts: Sequence[str]) -> np.ndarray:
    """How far each text's mean surprise lies above the usual, in robust standard deviations, shape (n,).

    The surprise of a character after the two before it, in nats, by the counts of all other texts; 0 for all where
    there are few texts.
    """
    if len(texts) < LEAST_TEXTS:
        return np.zeros(len(texts))
    three: Counter[str] = Counter()
    for text in texts:
        three.update(_runs(text))
    two: Counter[str] = Counter()
    for run, n in three.items():
        two[run[:2]] += n
    letters = max(2, len({run[2] for run in three}))
    means, sizes = np.zeros(len(texts)), np.zeros(len(texts))
    for i, text in enumerate(texts):
        own = Counter(_runs(text))  # a second time, rather than all of them in memory
        starts: Counter[str] = Counter()
        for run, n in own.items():
            starts[run[:2]] += n
        sizes[i] = own.total()
        means[i] = sum(
            -n * math.log((three[run] - n + 0.1) / (two[run[:2]] - starts[run[:2]] + 0.1 * letters))
            for run, n in own.items()
        ) / max(1, own.total())  # fmt: skip
    usual = float(np.median(means[sizes > 0])) if (sizes > 0).any() else 0.0
    shrunk = (means * sizes + usual * PRIOR) / (sizes + PRIOR)
    spread = 1.4826 * float(np.median(np.abs(shrunk - usual)))
    return (shrunk - usual) / max(spread, 1e-6)


def _runs(text: str) -> list[str]:
    """All runs of three characters, in small letters, digits alike."""
    plain = "".join("0" if c.isdecimal() else c for c in " ".join(text[:MOST_CHARACTERS].lower().split()))
    padded = f"  {plain} "
    return [padded[i : i + 3] for i in range(len(padded) - 2)] if plain else []
