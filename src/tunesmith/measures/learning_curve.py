"""How a score grows with the number of examples, and how far that can be carried on: up to twice the data.

Every law is A + b · g(n), with A and b found by least squares and the one or two parameters inside g from a grid:
no start values, no search that fails, and a thousand bootstrap replicates are a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_SIZES = 4  # that a curve can be fitted to
FARTHEST = 2.0  # times the largest size: no claim is made beyond
COVERAGE = 0.8  # of every interval here
ENDS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
REPLICATES = 500
# The laws, their grid and the law of luck are not the truth: without this, 80 % intervals of twice the data held it in
# 57 % (film reviews, from which the number was taken), 72 % (sarcasm) and 72 % (synthetic curves) of the cases of
# benchmarks/learning_curve.py.
WIDENED = 1.35
LEAST_SPREAD = 0.01  # of trainings, in units of the items' noise: nothing is exact
REFINEMENTS = 3  # of the grid round its best
BLOCK = 250  # replicates fitted at once: bounds memory

_EXPONENTS = np.geomspace(0.05, 3.0, 24)
_OFFSETS = np.geomspace(0.01, 10.0, 12)  # in units of the largest size
_PAIRS = np.stack(np.meshgrid(_EXPONENTS, _OFFSETS, indexing="ij"), -1).reshape(-1, 2)


class Law(NamedTuple):
    """One shape of a learning curve, falling in x = n / largest n; its score is A + b · shape, b ≤ 0.

    ``parameters`` counts A and b, too. With a ``power`` α the law is one of a loss: −loss^(1/α) is A + b · shape.
    """

    name: str
    parameters: int
    grid: Floats  # (P, 1 or 2)
    shape: Callable[[Floats, Floats], Floats]  # x (k,), grid (P, ·) -> (P, k)
    power: float | None = None

    def forward(self, values: Floats) -> Floats:
        """Values as the law sees them, growing with n."""
        return values if self.power is None else -(np.maximum(values, 1e-12) ** (1 / self.power))

    def back(self, seen: Floats) -> Floats:
        return seen if self.power is None else np.maximum(-seen, 0.0) ** self.power

    def slope(self, values: Floats) -> Floats:
        """How much what the law sees changes with a value."""
        if self.power is None:
            return np.ones_like(values)
        return np.maximum(values, 1e-12) ** (1 / self.power - 1) / self.power


def _pow3(x: Floats, grid: Floats) -> Floats:
    return x ** -grid[:, :1]


def _pow4(x: Floats, grid: Floats) -> Floats:
    return (x + grid[:, 1:]) ** -grid[:, :1]


def _mmf4(x: Floats, grid: Floats) -> Floats:
    return 1 / (1 + x ** grid[:, :1] / grid[:, 1:])


def _wbl4(x: Floats, grid: Floats) -> Floats:
    return np.exp(-(x ** grid[:, :1]) / grid[:, 1:])


_ONE = _EXPONENTS[:, None]
SCORE_LAWS = (
    Law("POW3", 3, _ONE, _pow3), Law("POW4", 4, _PAIRS, _pow4), Law("MMF4", 4, _PAIRS, _mmf4),
    Law("WBL4", 4, _PAIRS, _wbl4),
)  # fmt: skip
# (B / (D_l + D^β) + E)^α; divided by D_l it is MMF4's shape. POW3 is the case of nothing learned before.
LOSS_LAWS = (
    Law("POW3", 3, _ONE, _pow3, 1.0),
    *(Law(f"rectified, α = {power:g}", 5, _PAIRS, _mmf4, power) for power in (0.5, 1.0, 2.0)),
)


class Point(NamedTuple):
    """Scores at one size, one for each draw of a subset; ``noise``: the variance that the items alone give a score."""

    size: int
    scores: tuple[float, ...]
    noise: float


class Prediction(NamedTuple):
    """What a curve says of one size, with its 80 % interval."""

    size: float
    value: float
    low: float
    high: float


class Needed(NamedTuple):
    """How many examples reach a target; infinite where it is not reached within twice the data.

    ``reached`` is the share of the replicates that reach it there, ``asymptote`` the share whose curve ever does.
    """

    size: float
    low: float
    high: float
    reached: float
    asymptote: float


@dataclass(frozen=True, slots=True)
class _Fits:
    """Best fits of one law to many replicates."""

    level: Floats  # (R,)
    factor: Floats
    place: NDArray[np.intp]  # in the law's grid
    misfit: Floats  # χ²

    def at(self, law: Law, x: Floats, rows: NDArray[np.intp]) -> Floats:
        """Scores at x (k,) of some replicates, shape (rows, k)."""
        shapes = law.shape(x, law.grid[self.place[rows]])
        return law.back(self.level[rows, None] + self.factor[rows, None] * shapes)


@dataclass(frozen=True, slots=True)
class Curve:
    """Laws fitted to the same points, averaged by their Akaike weights, with bootstrap replicates of the whole.

    ``luck`` holds for each replicate how lucky the pool is, how lucky in it the draws of the largest size were, and a
    standard normal number for what is not seen yet. ``spread`` are level and slope of the log of how much trainings of
    one size differ, in units of the items' noise, over the log of x.
    """

    points: tuple[Point, ...]
    laws: tuple[Law, ...]
    weights: tuple[float, ...]
    best: tuple[tuple[Law, _Fits], ...]  # each law with a grid of its own
    replicates: tuple[_Fits, ...]
    chosen: NDArray[np.intp]  # which law each replicate takes
    luck: Floats  # (R, 3)
    spread: tuple[float, float]
    pool: int
    top: float

    @property
    def largest(self) -> int:
        return self.points[-1].size

    def mean(self, sizes: ArrayLike) -> Floats:
        """Fitted scores, shape (k,)."""
        x = self._places(sizes)
        first = np.zeros(1, dtype=np.intp)
        found = [w * fit.at(law, x, first)[0] for w, (law, fit) in zip(self.weights, self.best, strict=True)]
        return np.sum(found, axis=0)

    def _places(self, sizes: ArrayLike) -> Floats:
        x = np.atleast_1d(np.asarray(sizes, dtype=np.float64)) / self.largest
        if (x <= 0).any() or (x > FARTHEST * (1 + 1e-9)).any():
            raise ValueError(
                f"sizes={np.asarray(sizes)}: a curve up to {self.largest} says nothing beyond {FARTHEST:g} times that."
            )
        return x

    def _replicates(self, x: Floats) -> Floats:
        """Scores of the replicates at x (k,), shape (R, k), spread wider round the mean."""
        found = np.empty((len(self.chosen), len(x)))
        for place, (law, fit) in enumerate(zip(self.laws, self.replicates, strict=True)):
            rows = np.flatnonzero(self.chosen == place)
            found[rows] = fit.at(law, x, rows)
        mean = self.mean(x * self.largest)
        return mean + WIDENED * (found - mean)

    def predict(self, size: float, draws: int = 1) -> Prediction:
        """The score of a training on ``size`` examples, on the same items.

        Args:
            size: From the largest to twice that. Up to the pool's size the examples are the pool's, beyond it all of
                them and others.
            draws: How many trainings of this size the score is the mean of.
        """
        if size < self.largest:
            raise ValueError(f"size={size}: expected at least the largest that was measured, {self.largest}.")
        x, share, last = self._places(size), size / self.pool, self.largest / self.pool
        if share >= 1:
            parts, rest = [share**-0.5, 0.0], 1 - 1 / share
        else:  # the draws go on where those of the largest size ended
            left = (1 - share) / (1 - last)
            parts, rest = [share**0.5, left / share**0.5], (share - last) * left / share
        deviation = math.sqrt(self.points[-1].noise * _spread_at(self.spread, x)[0])
        luck = deviation * (self.luck @ [*parts, (rest / draws) ** 0.5])
        value = float(self.mean(size)[0])
        low, high = np.quantile(self._bounded(self._replicates(x)[:, 0] + WIDENED * luck), ENDS)
        return Prediction(size, value, min(float(low), value), max(float(high), value))

    def _bounded(self, scores: Floats) -> Floats:
        """Scores no better than the best there is."""
        return np.minimum(scores, self.top) if self.laws[0].power is None else np.maximum(scores, 0.0)

    def band(self, sizes: ArrayLike) -> tuple[Floats, Floats]:
        """Ends of the interval of the curve itself, each shape (k,)."""
        low, high = np.quantile(self._bounded(self._replicates(self._places(sizes))), ENDS, axis=0)
        return low, high

    def needed(self, target: float) -> Needed:
        """The fewest examples whose fitted score reaches a target, between the smallest size and twice the data."""
        sizes = np.geomspace(self.points[0].size, FARTHEST * self.largest, 400)
        sign = 1.0 if self.laws[0].power is None else -1.0
        every = sign * self._replicates(self._places(sizes)) >= sign * target
        first = np.where(every.any(1), sizes[every.argmax(1)], math.inf)
        low, high = np.quantile(first, ENDS, method="nearest")
        over = sign * self.mean(sizes) >= sign * target
        size = float(sizes[over.argmax()]) if over.any() else math.inf
        ever = sign * self._limits() >= sign * target
        return Needed(size, min(float(low), size), max(float(high), size), float(every.any(1).mean()),
                      float(ever.mean()))  # fmt: skip

    def _limits(self) -> Floats:
        """What each replicate's law tends to with endless data."""
        found = np.empty(len(self.chosen))
        for place, (law, fit) in enumerate(zip(self.laws, self.replicates, strict=True)):
            rows = self.chosen == place
            found[rows] = law.back(fit.level[rows])
        mean = sum(w * law.back(fit.level)[0] for w, (law, fit) in zip(self.weights, self.best, strict=True))
        return mean + WIDENED * (found - mean)


