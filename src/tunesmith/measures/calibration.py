"""Calibration: whether probabilities mean what they say, and two ways to mend them.

Temperature scaling makes all probabilities more or less sure by one number; it changes no answer. Batch calibration
takes out of label probabilities what the prompt says before any text is read: a prompt favours some labels whatever is
asked, by their words, by the order of its examples. The mean of the probabilities over unlabelled texts shows how much,
and dividing by it takes it out. It needs no labels and no further pass of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SMALLEST = float(np.finfo(np.float64).tiny)  # below which a probability counts as this
N_BINS = 10  # of confidence; Guo et al. take 15, for test sets of 10,000
COLDEST, HOTTEST = 0.02, 50.0  # temperatures between which one is looked for


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = N_BINS) -> float:
    """Average gap between how sure the model was and how often it was right.

    Predictions are grouped into ``n_bins`` equal-width bins of confidence, each with its upper edge. Each bin
    contributes |accuracy − mean confidence|, weighted by its share of predictions.

    Args:
        confidence: Probability given to the chosen answer, shape (n,), in [0, 1].
        correct: Whether each answer was right, shape (n,), bool.
        n_bins: Number of bins; with fewer than about 10 predictions per bin the value is noise.

    Returns:
        A probability in [0, 1]; 0 is perfectly calibrated. Biased upward for small n.

    Raises:
        ValueError: If the arrays are empty, differ in length, or leave [0, 1].

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, arXiv:1706.04599.

    Example:
        >>> expected_calibration_error([0.9, 0.9], [True, False])
        0.4
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if len(sure) != len(right) or not len(sure):
        raise ValueError(f"{len(sure)} confidences and {len(right)} answers: expected as many, and at least one.")
    # rounding of a softmax may leave [0, 1] by a few units in the last place
    if not (np.all(sure >= -1e-6) and np.all(sure <= 1 + 1e-6)):
        raise ValueError(f"confidence from {sure.min()} to {sure.max()}: expected probabilities in [0, 1].")
    values = np.stack([sure.clip(0, 1), right], axis=1)
    return float(calibration_error_statistic(values, np.ones((1, len(values))), n_bins)[0])


def calibration_error_statistic(values: NDArray[Any], counts: Floats, n_bins: int = N_BINS) -> Floats:
    """Calibration error of many resamples: confidence and correctness (n, 2), counts (resamples, n)."""
    sure, right = values[:, 0], values[:, 1]
    bins = np.maximum(np.searchsorted(np.linspace(0, 1, n_bins + 1), sure) - 1, 0)
    gaps = counts @ ((right - sure)[:, None] * (bins[:, None] == np.arange(n_bins)))  # (resamples, n_bins)
    errors: Floats = np.abs(gaps).sum(axis=1) / counts.sum(axis=1)
    return errors


def fit_temperature(probabilities: NDArray[Any], targets: ArrayLike) -> float:
    """The temperature at which the right labels are likeliest: above 1 where the model is too sure of itself.

    The likelihood has one maximum in 1 / temperature, found by halving.

    Args:
        probabilities: Of the labels, shape (n, labels), rows summing to 1; of examples that nothing was trained on.
        targets: Number of the right label of each, shape (n,).

    Returns:
        A number in [0.02, 50]; an end of it where the likelihood has no maximum in between, as when all answers are
        right.

    Raises:
        ValueError: If there is no example, or the shapes do not fit.

    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    rows, right = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    if rows.ndim != 2 or not len(rows) or right.shape != rows.shape[:1]:
        raise ValueError(f"probabilities of shape {rows.shape} with targets of shape {right.shape}; give (n, labels).")
    logits = np.log(np.maximum(rows, SMALLEST))
    aimed = logits[np.arange(len(rows)), right].mean()
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        expected = (apply_temperature(rows, float(np.exp(middle))) * logits).sum(axis=1).mean()
        low, high = (middle, high) if expected > aimed else (low, middle)  # too sure: hotter
    return float(np.exp((low + high) / 2))


def apply_temperature(probabilities: NDArray[Any], temperature: float) -> Floats:
    """Probabilities to the power 1 / temperature, brought back to sum 1, shape (n, labels); the order of labels stays.

    Args:
        probabilities: Shape (n, labels), rows summing to 1.
        temperature: Above 0; 1 changes nothing, more makes less sure.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST)) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found


def batch_prior(probabilities: NDArray[Any]) -> Floats:
    """What a prompt gives each label on average over texts, shape (labels,), summing to 1.

    Args:
        probabilities: Of the labels for unlabelled texts, shape (n, labels), rows summing to 1.

    Raises:
        ValueError: If there is no text, or the array is not of two dimensions.

    Source:
        Zhou et al. 2023, "Batch Calibration", arXiv:2309.17249. It stands for the content-free inputs of
        Zhao et al. 2021, "Calibrate Before Use", arXiv:2102.09690, which have to be invented.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"probabilities of shape {rows.shape}; expected (n, labels) with n > 0.")
    mean = np.maximum(rows.mean(axis=0), SMALLEST)
    found: Floats = mean / mean.sum()
    return found


def calibrate(probabilities: NDArray[Any], prior: NDArray[Any]) -> Floats:
    """Probabilities divided by the prior and brought back to sum 1, shape (n, labels); a uniform prior changes nothing.

    It moves the answers towards equal shares of the labels, which is wrong where the labels are not: whether it helps
    is to be seen on held-out examples.

    Args:
        probabilities: Shape (n, labels), rows summing to 1.
        prior: Shape (labels,), positive; from ``batch_prior``.

    Raises:
        ValueError: If the shapes do not fit, or the prior is not positive.

    Source:
        Zhou et al. 2023, arXiv:2309.17249.
    """
    rows, divisor = np.asarray(probabilities, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    if rows.ndim != 2 or divisor.shape != rows.shape[1:]:
        raise ValueError(
            f"probabilities of shape {rows.shape} with a prior of shape {divisor.shape}; give (n, labels)."
        )
    if not np.all(divisor > 0):
        raise ValueError("a label has the prior 0; expected positive numbers, as batch_prior gives.")
    logits = np.log(np.maximum(rows, SMALLEST)) - np.log(divisor)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found
