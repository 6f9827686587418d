from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.calibration import batch_prior, calibrate


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
