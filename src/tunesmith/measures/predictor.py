"""The predictor on fixed vectors: logistic regression, ridge or nearest neighbours, as held-out vectors favour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tunesmith.measures.linear import Floats, HeadLoss, LinearFit, fit_linear, fit_ridge_classifier, item_scores
from tunesmith.measures.neighbours import NeighboursFit, fit_neighbours


@dataclass(frozen=True, slots=True)
class PredictorFit:
    """A predictor that was chosen among several.

    Attributes:
        name: ``logistic``, ``ridge`` or ``neighbours``.
        model: What was fitted.
        score: Its score on the held-out vectors, higher is better.
        tried: Every predictor with every setting: ``predictor``, ``C`` or ``k``, ``score``, ``stderr``, and ``nll`` in
            nats or ``squared_error``.
    """

    name: str
    model: LinearFit | NeighboursFit
    score: float
    tried: tuple[dict[str, Any], ...]

    @property
    def setting(self) -> dict[str, float]:
        """What was chosen for it on the held-out vectors: C, or k."""
        return {"C": self.model.c} if isinstance(self.model, LinearFit) else {"k": self.model.k}

    @property
    def parameters(self) -> int:
        """Numbers that were learned; neighbours learn none."""
        return int(self.model.weights.size + self.model.bias.size) if isinstance(self.model, LinearFit) else 0

    def outputs(self, vectors: NDArray[Any]) -> Floats:
        """Logits or numbers of vectors (n, width), shape (n, outputs)."""
        return self.model.outputs(vectors)


def fit_predictor(
    vectors: NDArray[Any],
    targets: NDArray[Any],
    held_out: NDArray[Any],
    held_out_targets: NDArray[Any],
    loss: HeadLoss,
    outputs: int,
    weights: NDArray[Any] | None = None,
) -> PredictorFit:
    """Fit each predictor, its setting chosen on held-out vectors, and keep the simplest that none clearly beats there.

    The simplest is logistic regression (whose probabilities need no further step), then ridge, then nearest neighbours
    (which keep all training vectors). One less simple must be better by more than the standard error of the difference,
    held-out vector by held-out vector: the best of many on few vectors is best by luck as well. For numbers there is
    no logistic regression.

    Args:
        vectors: Shape (n, width), of length about 1.
        targets: As in :func:`tunesmith.measures.linear.fit_linear`, shape (n, targets).
        held_out: Shape (m, width).
        held_out_targets: As ``targets``, shape (m, targets).
        loss: ``cross_entropy`` is scored by accuracy, ``binary`` and ``squared`` by the loss with its sign turned.
        outputs: Number of labels, or of numbers.
        weights: How much each vector counts, shape (n,); None: all once. Neighbours, which have no loss, are then left
            out.

    Source:
        The one-standard-error rule of Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3, on
        paired differences.
    """
    data = (vectors, targets, held_out, held_out_targets, loss, outputs)
    fits: dict[str, LinearFit | NeighboursFit] = (
        {"ridge": fit_linear(*data, weights)}
        if loss == "squared"
        else {"logistic": fit_linear(*data, weights), "ridge": fit_ridge_classifier(*data, weights)}
    )
    if weights is None:
        fits["neighbours"] = fit_neighbours(*data)
    scores = {name: item_scores(fit.outputs(held_out), held_out_targets, loss)[0] for name, fit in fits.items()}
    best = next(iter(fits))
    for name in fits:
        gain = scores[name] - scores[best]
        if gain.mean() > gain.std() / len(gain) ** 0.5:
            best = name
    tried = tuple({"predictor": name, **row} for name, fit in fits.items() for row in fit.tried)
    return PredictorFit(best, fits[best], float(scores[best].mean()), tried)
