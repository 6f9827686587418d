"""Weights, resampling and thresholds against their definitions, and thresholds against fairlearn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunesmith.measures.parity import group_thresholds, reweighing, uniform_sample


def drawn(rng: np.random.Generator, n: int = 400) -> tuple[Any, Any]:
    groups = rng.integers(0, 3, n)
    return groups, (rng.random(n) < np.array([0.2, 0.5, 0.8])[groups]).astype(int)


def test_weights_are_kamirans_and_make_group_and_label_independent(rng: np.random.Generator) -> None:
    groups, labels = drawn(rng)
    weights = reweighing(groups, labels)
    for a in range(3):
        for t in range(2):
            cell = (groups == a) & (labels == t)
            assert weights[cell] == pytest.approx((groups == a).mean() * (labels == t).mean() / cell.mean())
            assert weights[cell].sum() / 400 == pytest.approx((groups == a).mean() * (labels == t).mean())
    assert weights.mean() == pytest.approx(1)


def test_a_uniform_sample_has_the_weights_as_counts(rng: np.random.Generator) -> None:
    groups, labels = drawn(rng)
    places = uniform_sample(groups, labels, np.random.default_rng(1))
    for a in range(3):
        for t in range(2):
            cell = np.flatnonzero((groups == a) & (labels == t))
            taken = places[np.isin(places, cell)]
            expected = (groups == a).sum() * (labels == t).sum() / 400
            assert abs(len(taken) - expected) <= 0.5
            repeats = np.bincount(taken, minlength=400)[cell]
            assert repeats.max() - repeats.min() <= 1  # nobody twice before everybody once
    assert places.tolist() == uniform_sample(groups, labels, np.random.default_rng(1)).tolist()


def test_thresholds_meet_the_rates_they_are_told(rng: np.random.Generator) -> None:
    groups, labels = drawn(rng)
    scores = np.clip(0.3 * labels + 0.1 * groups + rng.random(400) / 2, 1e-6, 1 - 1e-6)
    wanted = np.array([labels[groups == a].mean() for a in range(3)])
    limits, reached = group_thresholds(scores, labels, groups, wanted)
    sizes = np.bincount(groups)
    assert np.all(np.abs(reached - wanted) <= 0.5 / sizes + 1e-12)
    assert np.all((limits > 0) & (limits < 1))


def test_equal_rates_are_as_accurate_as_fairlearns(rng: np.random.Generator) -> None:
    fairlearn = pytest.importorskip("fairlearn.postprocessing")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Scores(ClassifierMixin, BaseEstimator):
        """What fairlearn asks: an estimator that is fitted already, its features the scores."""

        def fit(self, x: Any, y: Any) -> Scores:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, x: Any) -> Any:
            return np.asarray(x)[:, 0]

    for _ in range(3):
        groups, labels = drawn(rng, 2000)
        scores = 0.3 * labels + 0.1 * groups + rng.random(2000) / 2
        optimizer = fairlearn.ThresholdOptimizer(
            estimator=Scores(), constraints="demographic_parity", objective="accuracy_score", prefit=True,
            predict_method="predict", grid_size=2001,
        )  # fmt: skip
        x = np.stack([scores, np.zeros(2000)], axis=1)
        optimizer.fit(x, labels, sensitive_features=groups)
        theirs = optimizer._pmf_predict(x, sensitive_features=groups)[:, 1]  # the chance of a yes, without the lots
        limits, reached = group_thresholds(scores, labels, groups)
        ours = scores > limits[groups]
        assert reached.max() - reached.min() <= 1 / np.bincount(groups).min()
        accuracy = np.where(labels == 1, theirs, 1 - theirs).mean()
        assert accuracy - 0.01 < (ours == labels).mean() < accuracy + 0.002  # lots gain a little over one threshold
