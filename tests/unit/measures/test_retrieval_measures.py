from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from tunesmith.measures.retrieval import ndcg_at, recall_at, reciprocal_rank


def test_by_hand() -> None:
    ranked = ["d", "a", "c", "b"]
    assert [recall_at(ranked, {"a", "b"}, k) for k in (1, 2, 3, 4)] == [0.0, 0.5, 0.5, 1.0]
    assert reciprocal_rank(ranked, {"b", "c"}) == 1 / 3
    assert reciprocal_rank(ranked, {"z"}) == 0.0
    assert ndcg_at(ranked, {"a": 1.0}, 10) == pytest.approx(1 / np.log2(3))
    assert ndcg_at(ranked, {"a": 1.0}, 1) == 0.0
    assert ndcg_at(["b", "a"], {"b": 1.0, "z": 1.0}, 2) == pytest.approx(1 / (1 + 1 / np.log2(3)))


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_ndcg_is_that_of_scikit_learn(k: int, rng: np.random.Generator) -> None:
    for _ in range(20):
        gains, scores = rng.integers(0, 4, 12).astype(float), rng.permutation(12).astype(float)
        gains[0] = 1.0
        ranked = np.argsort(-scores).tolist()
        ours = ndcg_at(ranked, dict(enumerate(gains.tolist())), k)
        assert ours == pytest.approx(ndcg_score(gains[None], scores[None], k=k), abs=1e-12)


def test_what_means_nothing_is_refused() -> None:
    for wrong in (
        lambda: recall_at(["a"], set(), 1),
        lambda: recall_at(["a"], {"a"}, 0),
        lambda: recall_at(["a", "a"], {"a"}, 2),
        lambda: ndcg_at(["a"], {"a": 0.0}, 1),
        lambda: ndcg_at(["a"], {"a": 1.0, "b": -1.0}, 1),
        lambda: reciprocal_rank(["a"], ()),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()
