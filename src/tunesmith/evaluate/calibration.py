"""Calibration: whether a classifier is as often right as it is sure, and what one temperature would mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.compare import example_clusters
from tunesmith.measures.calibration import (
    COLDEST,
    HOTTEST,
    N_BINS,
    apply_temperature,
    calibration_error_statistic,
    fit_temperature,
)
from tunesmith.measures.metrics import negative_log_likelihood
from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
from tunesmith.records import Prediction

FEWEST = 100  # test examples, ten a bin: with fewer the error is mostly noise, and is not reported
DRAWS = 1000  # of answers that are right as often as they are sure
ENDS = 1.01  # a temperature this near to an end of its range is at the end


def calibration(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    rng: np.random.Generator,
    validation: Sequence[Prediction] = (),
) -> dict[str, Any]:
    """Expected calibration error of a classifier's answers, and after temperature scaling where that is asked for.

    Args:
        predictions: Those on the test examples.
        labels: In the order of the probabilities.
        rng: Source of the resamples and draws.
        validation: Those on validation examples, which the temperature is fitted on; empty: none is fitted.

    Returns:
        ``expected_calibration_error`` with its interval; ``if_calibrated``, what it would be on average were the same
        answers right as often as they are sure (never 0 on few examples); ``confidence`` and ``accuracy``, the means;
        and ``temperature`` with error and likelihood after it on the same examples, and the paired differences.
        ``{"status": "not_run"}`` with the reason where there are no probabilities or too few examples.
    """
    without = sum(not p.probabilities for p in predictions)
    if without:
        return {"status": "not_run", "reason": "it gives labels without probabilities"}
    if len(predictions) < FEWEST:
        reason = f"{len(predictions)} test examples; with fewer than {FEWEST} the error is mostly noise"
        return {"status": "not_run", "reason": reason}
    table = np.array([p.probabilities for p in predictions])
    right = np.array([float(p.prediction == p.target) for p in predictions])
    clusters = example_clusters(predictions)
    before = _confidence(table, right)
    error = bootstrap_interval(before, calibration_error_statistic, clusters, rng=rng)
    drawn = [
        calibration_error_statistic(
            np.stack([before[:, 0], rng.random(len(before)) < before[:, 0]], axis=1), np.ones((1, len(before)))
        )[0]
        for _ in range(DRAWS)
    ]
    found = {
        "status": "ok", "n_bins": N_BINS, "expected_calibration_error": error.to_json(),
        "if_calibrated": float(np.mean(drawn)), "confidence": float(before[:, 0].mean()),
        "accuracy": float(right.mean()),
    }  # fmt: skip
    held, aims = _known(validation, labels)
    if not aims:
        return found
    temperature = fit_temperature(held, aims)
    after = _confidence(apply_temperature(table, temperature), right)
    change = paired_bootstrap(after, before, clusters, statistic=calibration_error_statistic, rng=rng)
    judged, targets = _known(predictions, labels)
    return found | {
        "temperature": {
            "value": temperature, "n_validation": len(aims),
            "at_an_end": not (COLDEST * ENDS < temperature < HOTTEST / ENDS),
            "expected_calibration_error": bootstrap_interval(
                after, calibration_error_statistic, clusters, rng=rng
            ).to_json(),
            "difference": {"value": change.difference, "low": change.low, "high": change.high, "n": change.n},
            "nll_before": negative_log_likelihood(judged, targets),
            "nll_after": negative_log_likelihood(apply_temperature(judged, temperature), targets),
        }
    }  # fmt: skip


def _confidence(table: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """How sure each answer is and whether it is right, shape (n, 2); the answers are those that were given."""
    return np.stack([table.max(axis=1).clip(0, 1), right], axis=1)


def _known(predictions: Sequence[Prediction], labels: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
    """Probabilities and place of the right label of the examples whose label training has seen."""
    places = {label: place for place, label in enumerate(labels)}
    known = [p for p in predictions if p.target in places]
    return np.array([p.probabilities for p in known]), [places[p.target] for p in known]
