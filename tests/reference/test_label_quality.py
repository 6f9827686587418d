"""Confident learning against cleanlab."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.label_quality import confident_errors


@pytest.mark.parametrize("seed", range(4))
def test_the_same_labels_are_suspect_as_with_cleanlab(seed: int) -> None:
    filters = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(seed)
    n, labels = 400, 5
    true = rng.integers(labels, size=n)
    logits = rng.normal(size=(n, labels))
    logits[np.arange(n), true] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = np.where(rng.random(n) < 0.15, rng.integers(labels, size=n), true)
    expected = filters.find_label_issues(given, probabilities, filter_by="confident_learning", n_jobs=1)
    assert confident_errors(probabilities, given).tolist() == expected.tolist()
    assert expected.sum() > 10
