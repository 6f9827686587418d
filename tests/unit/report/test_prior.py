"""Rules of thumb, as they stand on the page beside what was measured."""

from __future__ import annotations

import pytest

from tunesmith.report.prior import FEW_LABELLED, prior


@pytest.mark.parametrize(
    ("task", "train", "labels", "documents", "favours"),
    [
        ("generation", 1000, 0, True, "retrieval"),
        ("classification", FEW_LABELLED - 1, 2, False, "prompt"),
        ("classification", FEW_LABELLED, 2, False, "small fine-tuned model"),
        ("classification", 600, 77, False, "linear model on embeddings, then"),
        ("regression", 600, 0, False, "small fine-tuned model"),
        ("translation", 600, 0, False, "fine-tuning"),
    ],
)
def test_the_rule_of_thumb_follows_the_kind_of_task_and_the_data(task, train, labels, documents, favours):
    found = prior(task, train, labels, documents)
    assert favours in found["favours"]
    assert "20" in found["source"]
