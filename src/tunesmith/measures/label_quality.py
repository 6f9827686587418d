"""Which labels are probably wrong, from probabilities by a model that has not seen them: confident learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def confident_errors(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an item most probably has another label than the one it was given, shape (n,).

    An item counts as one of label j if its probability of j is at least the mean of that of all items labelled j, so
    that labels which the model is seldom sure of need less. Those that count as one of another label are named.

    Args:
        probabilities: Out-of-sample, shape (n, labels).
        labels: Places of the given labels, shape (n,).

    Source:
        Northcutt et al. 2021, "Confident learning", arXiv:1911.00068, section 3.1; cleanlab's
        ``filter_by="confident_learning"``.
    """
    present = np.unique(labels)
    thresholds = np.full(probabilities.shape[1], np.inf)
    thresholds[present] = [probabilities[labels == label, label].mean() for label in present]
    sure = probabilities >= thresholds - 1e-6
    guess = np.where(sure.sum(1) > 1, probabilities.argmax(1), sure.argmax(1))
    found: NDArray[np.bool_] = sure.any(1) & (guess != labels) & (probabilities.argmax(1) != labels)
    return found
