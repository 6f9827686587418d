from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from tunesmith.measures.calibration import (
    apply_temperature,
    batch_prior,
    calibrate,
    expected_calibration_error,
    fit_temperature,
)


def drawn(rng: np.random.Generator, n: int, labels: int) -> np.ndarray:
    return rng.dirichlet(np.full(labels, 0.7), size=n)


def test_it_is_the_ratio_to_the_mean_one_by_one(rng: np.random.Generator) -> None:
    probabilities = drawn(rng, 50, 4)
    prior = batch_prior(probabilities)
    for row, found in zip(probabilities, calibrate(probabilities, prior), strict=True):
        ratios = [p / (sum(other[i] for other in probabilities) / 50) for i, p in enumerate(row)]
        assert found == pytest.approx([ratio / sum(ratios) for ratio in ratios])


@pytest.mark.parametrize("labels", [2, 5, 77])
def test_a_uniform_prior_changes_nothing(rng: np.random.Generator, labels: int) -> None:
    probabilities = drawn(rng, 40, labels)
    found = calibrate(probabilities, np.full(labels, 1 / labels))
    assert found == pytest.approx(probabilities)
    assert (found.argmax(1) == probabilities.argmax(1)).all()


def test_a_leaning_that_is_the_same_for_all_texts_is_taken_out(rng: np.random.Generator) -> None:
    """Two labels, each text with its mirror image: the leaning is all that separates them from balance."""
    odds = rng.normal(size=200)
    odds = np.concatenate([odds, -odds])
    leaning = 3.0
    p = 1 / (1 + np.exp(-(odds + leaning)))
    probabilities = np.stack([p, 1 - p], axis=1)
    found = calibrate(probabilities, batch_prior(probabilities)).argmax(1) == 0
    assert (probabilities.argmax(1) == 0).mean() > 0.9
    assert abs(found.mean() - 0.5) < 0.2


def test_a_prior_of_one_text_makes_it_uniform_and_no_probability_underflows() -> None:
    row = np.array([[1.0, 0.0, 0.0]])
    assert np.isfinite(calibrate(row, batch_prior(row))).all()
    even = np.array([[0.7, 0.2, 0.1]])
    assert calibrate(even, batch_prior(even)) == pytest.approx(np.full((1, 3), 1 / 3))


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="n > 0"):
        batch_prior(np.empty((0, 2)))
    with pytest.raises(ValueError, match="shape"):
        calibrate(np.full((3, 2), 0.5), np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="prior 0"):
        calibrate(np.full((3, 2), 0.5), np.array([1.0, 0.0]))


# ── expected calibration error ───────────────────────────────────────────────────────────────────────────
def plainly(sure: list[float], right: list[bool], n_bins: int) -> float:
    """As Guo et al. write it: bin m holds the confidences in ((m − 1) / M, m / M]."""
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = [i for i, c in enumerate(sure) if (m - 1) / n_bins < c <= m / n_bins]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            total += len(inside) / len(sure) * abs(accuracy - sum(sure[i] for i in inside) / len(inside))
    return total


@pytest.mark.parametrize("n_bins", [10, 15])
def test_the_calibration_error_is_that_of_the_plain_sum(rng: np.random.Generator, n_bins: int) -> None:
    for n in (1, 7, 500):
        sure, right = rng.uniform(0.01, 1, n), rng.random(n) < 0.6
        found = expected_calibration_error(sure, right, n_bins)
        assert found == pytest.approx(plainly(sure.tolist(), right.tolist(), n_bins))


def test_calibration_errors_worked_by_hand() -> None:
    # (0.5, 0.6]: .55 and .6, one right: |.5 − .575| · 2/5; (0.8, 0.9]: .85 .9 .9, all right: |1 − .88333| · 3/5
    found = expected_calibration_error([0.55, 0.6, 0.85, 0.9, 0.9], [1, 0, 1, 1, 1])
    assert found == pytest.approx(0.4 * 0.075 + 0.6 * (1 - 2.65 / 3))
    # 0.5 belongs to (0.4, 0.5], so it is not averaged with 0.55
    assert expected_calibration_error([0.5, 0.55], [True, False]) == pytest.approx((0.5 + 0.55) / 2)
    assert expected_calibration_error(np.ones(10), np.zeros(10)) == 1.0
    assert expected_calibration_error([0.0, 0.0], [False, False]) == 0.0


def test_calibration_error_of_a_model_that_knows_how_sure_to_be_is_small(rng: np.random.Generator) -> None:
    sure = rng.uniform(0.5, 1.0, 20_000)
    assert expected_calibration_error(sure, rng.random(20_000) < sure) < 0.02
    for bad in ([1.2], [-0.1]):
        with pytest.raises(ValueError, match="expected probabilities"):
            expected_calibration_error(bad, [True])


# ── temperature ──────────────────────────────────────────────────────────────────────────────────────────
def too_sure(rng: np.random.Generator, n: int, labels: int, heat: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model whose logits are ``heat`` times too large, and labels drawn from what they should be."""
    honest = drawn(rng, n, labels)
    targets = np.array([rng.choice(labels, p=row) for row in honest])
    return apply_temperature(honest, 1 / heat), targets


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("labels", [2, 5])
def test_the_temperature_is_that_of_a_general_optimiser_and_near_the_truth(
    rng: np.random.Generator, heat: float, labels: int
) -> None:
    probabilities, targets = too_sure(rng, 4000, labels, heat)

    def loss(log_temperature: float) -> float:
        logits = np.log(probabilities) / np.exp(log_temperature)
        return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]).mean())

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    found = fit_temperature(probabilities, targets)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(heat, rel=0.1)


def test_of_two_labels_it_is_logistic_regression_on_the_difference_of_logits(rng: np.random.Generator) -> None:
    probabilities, targets = too_sure(rng, 500, 2, 2.0)
    logits = np.log(probabilities)
    regression = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=1000)
    regression.fit((logits[:, 1] - logits[:, 0])[:, None], targets)
    assert 1 / fit_temperature(probabilities, targets) == pytest.approx(regression.coef_[0, 0], rel=1e-3)


def test_no_temperature_changes_an_answer(rng: np.random.Generator) -> None:
    probabilities = drawn(rng, 300, 6)
    for temperature in (0.02, 0.5, 1.0, 7.0, 50.0):
        scaled = apply_temperature(probabilities, temperature)
        assert scaled.sum(1) == pytest.approx(np.ones(300))
        assert (scaled.argmax(1) == probabilities.argmax(1)).all()
    assert apply_temperature(probabilities, 1.0) == pytest.approx(probabilities)


def test_where_the_likelihood_has_no_maximum_the_end_is_taken(rng: np.random.Generator) -> None:
    probabilities = drawn(rng, 50, 3)
    assert fit_temperature(probabilities, probabilities.argmax(1)) == pytest.approx(0.02)
    assert fit_temperature(probabilities, probabilities.argmin(1)) == pytest.approx(50)
    for rows, right in ((np.zeros((0, 2)), []), (np.full((3, 2), 0.5), [0, 1])):
        with pytest.raises(ValueError, match="targets of shape"):
            fit_temperature(rows, right)
