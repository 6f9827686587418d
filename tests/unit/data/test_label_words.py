"""Words that give labels away, lengths and languages by group, labels that others contradict."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from tunesmith.data.audit import audit_findings, audit_groups
from tunesmith.data.label_words import label_words
from tunesmith.measures.association import association
from tunesmith.measures.language import language_of
from tunesmith.measures.linear import disagrees
from tunesmith.records import Example


def test_an_association_is_pearsons_with_scipys_interval(rng: np.random.Generator) -> None:
    for _ in range(20):
        n = int(rng.integers(40, 400))
        a = rng.random(n) < 0.4
        b = rng.random(n) < np.where(a, 0.6, 0.3)
        found = association(int((a & b).sum()), int(a.sum()), int(b.sum()), n)
        theirs = pearsonr(a.astype(float), b.astype(float))
        interval = theirs.confidence_interval(0.95)
        assert found[:3] == pytest.approx((theirs.statistic, interval.low, interval.high))
    assert association(20, 20, 20, 40).value == pytest.approx(1.0)


def people(n: int, rng: np.random.Generator) -> list[Example]:
    rows = []
    for i in range(n):
        yes, woman = rng.random() < 0.5, rng.random() < 0.5
        words = [
            *rng.choice(["alpha", "beta", "gamma", "delta"], 3),
            "planted" if yes and rng.random() < 0.9 else "and",
        ]
        rows.append(Example(f"f:{i}", text=" ".join([*words, *(["the", "of"] * 3 if woman else [])]),
                            label="yes" if yes else "no", sensitive=(("sex", "w" if woman else "m"),)))  # fmt: skip
    return rows


def test_a_planted_word_is_found_and_chance_is_not(rng: np.random.Generator) -> None:
    train = people(400, rng)
    rows = label_words(train, ["sex"])
    assert sorted((row["word"], row["label"]) for row in rows) == [("and", "no"), ("planted", "yes")]
    assert rows[0]["correlation"]["low"] > 0.8
    assert rows[0]["tests"] == 2 * 8
    audit = audit_groups(train, ["sex"])
    assert audit["words"] == rows
    finding = next(f for f in audit_findings(audit) if f.check == "label_word")
    assert "'planted' with yes" in finding.message
    shuffled = [Example(e.source, text=e.text, label="yn"[rng.integers(2)], sensitive=e.sensitive) for e in train]
    assert label_words(shuffled, ["sex"]) == []


def test_length_and_language_by_group(rng: np.random.Generator) -> None:
    groups = audit_groups(people(400, rng), ["sex"])["columns"]["sex"]["groups"]
    assert groups["w"]["words"]["value"] == 10
    assert groups["m"]["words"]["value"] == 4
    assert groups["w"]["languages"]["English"]["value"] > 0.9
    assert groups["m"]["languages"]["not told"]["value"] == 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the mat", "English"), ("Il est dans la maison avec vous", "French"),
        ("El gato no está en la casa", "Spanish"), ("これは本です", "Hiragana"), ("Berlin", None), ("", None),
    ],
)  # fmt: skip
def test_a_language_is_told_or_not(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_labels_that_were_turned_round_are_contradicted(rng: np.random.Generator) -> None:
    places = rng.integers(0, 2, 300)
    vectors = rng.normal(size=(300, 5)) / 3
    vectors[:, 0] += 2.0 * places - 1
    turned = places.copy()
    turned[:30] = 1 - turned[:30]
    found = disagrees(vectors, turned)
    assert found[:30].mean() > 0.9
    assert found[30:].mean() < 0.05
