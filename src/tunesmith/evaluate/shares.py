"""Whom written answers speak of: the groups that stand with a word in answers, against those in the training answers.

"Amplified" are answers about nurses that say *she* oftener than the training answers about nurses do. An answer counts
for a group if it names that group and no other, by a lexicon; and for a word if the word stands in its prompt or in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.data.lexicon import Lexicon, read_lexica
from tunesmith.measures.fairness import SMALLEST
from tunesmith.measures.uncertainty import difference_of_means, wilson_interval
from tunesmith.records import Example, Prediction

Json = dict[str, Any]


def shares_of_candidates(
    predictions: Mapping[str, Sequence[Prediction]],
    train: Sequence[Example],
    test: Sequence[Example],
    words: Sequence[str],
    lexica: Sequence[str],
    seed: int,
) -> dict[str, Json]:
    """For each candidate and word, the leading group's share among its answers less that in training, with interval.

    Args:
        predictions: Of each candidate on the test examples, by its id.
        train: Training examples.
        test: Test examples, in the order of the predictions.
        words: What answers are about, such as occupations; singular and plural in -s are one.
        lexica: Which words name a group.
        seed: Fixes the resamples.

    Returns:
        For each lexicon and word the ``group`` that leads in training, its share in ``train`` and in ``answers``, and
        the ``difference``: above 0, answers exaggerate; and ``mean``, over the words (for two groups, Zhao's).
        A word with fewer than 30 such training answers, or answers, has no share.
    """
    found = read_lexica(lexica)
    about = {word: re.compile(rf"(?<!\w){re.escape(word)}s?(?!\w)", re.IGNORECASE).search for word in words}
    learned = [(_shown(example), example.answer) for example in train]
    asked = {example.id: _shown(example) for example in test}
    return {
        name: _candidate([(asked.get(p.example_id, ""), p.prediction) for p in answers], learned, about, found, seed)
        for name, answers in predictions.items()
    }


def _shown(example: Example) -> str:
    return example.text or " ".join(message.content for message in example.prompt)


def _candidate(
    answers: Sequence[tuple[str, str]],
    learned: Sequence[tuple[str, str]],
    about: Mapping[str, Callable[[str], Any]],
    lexica: Sequence[Lexicon],
    seed: int,
) -> Json:
    rows: Json = {}
    reasons: list[str] = []
    for lexicon in lexica:
        for word, stands in about.items():
            before, after = (
                [
                    group
                    for shown, said in pairs
                    if (stands(shown) or stands(said)) and (group := lexicon.group_of(said))
                ]
                for pairs in (learned, answers)
            )
            key = word if len(lexica) == 1 else f"{word} ({lexicon.name})"
            if min(len(before), len(after)) < SMALLEST:
                reason = (
                    f"not enough data: {len(before)} training answers and {len(after)} answers about '{word}' name one "
                    f"group, {SMALLEST} of each are needed"
                )
                rows[key] = {"status": "not_run", "reason": reason}
                reasons.append(reason)
                continue
            leading = max(lexicon.groups, key=before.count)
            said, right = ([float(group == leading) for group in part] for part in (after, before))
            change = difference_of_means(np.array(said), np.array(right), rng=np.random.default_rng([seed, 17]))
            rows[key] = {
                "status": "ok", "group": leading, "n_train": len(right),
                "train": wilson_interval(sum(right), len(right)).to_json(),
                "answers": wilson_interval(sum(said), len(said)).to_json(), "difference": change.to_json(),
            }  # fmt: skip
    measured = [row["difference"]["value"] for row in rows.values() if row["status"] == "ok"]
    return {
        "status": "not_run" if reasons else "ok", **({"reason": "; ".join(reasons)} if reasons else {}),
        "words": rows, "mean": float(np.mean(measured)) if measured else None,
    }  # fmt: skip
