"""A linear model on fixed vectors, fitted to the end: logistic regression, one against the rest, or ridge regression.

Arrays in, weights out. The strength of the penalty is chosen on held-out vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HeadLoss = Literal["cross_entropy", "binary", "squared"]

C_GRID = tuple(float(c) for c in np.logspace(-2, 3, 11))  # inverse strength of the L2 penalty
LOSS_NAMES = {"cross_entropy": "nll", "binary": "nll", "squared": "squared_error"}
FACTORS = tuple(float(f) for f in np.logspace(0, 2, 9))  # by which ridge regression's +1 and −1 become logits
UNSEEN = -30.0  # bias of a label without an example: e^-30 of the others' probability


@dataclass(frozen=True, slots=True)
class LinearFit:
    """``outputs = vectors @ weights.T + bias``.

    Attributes:
        weights: Shape (outputs, width).
        bias: Shape (outputs,).
        c: The chosen inverse strength of the penalty.
        tried: For each C of the grid its ``score`` on the held-out vectors, higher is better, its standard error, and
            their loss: ``nll`` in nats, or ``squared_error``.
    """

    weights: Floats
    bias: Floats
    c: float
    tried: tuple[dict[str, float], ...]

    def outputs(self, vectors: NDArray[Any]) -> Floats:
        """Logits or numbers of vectors (n, width), shape (n, outputs)."""
        found: Floats = vectors @ self.weights.T + self.bias
        return found


def fit_linear(
    vectors: NDArray[Any],
    targets: NDArray[Any],
    held_out: NDArray[Any],
    held_out_targets: NDArray[Any],
    loss: HeadLoss,
    outputs: int,
    weights: NDArray[Any] | None = None,
    simplest: bool = False,
) -> LinearFit:
    """Fit for each C of ``C_GRID`` and keep the best on held-out vectors (ties: lower loss, then smaller C).

    Args:
        vectors: Shape (n, width), of length about 1, which the grid is made for.
        targets: Shape (n, targets): a label's place for ``cross_entropy``, 0 or 1 for each label for ``binary``, a
            number for ``squared``.
        held_out: Shape (m, width).
        held_out_targets: As ``targets``, shape (m, targets).
        loss: ``cross_entropy`` is logistic regression, judged by accuracy; ``binary`` one such against the rest for
            each label, judged by its loss; ``squared`` ridge regression of numbers brought to mean 0 and spread 1,
            with the penalty 1 / C, judged by its loss.
        outputs: Number of labels, or of numbers.
        weights: How much the loss of each vector counts, shape (n,); None: all once.
        simplest: Of those within a standard error of the best, keep the most regularised.

    Source:
        scikit-learn's ``LogisticRegression`` and ``Ridge``, which do the fitting.
    """
    fits: dict[str, Callable[[float], tuple[Floats, Floats]]] = {
        "cross_entropy": lambda c: _logistic(vectors, targets[:, 0].astype(int), c, outputs, weights),
        "binary": lambda c: _one_against_rest(vectors, targets, c, weights),
        "squared": lambda c: _ridge(vectors, targets, c, weights),
    }
    fitted = [fits[loss](c) for c in C_GRID]
    tried = [judge(held_out @ rows.T + bias, held_out_targets, loss) for rows, bias in fitted]
    best = max(range(len(tried)), key=lambda i: (tried[i]["score"], -tried[i][LOSS_NAMES[loss]]))
    if simplest:
        enough = tried[best]["score"] - tried[best]["stderr"]
        best = next(i for i, found in enumerate(tried) if found["score"] >= enough)
    rows = tuple({"C": c, **found} for c, found in zip(C_GRID, tried, strict=True))
    return LinearFit(*fitted[best], C_GRID[best], rows)


def fit_ridge_classifier(
    vectors: NDArray[Any],
    targets: NDArray[Any],
    held_out: NDArray[Any],
    held_out_targets: NDArray[Any],
    loss: HeadLoss,
    outputs: int,
    weights: NDArray[Any] | None = None,
) -> LinearFit:
    """Ridge regression of +1 for a label and −1 for the others, its penalty 1 / C chosen as in :func:`fit_linear`.

    What it gives is no logit. The factor that makes it one, which changes no order of labels, is that of ``FACTORS``
    with the lowest held-out loss.

    Args:
        vectors: Shape (n, width).
        targets: As in :func:`fit_linear`, for ``cross_entropy`` or ``binary``.
        held_out: Shape (m, width).
        held_out_targets: As ``targets``.
        loss: What the held-out vectors are judged by.
        outputs: Number of labels.
        weights: How much the error of each vector counts, shape (n,); None: all once.

    Source:
        scikit-learn's ``RidgeClassifier``, whose decisions these are.
    """
    from sklearn.linear_model import Ridge

    held = targets[:, :1].astype(int) == np.arange(outputs) if loss == "cross_entropy" else targets > 0
    signs = np.where(held, 1.0, -1.0)
    name, rows, fitted = LOSS_NAMES[loss], [], []
    for c in C_GRID:
        ridge = Ridge(alpha=1 / c).fit(vectors, signs, weights)
        slopes, bias = np.reshape(ridge.coef_, (outputs, -1)), np.broadcast_to(ridge.intercept_, (outputs,))
        scores = held_out @ slopes.T + bias
        found = [judge(factor * scores, held_out_targets, loss) for factor in FACTORS]
        best = min(range(len(FACTORS)), key=lambda i, found=found: found[i][name])  # type: ignore[misc]
        rows.append({"C": c, **found[best]})
        fitted.append((FACTORS[best] * slopes, FACTORS[best] * bias))
    chosen = max(range(len(rows)), key=lambda i: (rows[i]["score"], -rows[i][name]))
    return LinearFit(*fitted[chosen], C_GRID[chosen], tuple(rows))


def disagrees(vectors: NDArray[Any], places: NDArray[Any], folds: int = 5) -> NDArray[np.bool_]:
    """Whether a logistic regression on the other folds' vectors predicts another label than an item has, shape (n,).

    Args:
        vectors: Shape (n, width), of length about 1.
        places: Each item's label, shape (n,); one that stands fewer than ``folds`` times may be in no other fold.
        folds: Item i is in fold i modulo this.
    """
    found: NDArray[np.bool_] = out_of_fold(vectors, places, np.arange(len(places)) % folds).argmax(1) != places
    return found


def out_of_fold(vectors: NDArray[Any], places: NDArray[Any], fold: NDArray[Any], c: float = 10.0) -> Floats:
    """Probabilities of the labels by logistic regressions that have not seen an item's fold, shape (n, labels).

    Args:
        vectors: Shape (n, width), of length about 1.
        places: Each item's label, shape (n,).
        fold: Each item's fold, shape (n,); the same for copies, which would give the answer away.
        c: Inverse strength of the penalty.

    Source:
        Northcutt et al. 2021, "Confident learning", arXiv:1911.00068, for out-of-fold predictions of labels.
    """
    labels = int(places.max()) + 1
    found = np.full((len(places), labels), 1 / labels)
    for held in np.unique(fold):
        if (fold == held).all():
            continue
        weights, bias = _logistic(vectors[fold != held], places[fold != held], c, labels, None)
        found[fold == held] = np.exp(log_softmax(vectors[fold == held] @ weights.T + bias))
    return found


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Logarithms of the softmax of rows, shape (n, outputs)."""
    shifted = logits - logits.max(1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


def binary_losses(logits: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """−log P(target) of independent yes-or-no decisions, nats, shape (n, labels)."""
    return np.logaddexp(0.0, logits) - targets * logits


def item_scores(outputs: Floats, targets: NDArray[Any], loss: HeadLoss) -> tuple[Floats, Floats]:
    """Score of each held-out vector, higher is better, and its loss, two arrays of shape (m,).

    The score is 1 for the right label and 0 for another for ``cross_entropy``, else the loss with its sign turned.

    Args:
        outputs: Logits or numbers, shape (m, outputs).
        targets: As in :func:`fit_linear`, shape (m, targets).
        loss: What is minimised.
    """
    if loss == "cross_entropy":
        places = targets[:, 0].astype(int)
        losses = -log_softmax(outputs)[np.arange(len(places)), places]
        return (outputs.argmax(1) == places).astype(float), losses
    losses = (binary_losses(outputs, targets) if loss == "binary" else (outputs - targets) ** 2).mean(1)
    return -losses, losses


def judge(outputs: Floats, targets: NDArray[Any], loss: HeadLoss) -> dict[str, float]:
    """Mean of :func:`item_scores`, its standard error, and mean loss, over the held-out vectors."""
    scores, losses = item_scores(outputs, targets, loss)
    stderr = float(scores.std() / len(scores) ** 0.5)
    return {"score": float(scores.mean()), "stderr": stderr, LOSS_NAMES[loss]: float(losses.mean())}


def _logistic(
    vectors: NDArray[Any], places: NDArray[Any], c: float, outputs: int, weights: NDArray[Any] | None
) -> tuple[Floats, Floats]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    slopes, bias = np.zeros((outputs, vectors.shape[1])), np.full(outputs, UNSEEN)
    if len(np.unique(places)) == 1:
        bias[places[0]] = 0.0
        return slopes, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its held-out score decides, converged or not
        fitted = LogisticRegression(C=c, max_iter=1000).fit(vectors, places, weights)
    if len(fitted.classes_) == 2:  # scikit-learn keeps the second row's logit less the first's
        slopes[fitted.classes_] = np.concatenate([-fitted.coef_ / 2, fitted.coef_ / 2])
        bias[fitted.classes_] = np.concatenate([-fitted.intercept_ / 2, fitted.intercept_ / 2])
    else:
        slopes[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return slopes, bias


def _one_against_rest(
    vectors: NDArray[Any], targets: NDArray[Any], c: float, weights: NDArray[Any] | None
) -> tuple[Floats, Floats]:
    slopes, bias = np.zeros((targets.shape[1], vectors.shape[1])), np.zeros(targets.shape[1])
    for label, held in enumerate(targets.T):
        pair, offset = _logistic(vectors, held.astype(int), c, 2, weights)
        slopes[label], bias[label] = pair[1] - pair[0], offset[1] - offset[0]
    return slopes, bias


def _ridge(
    vectors: NDArray[Any], targets: NDArray[Any], c: float, weights: NDArray[Any] | None
) -> tuple[Floats, Floats]:
    from sklearn.linear_model import Ridge

    mean, spread = targets.mean(0), targets.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    fitted = Ridge(alpha=1 / c).fit(vectors, (targets - mean) / spread, weights)
    slopes = np.atleast_2d(fitted.coef_) * spread[:, None]
    return slopes, np.atleast_1d(fitted.intercept_) * spread + mean