def fit_curve(
    points: Sequence[Point], pool: int, rng: np.random.Generator, laws: Sequence[Law] = SCORE_LAWS, top: float = 1.0,
    replicates: int = REPLICATES,
) -> Curve:  # fmt: skip
    """Fit the laws to the points and average them.

    Points are weighted by the binomial variance of their scores, scaled by how much draws of the same size differ.
    Draws overlap the more the nearer their size is to the pool's; that is allowed for.

    Args:
        points: At least four sizes.
        pool: Number of examples that the subsets were drawn from.
        rng: Source of the replicates.
        laws: ``SCORE_LAWS``, or ``LOSS_LAWS`` where less is better.
        top: The best score there is.
        replicates: Of the parametric bootstrap.

    Raises:
        ValueError: If there are fewer than four sizes, a size stands twice, or one is above the pool's.

    Source:
        Laws: Viering and Loog 2023, "The Shape of Learning Curves", arXiv:2103.10948; of losses: Lin et al. 2024,
        "Selecting Large Language Model to Fine-tune via Rectified Scaling Law", arXiv:2402.02314. Weights: Burnham and
        Anderson 2002, "Model Selection and Multimodel Inference".
    """
    points = tuple(sorted(points))
    if len(points) < LEAST_SIZES or len({p.size for p in points}) < len(points) or points[-1].size > pool:
        raise ValueError(
            f"sizes={[p.size for p in points]}, pool={pool}: expected at least {LEAST_SIZES} different sizes up to the "
            "pool's."
        )
    laws = tuple(laws)
    x = np.array([p.size for p in points]) / points[-1].size
    values = np.array([np.mean(p.scores) for p in points])
    spread = _spread(points, pool)
    one = np.array([p.noise for p in points]) * _spread_at(spread, x)  # variance of one training on fresh examples
    shares = np.array([p.size / pool for p in points])
    draws = np.array([len(p.scores) for p in points])
    noise = one * (shares + (1 - shares) / draws)
    refined = [_refined(law, x, values[None], noise, top) for law in laws]
    finest, found = [law for law, _ in refined], [fit for _, fit in refined]
    weights = _akaike(laws, found)[0]
    first = np.zeros(1, dtype=np.intp)
    centre = np.sum([w * fit.at(law, x, first)[0] for law, w, fit in zip(finest, weights, found, strict=True)], 0)
    pool_luck, unseen = rng.standard_normal((2, replicates, 1))
    bridge = rng.standard_normal((replicates, len(x))) @ _bridge(shares).T / np.sqrt(draws)
    # what the points are without their luck: the pool's, and that of subsets which grow within it
    drawn = centre - np.sqrt(one) * (np.sqrt(shares) * pool_luck + bridge / np.sqrt(shares))
    luck = np.concatenate([pool_luck, bridge[:, -1:], unseen], 1)
    again = [_in_blocks(law, x, drawn, noise, top) for law in laws]
    cumulated = _akaike(laws, again).cumsum(1)
    chosen = (rng.random((replicates, 1)) > cumulated[:, :-1]).sum(1)
    return Curve(
        points, laws, tuple(map(float, weights)), tuple(refined), tuple(again), chosen, luck, spread, pool, top
    )


