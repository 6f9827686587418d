"""Learning curves: known laws found again, as good as scipy, intervals that hold the truth, no claim too far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tunesmith.measures.learning_curve import LOSS_LAWS, SCORE_LAWS, Point, back_tests, fit_curve

SIZES = np.array([100, 141, 200, 282, 400, 564, 800, 1128, 1600])
ITEMS = 400
LAWS: dict[str, Any] = {
    "POW3": lambda n, a, b, c: a - b * n**-c,
    "POW4": lambda n, a, b, c, d: a - b * (n + d) ** -c,
    "MMF4": lambda n, a, b, c, d: (a * b + c * n**d) / (b + n**d),
    "WBL4": lambda n, a, b, c, d: a - b * np.exp(-c * n**d),
}
TRUTHS = {"POW3": (0.95, 2.0, 0.4), "POW4": (0.93, 10.0, 0.6, 150.0), "MMF4": (0.3, 60.0, 0.92, 0.7),
          "WBL4": (0.9, 0.6, 0.02, 0.6)}  # fmt: skip


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exact(values: np.ndarray, noise: float = 1e-8) -> list[Point]:
    return [Point(int(n), (float(v),) * 2, noise) for n, v in zip(SIZES, values, strict=True)]


@pytest.mark.parametrize("name", LAWS)
def test_a_curve_without_noise_is_carried_on_as_it_is(name: str) -> None:
    law, truth = LAWS[name], TRUTHS[name]
    curve = fit_curve(exact(law(SIZES, *truth)), 1600, rng())
    for n in (150, 1600, 2400, 3200):
        assert curve.mean(n)[0] == pytest.approx(law(n, *truth), abs=0.003)


@pytest.mark.parametrize("name", LAWS)
def test_the_fit_is_as_good_as_scipys(name: str) -> None:
    from scipy.optimize import curve_fit

    law = next(law for law in SCORE_LAWS if law.name == name)
    deviations = 0.01 * rng(1).standard_normal(len(SIZES))
    values = LAWS[name](SIZES, *TRUTHS[name]) + deviations
    noise = 0.01**2
    points = [Point(int(n), (float(v), float(v)), noise) for n, v in zip(SIZES, values, strict=True)]
    curve = fit_curve(points, 10**9, rng(), [law])  # of a pool that large, draws do not overlap
    found, _ = curve_fit(LAWS[name], SIZES, values, TRUTHS[name], maxfev=100_000)
    theirs = float(((LAWS[name](SIZES, *found) - values) ** 2).sum())
    assert float(((curve.mean(SIZES) - values) ** 2).sum()) <= 1.05 * theirs
    assert curve.mean(3200)[0] == pytest.approx(LAWS[name](3200, *found), abs=0.006)


def test_the_rectified_law_finds_its_flat_start_where_a_power_law_does_not() -> None:
    def loss(n: Any) -> Any:
        return 400.0 / (90.0 + n**0.8) + 0.5

    curve = fit_curve(exact(loss(SIZES)), 1600, rng(), LOSS_LAWS)
    power_law = fit_curve(exact(loss(SIZES)), 1600, rng(), LOSS_LAWS[:1])
    assert abs(curve.mean(3200)[0] - loss(3200)) < 0.01 < 0.2 * abs(power_law.mean(3200)[0] - loss(3200))
    assert curve.weights[0] < 0.01  # POW3


def test_weights_go_to_the_law_that_fits() -> None:
    convex = fit_curve(exact(LAWS["WBL4"](SIZES, *TRUTHS["WBL4"]), 1e-6), 1600, rng()).weights
    assert sum(convex) == pytest.approx(1)
    assert convex[0] < 0.01  # a power law cannot bend so
    power = fit_curve(exact(LAWS["POW3"](SIZES, *TRUTHS["POW3"]), 1e-6), 1600, rng()).weights
    assert power[0] == max(power)


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────
def drawn(seed: int, pool: int = 1600, draws: int = 4, spread: float = 0.6) -> tuple[list[Point], float, Any]:
    """Points of nested subsets of a pool, and the score of a training on twice the pool."""
    generator = rng(seed)
    name = list(LAWS)[seed % len(LAWS)]
    examples = generator.standard_normal(2 * pool)

    def score(n: int, chosen: np.ndarray) -> float:
        value = float(LAWS[name](n, *TRUTHS[name]))
        return value + math.sqrt(spread * value * (1 - value) / ITEMS / n) * float(chosen.sum())

    orders = [generator.permutation(examples[:pool]) for _ in range(draws)]
    points = []
    for n in SIZES:
        scores = tuple(score(int(n), order[:n]) for order in orders[: 1 if n == pool else draws])
        points.append(Point(int(n), scores, float(np.mean(scores)) * (1 - float(np.mean(scores))) / ITEMS))
    return points, score(2 * pool, examples), lambda n: float(LAWS[name](n, *TRUTHS[name]))


def test_eighty_percent_intervals_hold_about_eighty_percent() -> None:
    inside = []
    for seed in range(100):
        points, truth, _ = drawn(seed)
        found = fit_curve(points, 1600, rng(seed), replicates=200).predict(3200)
        inside.append(found.low <= truth <= found.high)
    assert 0.7 <= np.mean(inside) <= 0.92


def test_trainings_that_differ_more_widen_the_interval() -> None:
    def width(spread: float) -> float:
        found = [fit_curve(drawn(s, spread=spread)[0], 1600, rng()).predict(3200) for s in range(8)]
        return float(np.mean([p.high - p.low for p in found]))

    assert 2 * width(0.1) < width(1.6)


def test_no_score_is_expected_above_the_best_there_is() -> None:
    values = 1 - 0.3 * (SIZES / 100.0) ** -0.9
    points = [Point(int(n), (float(v) - 0.02, float(v) + 0.02), 4e-4) for n, v in zip(SIZES, values, strict=True)]
    curve = fit_curve(points, 1600, rng())
    found = curve.predict(3200)
    assert found.low < found.value < found.high <= 1
    assert curve.band(SIZES)[1].max() <= 1


# ── the price of a target ────────────────────────────────────────────────────────────────────────────────
def test_needed_is_the_inverse_of_the_curve() -> None:
    law, truth = LAWS["POW3"], TRUTHS["POW3"]
    curve = fit_curve(exact(law(SIZES, *truth)), 1600, rng())
    for n in (300, 1600, 2500):
        found = curve.needed(float(law(n, *truth)))
        assert found.size == pytest.approx(n, rel=0.05)
        assert found.low <= found.size <= found.high
    assert curve.needed(0.94).size == math.inf  # below the asymptote, and beyond twice the data
    assert curve.needed(0.99).reached == 0


def test_a_target_near_the_asymptote_may_be_out_of_reach() -> None:
    points, _, _ = drawn(3)  # a Weibull curve that tends to 0.9
    found = fit_curve(points, 1600, rng()).needed(0.91)
    assert found.high == math.inf
    assert found.reached <= found.asymptote < 0.9


def test_of_losses_less_is_the_target() -> None:
    curve = fit_curve(exact(2.0 * SIZES**-0.3), 1600, rng(), LOSS_LAWS)
    assert curve.needed(2.0 * 800**-0.3).size == pytest.approx(800, rel=0.05)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────
def test_fewer_than_four_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 different sizes"):
        fit_curve(exact(LAWS["POW3"](SIZES, *TRUTHS["POW3"]))[:3], 1600, rng())


def test_nothing_is_said_beyond_twice_the_data() -> None:
    curve = fit_curve(exact(LAWS["POW3"](SIZES, *TRUTHS["POW3"])), 1600, rng())
    with pytest.raises(ValueError, match="nothing beyond 2 times"):
        curve.predict(3300)
    with pytest.raises(ValueError, match="at least the largest"):
        curve.predict(800)


def test_a_back_test_needs_four_sizes_of_half_the_hidden_one() -> None:
    points = exact(LAWS["POW3"](SIZES, *TRUTHS["POW3"]))
    tests = back_tests(points, 1600, rng())
    assert [test.predicted.size for test in tests] == [1600, 1128, 800, 564]
    assert all(test.seen == pytest.approx(test.predicted.value, abs=0.002) for test in tests)
    assert back_tests(points[:5], 400, rng()) == []
