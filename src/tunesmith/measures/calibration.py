"""Batch calibration: take out of label probabilities what the prompt says before any text is read.

A prompt favours some labels whatever is asked: by their words, by the order of its examples. The mean of the
probabilities over unlabelled texts shows how much, and dividing by it takes it out. It needs no labels and no further
pass of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SMALLEST = float(np.finfo(np.float64).tiny)  # below which a probability counts as this


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