def _spread(points: Sequence[Point], pool: int) -> tuple[float, float]:
    """How much trainings of one size differ: level and slope over x; the items' noise where nothing was drawn twice.

    The slope lies between −1 and 0: trainings on more examples do not differ more.
    """
    rows = []
    for point in points:
        if len(point.scores) > 1 and point.size < pool and point.noise > 0:
            variance = float(np.var(point.scores, ddof=1)) / point.noise / (1 - point.size / pool)
            rows.append((math.log(point.size / points[-1].size), variance, len(point.scores) - 1))
    if not rows:
        return 0.0, 0.0
    logs, variances, freedom = np.array(rows).T
    best = (math.inf, 0.0, 0.0)
    for slope in np.linspace(-1, 0, 11):  # Gaussian likelihood of variances, level in closed form
        level = max(float(np.average(variances / np.exp(slope * logs), weights=freedom)), LEAST_SPREAD)
        expected = level * np.exp(slope * logs)
        misfit = float((freedom * (np.log(expected) + variances / expected)).sum())
        best = min(best, (misfit, math.log(level), float(slope)))
    return best[1], best[2]


def _bridge(shares: Floats) -> Floats:
    """Root of the covariance of a Brownian bridge: sums of growing parts of a pool, less their share of its sum."""
    covariance = np.minimum.outer(shares, shares) - np.outer(shares, shares)
    values, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return found


