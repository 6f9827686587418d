"""The metrics that candidates are judged by: how each is computed from predictions, and how it is said.

A new metric is one line of ``METRICS``. Differences are always a − b in the metric's own unit; ``gain`` turns the
sign where lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import EvaluationError
from tunesmith.measures import calibration, metrics, multi_label, regression, translation
from tunesmith.measures.uncertainty import Statistic, weighted_mean
from tunesmith.records import Prediction

Values = Callable[[Sequence[Prediction]], NDArray[Any]]


class Unit(NamedTuple):
    """How numbers of a metric are said: times a factor, with so many decimals, and a sign or word behind.

    Without decimals, four significant digits are shown: for numbers whose size is the user's.
    """

    value_factor: float
    value_sign: str
    difference_factor: float
    difference_sign: str
    value_decimals: int | None
    difference_decimals: int | None


PERCENT = Unit(100, " %", 100, " points", 1, 1)
SHARE = Unit(1, "", 100, " points", 3, 1)
OF_HUNDRED = Unit(1, "", 1, " points", 1, 1)
PLAIN = Unit(1, "", 1, "", 3, 3)
TARGETS = Unit(1, "", 1, "", None, None)


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is computed and said.

    ``words`` name it in a sentence. ``values`` takes from each prediction what the metric needs, shape (n, ...),
    or raises EvaluationError where predictions lack it; ``statistic`` computes the metric from that, None: the
    mean. Candidates can be chosen by it if it is ``comparable``. ``margin`` is the smallest difference that
    matters unless the user says otherwise, in the metric's unit. ``span`` is the distance from its worst value
    to its best; None: as far as the targets spread.
    """

    words: str
    values: Values
    statistic: Statistic | None = None
    unit: Unit = SHARE
    higher_is_better: bool = True
    comparable: bool = True
    margin: float = 0.01
    span: float | None = 1.0

    def of(self, values: NDArray[Any], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric of many resamples: values (n, ...), counts (resamples, n) -> (resamples,)."""
        return (self.statistic or weighted_mean)(values, counts)


def metric_words(metric: str) -> str:
    """A metric's name in a sentence; one that is unknown here keeps its own."""
    return METRICS[metric].words if metric in METRICS else metric


def in_words(value: float, metric: str) -> str:
    """A metric's value as a sentence shows it: shares in percent, other scores as they are."""
    unit = METRICS[metric].unit if metric in METRICS else PLAIN
    return _number(unit.value_factor * value, unit.value_decimals) + unit.value_sign


def difference_in_words(difference: float, metric: str, *, signed: bool = False) -> str:
    """A difference of two values as a sentence shows it: ``4.0 points``, or ``0.041`` of a correlation."""
    return bare_difference(difference, metric, signed=signed) + METRICS[metric].unit.difference_sign


def bare_difference(difference: float, metric: str, *, signed: bool = False) -> str:
    """The number alone of a difference; ``signed`` puts a plus or a minus before it."""
    unit = METRICS[metric].unit
    number = _number(unit.difference_factor * difference, unit.difference_decimals)
    return f"+{number}" if signed and not number.startswith("−") else number


def detectable_in_words(effect: float, metric: str) -> str:
    """The smallest difference that could be detected, for a bracket: ``4.0 pt``."""
    return difference_in_words(effect, metric).replace("points", "pt")


def gain(difference: float, low: float, high: float, metric: str) -> tuple[float, float, float]:
    """How much better a is than b, with interval: a − b, with its sign turned where lower is better."""
    return (difference, low, high) if METRICS[metric].higher_is_better else (-difference, -high, -low)


def metric_values(predictions: Sequence[Prediction], metric: str) -> tuple[NDArray[Any], Statistic | None]:
    """What a metric needs of each prediction, shape (n, ...), and how it is computed from that; None: the mean.

    Raises:
        EvaluationError: If there are no predictions, the metric is unknown, or predictions lack what it needs.
    """
    if not predictions:
        raise EvaluationError(f"no predictions: {metric} needs at least one. Evaluate the candidate first.")
    if metric not in METRICS:
        raise EvaluationError(f"metric '{metric}': expected one of {', '.join(METRICS)}. Choose one of them.")
    return METRICS[metric].values(predictions), METRICS[metric].statistic


def item_scores(predictions: Sequence[Prediction], metric: str) -> list[float]:
    """How good each prediction is by itself, higher is better: for putting answers in order.

    Errors of numbers are negative; a metric of the whole test set, such as macro F1 or BLEU, is replaced by one that
    single answers have.
    """
    if metric in ITEM_SCORES:
        return [ITEM_SCORES[metric](p.prediction, p.target) for p in predictions]
    if METRICS[metric].unit is TARGETS or METRICS[metric].statistic in CORRELATIONS:
        return (-_errors(predictions)).tolist()
    return [float(p.prediction == p.target) for p in predictions]


def _number(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = min(12, max(0, 3 - math.floor(math.log10(abs(value))))) if value else 0
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


# ── what the statistics take ─────────────────────────────────────────────────────────────────────────────
def _right(predictions: Sequence[Prediction]) -> NDArray[Any]:
    return np.array([float(p.prediction == p.target) for p in predictions])


def _each(score: Callable[[str, str], float]) -> Values:
    """A score of each answer by itself."""
    return lambda predictions: np.array([score(p.prediction, p.target) for p in predictions])


def _texts(count: Callable[[Sequence[str], Sequence[str]], NDArray[Any]]) -> Values:
    """What a measure of all answers together takes."""
    return lambda predictions: count([p.prediction for p in predictions], [p.target for p in predictions])


def _likelihoods(predictions: Sequence[Prediction]) -> NDArray[Any]:
    losses = [p.nll for p in predictions if p.nll is not None]
    _check_all_have(losses, predictions, "likelihood")
    return np.array(losses)


def _confidence(predictions: Sequence[Prediction]) -> NDArray[Any]:
    sure = [max(p.probabilities) for p in predictions if p.probabilities]
    _check_all_have(sure, predictions, "probabilities")
    return np.stack([np.clip(sure, 0, 1), _right(predictions)], axis=1)


def _numbers(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    """Prediction and target of each example as numbers, shape (n, 2)."""
    found = []
    wrong = []
    for p in predictions:
        for text, what in ((p.prediction, "prediction"), (p.target, "target")):
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            found.append(number)
            if not math.isfinite(number):
                wrong.append(f"{what} '{text}' of example {p.example_id}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise EvaluationError(
            f"{predictions[0].candidate}: {', '.join(wrong[:3])}{more} is not a number. "
            "A metric of numbers needs finite ones. Correct the data, or leave this candidate out."
        )
    return np.array(found).reshape(-1, 2)


def _varied_numbers(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    values = _numbers(predictions)
    if (values[:, 1] == values[0, 1]).all():
        raise EvaluationError(
            f"all {len(values)} test targets are {predictions[0].target}: a correlation needs targets that differ. "
            "Use more test examples, or set task.metric to mae."
        )
    return values


def _errors(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    values = _numbers(predictions)
    return np.abs(values[:, 0] - values[:, 1])


def target_spread(predictions: Sequence[Prediction]) -> float:
    """Distance of the smallest and the largest target that are numbers."""
    return float(np.ptp(_numbers(predictions)[:, 1]))


def _check_all_have(found: Sequence[float], predictions: Sequence[Prediction], what: str) -> None:
    missing = len(predictions) - len(found)
    if missing:
        raise EvaluationError(
            f"{predictions[0].candidate}: {missing} of {len(predictions)} predictions have no {what}. "
            "Expected it for all. Leave this metric out for this candidate."
        )


def _sentence_chrf(prediction: str, target: str) -> float:
    return translation.chrf([prediction], [target])


_OVERLAPS, _LABEL_OVERLAPS = _texts(multi_label.set_overlaps), _texts(multi_label.label_overlaps)
_CHRF_COUNTS, _BLEU_COUNTS = _texts(translation.chrf_counts), _texts(translation.bleu_counts)

METRICS = {
    "accuracy": Metric("accuracy", _right, unit=PERCENT),
    "macro_f1": Metric("macro F1", _texts(metrics.label_codes), metrics.macro_f1_statistic),
    "exact_match": Metric("exact match", _each(metrics.exact_match), unit=PERCENT),
    "token_f1": Metric("token F1", _each(metrics.token_f1)),
    "rouge_l": Metric("ROUGE-L", _each(metrics.rouge_l)),
    "preference_accuracy": Metric("preference accuracy", _right, unit=PERCENT),
    "micro_f1": Metric("micro F1", _OVERLAPS, multi_label.micro_f1_statistic),
    "macro_f1_labels": Metric("macro F1 over labels", _LABEL_OVERLAPS, multi_label.macro_f1_labels_statistic),
    "subset_accuracy": Metric("subset accuracy", _each(multi_label.same_set), unit=PERCENT),
    "pearson": Metric("Pearson correlation", _varied_numbers, regression.pearson_statistic, PLAIN, span=2.0),
    "spearman": Metric("Spearman correlation", _varied_numbers, regression.spearman_statistic, PLAIN, span=2.0),
    "mae": Metric("mean absolute error", _errors, unit=TARGETS, higher_is_better=False, margin=0.0, span=None),
    "chrf": Metric("chrF", _CHRF_COUNTS, translation.chrf_statistic, OF_HUNDRED, margin=1.0, span=100.0),
    "bleu": Metric("BLEU", _BLEU_COUNTS, translation.bleu_statistic, OF_HUNDRED, margin=1.0, span=100.0),
    "nll": Metric("negative log-likelihood", _likelihoods, unit=PLAIN, higher_is_better=False, comparable=False),
    "expected_calibration_error": Metric(
        "expected calibration error", _confidence, calibration.calibration_error_statistic, PLAIN,
        higher_is_better=False, comparable=False,
    ),
}  # fmt: skip
COMPARABLE = tuple(name for name, metric in METRICS.items() if metric.comparable)
CORRELATIONS = (regression.pearson_statistic, regression.spearman_statistic)
ITEM_SCORES: dict[str, Callable[[str, str], float]] = {
    "exact_match": metrics.exact_match, "token_f1": metrics.token_f1, "rouge_l": metrics.rouge_l,
    "micro_f1": multi_label.set_f1, "macro_f1_labels": multi_label.set_f1,
    "chrf": _sentence_chrf, "bleu": _sentence_chrf,
}  # fmt: skip
