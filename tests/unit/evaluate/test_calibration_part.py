"""The report's calibration: an interval, what chance alone gives, and before and after a temperature."""

import numpy as np
import pytest

from tunesmith.evaluate.calibration import calibration
from tunesmith.measures.calibration import apply_temperature, expected_calibration_error, fit_temperature
from tunesmith.measures.metrics import negative_log_likelihood
from tunesmith.records import Prediction

LABELS = ("a", "b", "c")


def answers(n, seed, heat=1.0):
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(3, 0.7), size=n)
    rows = apply_temperature(honest, 1 / heat)
    return [
        Prediction(str(i), "m", LABELS[int(row.argmax())], LABELS[rng.choice(3, p=p)], 0.0, probabilities=tuple(row))
        for i, (p, row) in enumerate(zip(honest, rows, strict=True))
    ]


def test_of_a_calibrated_model_the_error_is_what_chance_gives(rng):
    found = calibration(answers(2000, 1), LABELS, rng)
    error = found["expected_calibration_error"]
    assert error["low"] <= error["value"] <= error["high"]
    assert error["value"] < 2 * found["if_calibrated"]
    assert "temperature" not in found


def test_a_temperature_mends_a_model_that_is_too_sure_and_changes_no_answer(rng):
    test, validation = answers(2000, 1, heat=3), answers(1000, 2, heat=3)
    before = [p.prediction for p in test]
    found = calibration(test, LABELS, rng, validation)
    heat = found["temperature"]
    assert [p.prediction for p in test] == before
    assert heat["value"] == pytest.approx(3, rel=0.15)
    assert not heat["at_an_end"]
    assert heat["difference"]["high"] < 0
    assert heat["nll_after"] < heat["nll_before"]
    # every number again, from the rows alone
    held = np.array([p.probabilities for p in validation])
    assert heat["value"] == fit_temperature(held, [LABELS.index(p.target) for p in validation])
    table = np.array([p.probabilities for p in test])
    scaled = apply_temperature(table, heat["value"])
    right = [p.prediction == p.target for p in test]
    assert found["expected_calibration_error"]["value"] == pytest.approx(
        expected_calibration_error(table.max(1), right)
    )
    assert heat["expected_calibration_error"]["value"] == pytest.approx(
        expected_calibration_error(scaled.max(1), right)
    )
    targets = [LABELS.index(p.target) for p in test]
    assert heat["nll_after"] == pytest.approx(negative_log_likelihood(scaled, targets))


def test_a_label_that_training_never_saw_counts_as_wrong_and_has_no_likelihood(rng):
    test = answers(200, 1)
    odd = [Prediction("new", "m", "a", "d", 0.0, probabilities=(0.8, 0.1, 0.1))]
    found = calibration(test + odd, LABELS, rng, test + odd)
    assert found["expected_calibration_error"]["n"] == 201
    assert found["temperature"]["n_validation"] == 200


def test_what_has_no_probabilities_or_few_examples_is_not_run(rng):
    bare = [Prediction(str(i), "m", "a", "a", 1.0) for i in range(200)]
    assert calibration(bare, LABELS, rng) == {"status": "not_run", "reason": "it gives labels without probabilities"}
    assert "99 test examples" in calibration(answers(99, 1), LABELS, rng)["reason"]