def _spread_at(spread: tuple[float, float], x: Floats) -> Floats:
    found: Floats = np.exp(spread[0] + spread[1] * np.log(np.minimum(x, 1.0)))
    return found


def _fit(law: Law, x: Floats, values: Floats, noise: Floats, top: float) -> _Fits:
    """Least squares over the whole grid for each row of values (R, k), with b ≤ 0 and A not above the best score."""
    highest = top if law.power is None else 0.0
    y = law.forward(values)
    w = 1 / np.maximum(noise * law.slope(values.mean(0)) ** 2, 1e-12)
    g = law.shape(x, law.grid)  # (P, k)
    s_w, s_g, s_gg = w.sum(), g @ w, (g * g) @ w
    s_y, s_gy, s_yy = (y @ w)[:, None], (y * w) @ g.T, ((y * y) @ w)[:, None]
    b = (s_w * s_gy - s_g * s_y) / np.maximum(s_w * s_gg - s_g**2, 1e-12)
    b = np.minimum(b, 0.0)
    a = (s_y - b * s_g) / s_w
    over = a > highest
    b = np.where(over, np.minimum((s_gy - highest * s_g) / s_gg, 0.0), b)
    a = np.where(over, highest, a)
    misfit = s_yy - 2 * a * s_y - 2 * b * s_gy + a * a * s_w + 2 * a * b * s_g + b * b * s_gg
    place = misfit.argmin(1)
    rows = np.arange(len(y))
    return _Fits(a[rows, place], b[rows, place], place, misfit[rows, place])


def _refined(law: Law, x: Floats, values: Floats, noise: Floats, top: float) -> tuple[Law, _Fits]:
    """The best fit to one row of values, its parameters sought ever more finely round the best of the grid."""
    fit = _fit(law, x, values, noise, top)
    step = math.log(_EXPONENTS[1] / _EXPONENTS[0]), math.log(_OFFSETS[1] / _OFFSETS[0])
    for _ in range(REFINEMENTS):
        axes = [
            parameter * np.exp(np.linspace(-width, width, 13))
            for parameter, width in zip(law.grid[fit.place[0]], step, strict=False)
        ]
        law = law._replace(grid=np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)))
        fit = _fit(law, x, values, noise, top)
        step = step[0] / 6, step[1] / 6
    return law, fit


def _in_blocks(law: Law, x: Floats, values: Floats, noise: Floats, top: float) -> _Fits:
    parts = [_fit(law, x, values[i : i + BLOCK], noise, top) for i in range(0, len(values), BLOCK)]
    joined: list[Any] = [np.concatenate([getattr(p, n) for p in parts]) for n in ("level", "factor", "place", "misfit")]
    return _Fits(*joined)


def _akaike(laws: Sequence[Law], fits: Sequence[_Fits]) -> Floats:
    """Akaike weights of the laws, shape (R, laws)."""
    criterion = np.stack([fit.misfit + 2 * law.parameters for law, fit in zip(laws, fits, strict=True)], 1)
    likely = np.exp(-(criterion - criterion.min(1, keepdims=True)) / 2)
    found: Floats = likely / likely.sum(1, keepdims=True)
    return found


class BackTest(NamedTuple):
    """One size hidden and predicted from those of at most half of it."""

    predicted: Prediction
    seen: float

    @property
    def inside(self) -> bool:
        return self.predicted.low <= self.seen <= self.predicted.high


def back_tests(
    points: Sequence[Point], pool: int, rng: np.random.Generator, laws: Sequence[Law] = SCORE_LAWS, top: float = 1.0
) -> list[BackTest]:
    """Hide the largest size, then the next, and predict each from those of at most half of it, while four are left."""
    found = []
    for hidden in sorted(points, reverse=True):
        kept = [p for p in points if FARTHEST * p.size <= hidden.size]
        if len(kept) < LEAST_SIZES:
            break
        scale = hidden.size / FARTHEST / max(p.size for p in kept)  # at most what the curve may be asked
        if scale > 1 + 1e-9:
            continue
        curve = fit_curve(kept, pool, rng, laws, top)
        found.append(BackTest(curve.predict(hidden.size, len(hidden.scores)),
                              float(np.mean(hidden.scores))))  # fmt: skip
    return found
