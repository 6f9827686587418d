from __future__ import annotations

import numpy as np
import pytest

from tunesmith.measures.linear import log_softmax
from tunesmith.measures.neighbours import K_GRID, fit_neighbours, nearest, unit
from tunesmith.measures.predictor import fit_predictor


def test_neighbours_answer_as_scikit_learns(rng: np.random.Generator) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    vectors, held_out = rng.normal(size=(90, 5)), rng.normal(size=(600, 5))
    places, held = (np.abs(v[:, :3]).argmax(1) for v in (vectors, held_out))
    fit = fit_neighbours(vectors, places[:, None], held_out, held[:, None], "cross_entropy", 3)
    assert [t["k"] for t in fit.tried] == list(K_GRID)
    plain = {k: KNeighborsClassifier(k, metric="cosine", weights="distance").fit(vectors, places) for k in K_GRID}
    assert [t["score"] for t in fit.tried] == pytest.approx([p.score(held_out, held) for p in plain.values()])
    shares = plain[fit.k].predict_proba(held_out)
    expected = (fit.k * shares + 1 / 3) / (fit.k + 1)
    np.testing.assert_allclose(np.exp(log_softmax(fit.outputs(held_out))), expected, atol=1e-9)


def test_neighbours_of_numbers_give_their_weighted_mean(rng: np.random.Generator) -> None:
    from sklearn.neighbors import KNeighborsRegressor

    vectors, held_out = rng.normal(size=(40, 4)), rng.normal(size=(30, 4))
    targets, held = (unit(v)[:, :1] * 5 for v in (vectors, held_out))
    fit = fit_neighbours(vectors, targets, held_out, held, "squared", 1)
    plain = KNeighborsRegressor(fit.k, metric="cosine", weights="distance").fit(vectors, targets)
    np.testing.assert_allclose(fit.outputs(held_out), plain.predict(held_out))
    assert fit.k < K_GRID[-1]


def test_neighbours_decide_each_label_and_an_equal_vector_outweighs_all(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(20, 3))
    targets = (rng.random((20, 4)) < 0.5).astype(float)
    fit = fit_neighbours(vectors, targets, vectors, targets, "binary", 4)
    np.testing.assert_array_equal(fit.outputs(2 * vectors) > 0, targets > 0)
    assert max(t["k"] for t in fit.tried) == 16  # of 20 vectors


def test_nearest_are_found_across_blocks(rng: np.random.Generator) -> None:
    vectors, queries = unit(rng.normal(size=(300, 8))), unit(rng.normal(size=(700, 8)))
    places, distances = nearest(vectors, queries, 5)
    similar = queries @ vectors.T
    np.testing.assert_array_equal(places, np.argsort(-similar, axis=1)[:, :5])
    np.testing.assert_allclose(distances, 1 - np.take_along_axis(similar, places, 1))


def test_of_equal_vectors_the_first_is_nearest(rng: np.random.Generator) -> None:
    """Against a stable sort of all cosines, rounded; blocks and kinds of numbers as they come."""
    one = rng.normal(size=384)
    same = np.tile(one / np.linalg.norm(one), (37, 1)).astype(np.float32)
    assert nearest(same, same[:3], 4)[0].tolist() == [[0, 1, 2, 3]] * 3
    vectors = unit(rng.normal(size=(40, 6)))[rng.integers(40, size=500)]  # most of them several times
    queries = unit(vectors[rng.integers(500, size=600)] + 0.1 * rng.normal(size=(600, 6)))
    cosines = np.round(queries @ vectors.T, 6)
    for k in (1, 8, 500):
        np.testing.assert_array_equal(nearest(vectors, queries, k)[0], np.argsort(-cosines, 1, kind="stable")[:, :k])


def rings(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose label no plane tells, but their neighbours do."""
    angles = rng.uniform(0, 2 * np.pi, n)
    return np.c_[np.cos(angles), np.sin(angles)], (np.floor(angles / (np.pi / 4)).astype(int) % 2)[:, None]


def test_the_predictor_that_scores_best_is_kept(rng: np.random.Generator) -> None:
    vectors, places = rings(rng, 400)
    held_out, held = rings(rng, 200)
    fit = fit_predictor(vectors, places, held_out, held, "cross_entropy", 2)
    assert fit.name == "neighbours"
    assert fit.parameters == 0
    assert fit.score == max(t["score"] for t in fit.tried) > 0.9
    assert {t["predictor"] for t in fit.tried} == {"logistic", "ridge", "neighbours"}
    assert (fit.outputs(held_out).argmax(1) == held[:, 0]).mean() == pytest.approx(fit.score)


def test_of_equal_scores_the_simpler_is_kept() -> None:
    vectors = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    places = np.repeat([[0], [1]], 20, axis=0)
    fit = fit_predictor(vectors, places, vectors, places, "cross_entropy", 2)
    assert all(max(t["score"] for t in fit.tried if t["predictor"] == name) == 1 for name in ("ridge", "neighbours"))
    assert (fit.name, fit.parameters) == ("logistic", 6)
    assert "C" in fit.setting


def test_one_that_is_better_by_luck_is_not_kept(rng: np.random.Generator) -> None:
    """With a weak signal and few held-out vectors some predictor beats logistic regression, which is best, by luck."""

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        vectors = unit(rng.normal(size=(n, 40)))
        return vectors, (vectors[:, :1] + 0.3 * rng.normal(size=(n, 1)) > 0).astype(int)

    vectors, places = draw(200)
    by_score, kept = [], []
    for _ in range(20):
        held_out, held = draw(60)
        fit = fit_predictor(vectors, places, held_out, held, "cross_entropy", 2)
        by_score.append(max(fit.tried, key=lambda row: row["score"])["predictor"])
        kept.append(fit.name)
    assert kept.count("logistic") >= by_score.count("logistic") + 2


def test_numbers_take_ridge_or_neighbours(rng: np.random.Generator) -> None:
    vectors, held_out = rng.normal(size=(60, 5)), rng.normal(size=(40, 5))
    fit = fit_predictor(vectors, vectors[:, :1], held_out, held_out[:, :1], "squared", 1)
    assert fit.name == "ridge"
    assert {t["predictor"] for t in fit.tried} == {"ridge", "neighbours"}
