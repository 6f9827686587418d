"""Metrics: values worked out by hand, and the edges."""

import doctest

import numpy as np
import pytest

from tunesmith.measures import (
    gradients,
    metrics,
    mixing,
    multi_label,
    regression,
    retention,
    translation,
    uncertainty,
)


@pytest.mark.parametrize(
    "module", [gradients, metrics, mixing, multi_label, regression, retention, translation, uncertainty]
)
def test_the_examples_in_the_docstrings_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("prediction", "target", "equal"),
    [
        ("The Eiffel Tower.", "eiffel tower", 1.0),
        ("  an  apple ", "Apple!", 1.0),
        ("«naïve»", "naïve", 1.0),
        ("theatre", "atre", 0.0),
        ("42", "24", 0.0),
        ("", "the", 1.0),
    ],
)
def test_exact_match(prediction, target, equal):
    assert metrics.exact_match(prediction, target) == equal


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("the cat sat", "a cat sat down", 0.8),
        ("cat cat", "cat", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("sat cat", "cat sat", 1.0),
    ],
)
def test_token_f1(prediction, target, score):
    assert metrics.token_f1(prediction, target) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),  # in order, unlike token F1
        ("Ünïted, nations", "ünïted nations", 1.0),
        ("", "", 1.0),
        ("word", "", 0.0),
    ],
)
def test_rouge_l(prediction, target, score):
    assert metrics.rouge_l(prediction, target) == pytest.approx(score)


def test_confusion_matrix_refuses_labels_it_was_not_given():
    with pytest.raises(ValueError, match="'c'"):
        metrics.confusion_matrix(["a", "c"], ["a", "b"], ["a", "b"])


@pytest.mark.parametrize("measure", [metrics.accuracy, metrics.macro_f1])
def test_lengths_are_checked(measure):
    with pytest.raises(ValueError, match="2 and 1 items"):
        measure(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 and 0 items"):
        measure([], [])


def test_likelihood_of_guessing_is_the_logarithm_of_the_labels():
    guessing = np.full((6, 4), 0.25)
    assert metrics.negative_log_likelihood(guessing, [0, 1, 2, 3, 0, 1]) == pytest.approx(np.log(4))
    assert np.isfinite(metrics.negative_log_likelihood([[0.0, 1.0]], [0]))
