from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.linear import C_GRID, fit_linear, fit_ridge_classifier, log_softmax


def test_the_penalty_of_labels_is_chosen_by_held_out_accuracy(rng: np.random.Generator) -> None:
    from sklearn.linear_model import LogisticRegression

    for labels in (2, 3):
        vectors, held_out = rng.normal(size=(60, 20)), rng.normal(size=(200, 20))
        places = (vectors[:, :labels] + rng.normal(size=(60, labels))).argmax(1)
        held = held_out[:, :labels].argmax(1)
        fit = fit_linear(vectors, places[:, None], held_out, held[:, None], "cross_entropy", labels)
        assert [t["C"] for t in fit.tried] == list(C_GRID)
        plain = [LogisticRegression(C=c, max_iter=1000).fit(vectors, places) for c in C_GRID]
        assert [t["score"] for t in fit.tried] == pytest.approx([p.score(held_out, held) for p in plain])
        best = max(fit.tried, key=lambda t: (t["score"], -t["nll"]))
        assert fit.c == best["C"]
        logits = fit.outputs(held_out)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = plain[C_GRID.index(fit.c)].predict_proba(held_out)
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_a_label_without_an_example_is_never_the_answer(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(40, 5))
    places = np.where(vectors[:, :1] > 0, 2, 0)
    fit = fit_linear(vectors, places, vectors, places, "cross_entropy", 3)
    assert set(fit.outputs(rng.normal(size=(200, 5))).argmax(1)) == {0, 2}


def test_several_labels_are_fitted_one_against_the_rest(rng: np.random.Generator) -> None:
    from sklearn.linear_model import LogisticRegression

    vectors, held_out = rng.normal(size=(80, 6)), rng.normal(size=(50, 6))
    targets, held = (np.c_[v[:, 0] > 0, v[:, 1] > 0.5, np.ones(len(v))].astype(float) for v in (vectors, held_out))
    fit = fit_linear(vectors, targets, held_out, held, "binary", 3)
    logits = fit.outputs(held_out)
    for label in (0, 1):
        plain = LogisticRegression(C=fit.c, max_iter=1000).fit(vectors, targets[:, label])
        np.testing.assert_allclose(logits[:, label], plain.decision_function(held_out), atol=1e-6)
    assert (logits[:, 2] > 20).all()
    assert fit.c == max(fit.tried, key=lambda t: t["score"])["C"]


def test_numbers_are_fitted_by_ridge_regression_whatever_their_unit(rng: np.random.Generator) -> None:
    from sklearn.linear_model import Ridge

    vectors, held_out = rng.normal(size=(50, 8)), rng.normal(size=(30, 8))
    targets, held = (v[:, :1] * 3 + rng.normal(size=(len(v), 1)) for v in (vectors, held_out))
    fit = fit_linear(vectors, targets, held_out, held, "squared", 1)
    plain = Ridge(alpha=1 / fit.c).fit(vectors, targets[:, 0])
    np.testing.assert_allclose(fit.outputs(held_out)[:, 0], plain.predict(held_out), atol=1e-8)
    errors = [
        ((Ridge(alpha=1 / c).fit(vectors, targets[:, 0]).predict(held_out) - held[:, 0]) ** 2).mean() for c in C_GRID
    ]
    assert [t["squared_error"] for t in fit.tried] == pytest.approx(errors)
    scaled = fit_linear(vectors, 1000 * targets + 7, held_out, 1000 * held + 7, "squared", 1)
    assert scaled.c == fit.c
    np.testing.assert_allclose(scaled.outputs(held_out), 1000 * fit.outputs(held_out) + 7, rtol=1e-6)


def test_the_simplest_fit_within_a_standard_error_of_the_best_may_be_asked_for(rng: np.random.Generator) -> None:
    vectors, held_out = rng.normal(size=(600, 20)) / 20**0.5, rng.normal(size=(200, 20)) / 20**0.5
    places, held = (v[:, :3].argmax(1)[:, None] for v in (vectors, held_out))
    best, simple = (
        fit_linear(vectors, places, held_out, held, "cross_entropy", 3, simplest=simplest) for simplest in (False, True)
    )
    row = next(t for t in best.tried if t["C"] == best.c)
    hits = best.outputs(held_out).argmax(1) == held[:, 0]
    assert row["stderr"] == pytest.approx(hits.std() / 200**0.5)
    enough = [t["C"] for t in best.tried if t["score"] >= row["score"] - row["stderr"]]
    assert simple.c == enough[0] < best.c


@pytest.mark.parametrize("labels", [2, 4])
def test_ridge_decides_as_scikit_learns_classifier_does(rng: np.random.Generator, labels: int) -> None:
    from sklearn.linear_model import RidgeClassifier

    vectors, held_out = rng.normal(size=(80, 12)), rng.normal(size=(150, 12))
    places, held = (v[:, :labels].argmax(1) for v in (vectors, held_out))
    fit = fit_ridge_classifier(vectors, places[:, None], held_out, held[:, None], "cross_entropy", labels)
    plain = [RidgeClassifier(alpha=1 / c).fit(vectors, places) for c in C_GRID]
    assert [t["score"] for t in fit.tried] == pytest.approx([p.score(held_out, held) for p in plain])
    np.testing.assert_array_equal(fit.outputs(held_out).argmax(1), plain[C_GRID.index(fit.c)].predict(held_out))
    logits = fit.outputs(held_out)
    told = next(t["nll"] for t in fit.tried if t["C"] == fit.c)
    assert -log_softmax(logits)[np.arange(150), held].mean() == pytest.approx(told)
    for factor in (0.3, 3.0):  # the factor is near the best: none is far better
        assert -log_softmax(factor * logits)[np.arange(150), held].mean() > told - 1e-9


def test_ridge_of_several_labels_decides_each(rng: np.random.Generator) -> None:
    from sklearn.linear_model import RidgeClassifier

    vectors, held_out = rng.normal(size=(80, 6)), rng.normal(size=(50, 6))
    targets, held = (np.c_[v[:, 0] > 0, v[:, 1] > 0.5].astype(float) for v in (vectors, held_out))
    fit = fit_ridge_classifier(vectors, targets, held_out, held, "binary", 2)
    for label in (0, 1):
        plain = RidgeClassifier(alpha=1 / fit.c).fit(vectors, targets[:, label])
        np.testing.assert_array_equal(fit.outputs(held_out)[:, label] > 0, plain.predict(held_out) > 0.5)
