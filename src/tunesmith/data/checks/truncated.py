"""Texts that seem to be cut off: they end as this file's other texts do when these are cut.

Exports cut at a column's width, and answers at a limit of tokens; a model trained on them learns to stop in the middle.
What an end looks like is learned from the file itself, in any language: a small classifier tells its texts from copies
of them that are cut anywhere, by their last letters, last words and lengths, each text by one that has not seen it. Of
whole texts about one in a hundred ends like that too, so what is found is for review.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tunesmith.data.checks.material import Material, finding, parts
from tunesmith.records import Finding

CUT = 0.8  # probability, with as many cut as whole; chosen on other data: benchmarks/data_checks.py
FEWEST, LEARNED_FROM, FOLDS = 200, 20_000, 3
LAST_CHARACTERS, FEATURES, INVERSE_PENALTY = 12, 2**18, 0.3
BLOCK = 20_000


def check(material: Material) -> list[Finding]:
    """Texts that end as if they had been cut; prompts and answers each by themselves; not tables' rows."""
    columns = [parts(example) if not example.columns else [] for example in material.examples]
    cut: dict[int, str] = {}
    for of in (lambda own: own[:1], lambda own: own[1:][-1:]):  # the first text, and the last of several
        texts = [(i, text) for i, own in enumerate(columns) for text in of(own)]
        chances = ends_early([text for _, text in texts])
        cut |= {texts[k][0]: texts[k][1] for k in np.flatnonzero(chances >= CUT).tolist()}
    places = sorted(cut)
    message = f"{len(cut):,} rows end as if they had been cut off; for review."
    return finding(
        "truncated", "info", [material.examples[i] for i in places], message,
        "Look at them; export the data again whole, or leave out what was cut.",
        [f"…{' '.join(cut[i].split())[-60:]}" for i in places],
    )  # fmt: skip


def ends_early(texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """How probable it is that each text was cut, if half of all were, shape (n,); 0 where there are few texts."""
    if len(texts) < FEWEST:
        return np.zeros(len(texts))
    from scipy.sparse import vstack
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(seed)
    hasher = FeatureHasher(FEATURES, input_type="string", alternate_sign=False)
    learned = rng.sample(range(len(texts)), min(LEARNED_FROM, len(texts)))
    fold = np.array([i % FOLDS for i in learned])
    pieces = [text[: max(1, int(len(text) * rng.uniform(0.1, 0.9)))].rstrip() for text in (texts[i] for i in learned)]
    whole, cut = (hasher.transform(_end(text) for text in part) for part in ([texts[i] for i in learned], pieces))
    models: list[Any] = []
    for k in range(FOLDS):
        others = fold != k
        target = np.repeat([0, 1], others.sum())
        models.append(
            LogisticRegression(C=INVERSE_PENALTY, max_iter=300).fit(vstack([whole[others], cut[others]]), target)
        )
    chances = np.zeros(len(texts))
    for start in range(0, len(texts), BLOCK):
        block = hasher.transform(_end(text) for text in texts[start : start + BLOCK])
        places = np.arange(start, start + block.shape[0])
        for k, model in enumerate(models):
            own = places % FOLDS == k
            if own.any():
                chances[places[own]] = model.predict_proba(block[own])[:, 1]
    return chances


def _end(text: str) -> Iterator[str]:
    """What a text's end looks like, as words for a hash: its last letters and words, and how long it is."""
    size, text = len(text), " ".join(text[-200:].lower().split())
    words = text.split(" ")
    for k in range(1, min(LAST_CHARACTERS, len(text)) + 1):
        yield f"c{k} {text[-k:]}"
    for k in range(1, 4):
        yield f"w{k} {' '.join(words[-k:])}"
    yield f"words {min(12, len(words))}"
    yield f"size {int(2 * np.log2(size + 1))}"
    yield f"last {min(9, len(words[-1]))}"
