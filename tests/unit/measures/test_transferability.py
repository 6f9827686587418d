from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import f_oneway, multivariate_normal
from sklearn.covariance import ledoit_wolf

from tunesmith.measures.transferability import h_score, log_evidence, logme


def data(n: int, width: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    places = np.arange(n) % labels
    features = rng.normal(size=(n, width)) + rng.normal(size=(labels, width))[places]
    return features, np.eye(labels)[places]


@pytest.mark.parametrize(("n", "width"), [(60, 7), (40, 40), (50, 100)])
def test_the_evidence_is_that_of_the_normal_distribution_it_stands_for(n: int, width: int) -> None:
    features, targets = data(n, width, 3)
    found = log_evidence(features, targets[:, 0])
    covariance = features @ features.T / found.alpha + np.eye(n) / found.beta
    direct = multivariate_normal(np.zeros(n), covariance).logpdf(targets[:, 0]) / n
    assert found.value == pytest.approx(direct, rel=1e-6)


@pytest.mark.parametrize(("n", "width"), [(60, 7), (50, 100)])
def test_no_other_alpha_and_beta_make_the_evidence_larger(n: int, width: int) -> None:
    features, targets = data(n, width, 2)

    def negative(logs: np.ndarray) -> float:
        covariance = features @ features.T / np.exp(logs[0]) + np.eye(n) / np.exp(logs[1])
        return -float(multivariate_normal(np.zeros(n), covariance).logpdf(targets[:, 0])) / n

    found = log_evidence(features, targets[:, 0])
    best = minimize(negative, np.log([found.alpha, found.beta]), method="Nelder-Mead")
    assert found.value == pytest.approx(-best.fun, abs=1e-4)


def test_features_that_no_example_moves_change_nothing() -> None:
    features, targets = data(30, 12, 3)
    wider = np.hstack([features, np.zeros((30, 500))])
    assert logme(wider, targets) == pytest.approx(logme(features, targets), rel=1e-9)


def test_logme_is_the_mean_over_columns_and_prefers_what_tells_labels_apart() -> None:
    features, targets = data(80, 10, 4)
    assert logme(features, targets) == pytest.approx(np.mean([log_evidence(features, t).value for t in targets.T]))
    noise = np.random.default_rng(1).normal(size=features.shape)
    assert logme(features, targets) > logme(noise, targets)
    assert np.isfinite(logme(features, np.ones((80, 1))))


def test_the_h_score_of_one_feature_is_the_share_of_its_variance_between_labels() -> None:
    features, targets = data(90, 1, 3)
    groups = [features[targets[:, k] == 1, 0] for k in range(3)]
    statistic = f_oneway(*groups).statistic
    between = statistic * 2 / (statistic * 2 + 87)
    assert h_score(features, targets) == pytest.approx(between * (1 - ledoit_wolf(features)[1]), rel=1e-9)


def test_the_h_score_is_the_trace_over_the_labels_means() -> None:
    features, targets = data(50, 120, 5)
    covariance, shrinkage = ledoit_wolf(features)
    means = np.array([features[targets[:, k] == 1].mean(0) for k in range(5)]) - features.mean(0)
    between = means.T @ np.diag(targets.mean(0)) @ means
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert h_score(features, targets) == pytest.approx(expected, rel=1e-8)
    assert 0 < h_score(features, targets) <= 4


def test_the_h_score_of_numbers_is_the_r_squared_of_a_regression_on_them() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2000, 3)) * [1.0, 3.0, 9.0]  # one covariance for all would be shrunk to nothing
    numbers = features @ [1.0, 2.0, 0.0] + rng.normal(size=2000)
    residual = np.linalg.lstsq(features - features.mean(0), numbers - numbers.mean(), rcond=None)[1]
    r_squared = 1 - residual[0] / ((numbers - numbers.mean()) ** 2).sum()
    assert h_score(features, numbers[:, None]) == pytest.approx(r_squared, rel=0.02)
