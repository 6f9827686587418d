"""Which candidate to use, and how sure that is: intervals, paired comparisons, and the verdict.

All candidates answer the same test examples, so each pair is compared item by item. The verdict's rule is in
``choose``; ``docs/reference/statistics.md`` explains it with numbers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import EvaluationError
from tunesmith.evaluate.metrics import (
    COMPARABLE,
    METRICS,
    bare_difference,
    detectable_in_words,
    difference_in_words,
    gain,
    in_words,
    metric_values,
    metric_words,
    target_spread,
)
from tunesmith.measures.uncertainty import (
    bootstrap_interval,
    detectable_by_stderr,
    holm,
    mcnemar,
    minimum_detectable_effect,
    paired_bootstrap,
    required_items,
    wilson_interval,
)
from tunesmith.records import Interval, Prediction

LEVEL = 0.05  # two-sided level of a test, after Holm's adjustment
PRACTICAL_ITEMS = 100_000  # more test examples than this nobody labels
COSTED_PREDICTIONS = 10_000  # their time is added to training time when candidates are ordered by cost
# How the ids of fine-tuned candidates begin: alone, with retrieved context, encoders, with other tasks, after a stage,
# on all stages at once.
TUNED = ("tune/", "tune+rag/", "setfit/", "multi/", "after/", "joint/")
# What a fine-tuned candidate must have been measured on, and what it can show, the worst last.
GUARDRAILS = {
    "overfitting": ("none", "mild", "overfit"),
    "forgetting": ("none", "mild", "severe"),
    "memorization": ("none", "mild", "severe"),
}
# The worst that a choice may show. Overfitting excludes nothing: the weights kept are the best step's, and the test
# examples have judged them. How much may be remembered of training data depends on the data, so the user says.
LIMITS: dict[str, str | float] = {"overfitting": "overfit", "forgetting": "mild", "memorization": "off", "bias": "off"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Difference a − b of a metric on the same test examples, with its 95 % interval.

    ``p_value`` is McNemar's mid-p where every score is 0 or 1 and no examples share a cluster, otherwise the
    bootstrap's. ``items_to_detect`` is the number of test examples that would detect the observed difference
    with 80 % power; None where no difference was observed.
    """

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    minimum_detectable_effect: float
    adjusted_p_value: float
    test: Literal["mcnemar_mid_p", "paired_bootstrap"]
    items_to_detect: int | None

    def swapped(self) -> Comparison:
        """The same comparison seen from b."""
        return replace(self, a=self.b, b=self.a, difference=-self.difference, low=-self.high, high=-self.low)

    @property
    def gain(self) -> tuple[float, float, float]:
        """How much better a is, with its interval: the difference, its sign turned where lower is better."""
        return gain(self.difference, self.low, self.high, self.metric)

    def shows_more_than(self, margin: float) -> bool:
        """Whether a is better than b by more than a margin: by the interval and by the adjusted p-value."""
        return self.gain[1] > margin and self.adjusted_p_value < LEVEL

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Contender:
    """What the verdict needs to know of a candidate.

    ``value`` is the metric on the test examples, None where it was not measured. ``cost_seconds`` orders
    candidates. ``vetoes`` say why it must not be chosen; ``unmeasured`` name guardrails without a result;
    ``cautions`` are sentences to repeat beside a choice.
    """

    id: str
    value: float | None
    cost_seconds: float
    baseline: bool = False
    vetoes: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which candidate to use, whether evidence separates it from all others, and what would change that."""

    choice: str | None
    confident: bool
    reason: str
    would_change: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# ── numbers of one candidate ─────────────────────────────────────────────────────────────────────────────
def metric_interval(predictions: Sequence[Prediction], metric: str, rng: np.random.Generator) -> Interval:
    """A metric over test predictions with its 95 % interval.

    Wilson's interval where scores are 0 or 1 and examples are independent, otherwise a bootstrap over the
    examples, or over their clusters.

    Args:
        predictions: Of one candidate, at least one.
        metric: A key of ``METRICS``.
        rng: Source of the resamples.

    Raises:
        EvaluationError: If there are no predictions, or they lack what the metric needs.
    """
    values, statistic = metric_values(predictions, metric)
    clusters = example_clusters(predictions)
    if statistic is None and clusters is None and _right_or_wrong(values, metric):
        return wilson_interval(float(values.sum()), len(values))
    interval = bootstrap_interval(values, statistic, clusters, rng=rng)
    if statistic is None and clusters is not None and interval.value in (0.0, 1.0):
        # resampling equal scores shows no spread; the number of independent clusters bounds what is known
        groups = len(set(clusters))
        bounds = wilson_interval(interval.value * groups, groups)
        return Interval(interval.value, bounds.low, bounds.high, interval.n)
    return interval


def candidate_cost(train_seconds: float | None, seconds_per_example: float | None) -> float:
    """Seconds to train plus seconds for 10,000 predictions: what candidates are ordered by.

    A candidate that trains nothing has no training time; one whose time per prediction is unknown comes last.
    """
    if seconds_per_example is None:
        return math.inf
    return (train_seconds or 0.0) + COSTED_PREDICTIONS * seconds_per_example


# ── pairs of candidates ──────────────────────────────────────────────────────────────────────────────────
def compare(a: Sequence[Prediction], b: Sequence[Prediction], metric: str, rng: np.random.Generator) -> Comparison:
    """Compare two candidates on the same test examples, item by item.

    Args:
        a: Predictions of one candidate, in any order.
        b: Predictions of the other for the same examples, in any order.
        metric: One of ``COMPARABLE``.
        rng: Source of the resamples.

    Raises:
        EvaluationError: If there are no predictions, the examples differ, or the metric cannot be compared
        by.
    """
    if metric not in COMPARABLE:
        raise EvaluationError(f"metric '{metric}': expected one of {', '.join(COMPARABLE)}. Choose one of them.")
    if not a or not b:
        raise EvaluationError("no predictions to compare: expected at least one. Evaluate both candidates first.")
    names = a[0].candidate, b[0].candidate
    ids_a, ids_b = Counter(p.example_id for p in a), Counter(p.example_id for p in b)
    only_a, only_b = (ids_a - ids_b).total(), (ids_b - ids_a).total()
    if only_a or only_b:
        raise EvaluationError(
            f"{names[0]} and {names[1]} answered different test examples: {only_a} are only in the first and "
            f"{only_b} only in the second. A paired comparison needs the same ones. "
            "Evaluate both on one split."
        )
    first, second = (sorted(side, key=lambda p: p.example_id) for side in (a, b))
    wrong = sum(p.target != q.target for p, q in zip(first, second, strict=True))
    if wrong:
        raise EvaluationError(
            f"{names[0]} and {names[1]} were judged by different targets on {wrong} of {len(first)} test "
            "examples. A paired comparison needs the same ones. Evaluate both again on one split."
        )
    values_a, statistic = metric_values(first, metric)
    values_b, _ = metric_values(second, metric)
    clusters = example_clusters(first)
    paired = paired_bootstrap(values_a, values_b, clusters, statistic=statistic, rng=rng)
    mcnemar_fits = (
        statistic is None and clusters is None and all(_right_or_wrong(v, metric) for v in (values_a, values_b))
    )
    if mcnemar_fits:
        only_first, only_second = int(np.sum(values_a > values_b)), int(np.sum(values_b > values_a))
        discordance = (only_first + only_second) / paired.n
        p_value = mcnemar(only_first, only_second)[1]
        detectable = minimum_detectable_effect(paired.n, discordance)
        needed = required_items(abs(paired.difference), discordance) if paired.difference else None
    else:
        p_value = paired.p_value
        # systems that never differed show no spread: fall back on what right-or-wrong items could show
        known = METRICS[metric].span
        span = target_spread(first) if known is None else known
        detectable = detectable_by_stderr(paired.stderr) or span * minimum_detectable_effect(paired.groups, 0.0)
        detectable = min(span, detectable) if known is not None else detectable
        needed = math.ceil(paired.n * (detectable / paired.difference) ** 2) if paired.difference else None
    return Comparison(
        *names, metric, paired.difference, paired.low, paired.high, p_value, paired.n, detectable,
        adjusted_p_value=p_value, test="mcnemar_mid_p" if mcnemar_fits else "paired_bootstrap",
        items_to_detect=needed,
    )  # fmt: skip


def compare_all(
    predictions: Mapping[str, Sequence[Prediction]], metric: str, rng: np.random.Generator
) -> list[Comparison]:
    """Compare every pair of candidates; p-values are adjusted by Holm for the number of pairs.

    All pairs use the same resamples, so the order of the candidates changes nothing but signs.

    Args:
        predictions: For each candidate id, its predictions for the same test examples.
        metric: One of ``COMPARABLE``.
        rng: Source of the resamples.

    Raises:
        EvaluationError: As ``compare``.
    """
    seed = int(rng.integers(2**63))
    found = [
        compare(predictions[a], predictions[b], metric, np.random.default_rng(seed))
        for a, b in itertools.combinations(predictions, 2)
    ]
    adjusted = holm([c.p_value for c in found])
    return [replace(c, adjusted_p_value=p) for c, p in zip(found, adjusted, strict=True)]


def standing(comparison: Mapping[str, Any]) -> Literal["better", "worse", "even"]:
    """Where a stored comparison puts a against b; ``even``: neither is shown to be better."""
    low, high = comparison["low"], comparison["high"]
    if comparison["adjusted_p_value"] >= LEVEL or low <= 0 <= high:
        return "even"
    return "better" if gain(comparison["difference"], low, high, comparison["metric"])[1] > 0 else "worse"


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────
def guardrail_state(
    evaluation: Mapping[str, Any], guardrail: str, limit: str | float
) -> Literal["off", "passed", "failed", "unknown"]:
    """How a candidate stands to one guardrail; see :func:`read_contender`. What was not measured is unknown."""
    part = evaluation.get(guardrail) or {}
    if limit == "off":
        return "off"
    if guardrail == "bias":
        found = part.get("amplification")
        if found is not None and found["low"] > float(limit):
            return "failed"
        return "passed" if found is not None and part.get("status") == "ok" else "unknown"
    if not str(evaluation["id"]).startswith(TUNED):
        return "off"
    if guardrail == "forgetting" and part.get("status") == "not_applicable":
        return "off"  # the model writes no text, so there is none to get worse
    severities = GUARDRAILS[guardrail]
    said = None if part.get("status") == "not_run" else part.get("verdict")
    if said not in severities:
        return "unknown"
    return "failed" if severities.index(said) > severities.index(str(limit)) else "passed"


def read_contender(evaluation: Mapping[str, Any], metric: str, limits: Mapping[str, str | float] = LIMITS) -> Contender:
    """What the verdict needs of a candidate's ``evaluation.json``.

    A candidate that failed or lacks the metric is vetoed. A fine-tuned one (``TUNED``) is vetoed when a
    guardrail's verdict is worse than its limit; a guardrail that was not run, or says a word unknown here, is
    unmeasured and never counts as passed. Forgetting that is ``not_applicable``, because the model writes no text,
    passes. ``limits`` are the worst verdict allowed of each guardrail; ``off`` asks nothing of it. That of bias is a
    number and holds for every candidate: one whose amplification has a lower bound above it is vetoed.
    """
    name = str(evaluation["id"])
    value = evaluation.get("metrics", {}).get(metric, {}).get("value")
    vetoes: list[str] = []
    unmeasured: list[str] = []
    cautions: list[str] = []
    if evaluation.get("status", "ok") != "ok":
        vetoes.append(f"it did not finish ({evaluation.get('reason') or evaluation['status']})")
    elif value is None:
        vetoes.append(f"its {metric_words(metric)} was not measured")
    for guardrail in LIMITS:
        part, state = evaluation.get(guardrail) or {}, guardrail_state(evaluation, guardrail, limits[guardrail])
        if state == "unknown":
            unmeasured.append(guardrail)
        elif state == "failed" and guardrail == "bias":
            found = part["amplification"]
            vetoes.append(
                f"it widens the gap between groups of '{found['column']}' by {100 * found['value']:.1f} points, at "
                f"least {100 * found['low']:.1f}"
            )
        elif state == "failed":
            vetoes.append(f"its {guardrail} is {part['verdict']}")
        elif state == "passed" and part.get("verdict") == "overfit":
            cautions.append(f"training of {name} went on past its best step, whose weights were kept")
    cost = candidate_cost(evaluation.get("train_seconds"), evaluation.get("seconds_per_example"))
    baseline = bool(evaluation.get("baseline"))
    return Contender(name, value, cost, baseline, tuple(vetoes), tuple(unmeasured), tuple(cautions))


def choose(
    contenders: Sequence[Contender], comparisons: Sequence[Comparison], *, metric: str, margin: float | None
) -> Verdict:
    """Choose the cheapest candidate that is not clearly worse than the best.

    1. Vetoed candidates are out. The best is the one with the best value among the rest.
    2. A candidate is *clearly worse* when the best's advantage over it has a 95 % interval wholly above
       ``margin`` and a Holm-adjusted p-value below 0.05. A difference counts only beyond the margin: one that
       is real but may be too small to matter does not pay for a costlier candidate.
    3. Of those not clearly worse, the cheapest is chosen: baselines first, then by ``cost_seconds``. If all
       others are clearly worse, this is the best itself, and it is the winner.
    4. The verdict is confident when the evidence separates the choice from every other candidate: each
       cheaper one is clearly worse than the best, each costlier one significantly worse than the choice; and
       when every guardrail of the choice was measured.

    Args:
        contenders: The candidates, each id once.
        comparisons: All pairs of the candidates that have predictions, as ``compare_all`` returns them.
        metric: What candidates are compared by.
        margin: Smallest difference that matters in practice, in the metric's unit, at least 0; None: the metric's.

    Returns:
        The verdict. Its reason is for a manager: the effect with its interval and the number of test
        examples, or "no evidence of a difference (could detect ≥ x pt)".

    Source:
        The one-standard-error rule (Breiman et al. 1984, "Classification and regression trees", section
        3.4.3) with the interval of the paired difference in place of the standard error.
    """
    margin = METRICS[metric].margin if margin is None else margin
    sign = 1 if METRICS[metric].higher_is_better else -1
    able = sorted((c for c in contenders if not c.vetoes), key=lambda c: -sign * (c.value or 0.0))
    excluded = "".join(f" {c.id} is excluded: {' and '.join(c.vetoes)}." for c in contenders if c.vetoes)
    if not able:
        return Verdict(None, False, f"No candidate can be chosen.{excluded}", "A candidate that finishes.")
    pairs = {(c.a, c.b): c for c in comparisons} | {(c.b, c.a): c.swapped() for c in comparisons}
    best = able[0]
    standing = [c for c in able if c is best or not pairs[best.id, c.id].shows_more_than(margin)]
    choice = min(standing, key=_by_cost)
    others = [c for c in able if c is not choice]
    cheaper_and_out = [c for c in others if c not in standing and _by_cost(c) < _by_cost(choice)]
    separated = [*cheaper_and_out, *(c for c in others if pairs[choice.id, c.id].shows_more_than(0.0))]
    undecided = [c for c in others if c not in separated]
    confident = bool(others) and not undecided and not choice.unmeasured
    shown = f"{choice.id} ({metric_words(metric)} {in_words(choice.value or 0.0, metric)})"
    if not others:
        reason = f"Use {shown}, the only candidate that can be chosen: there is nothing to compare it with."
        change = "A second candidate to compare with."
    elif undecided:
        rival = undecided[0]
        against = pairs[rival.id, choice.id]
        reason = f"Use {shown}, the cheapest that keeps up: {_advantage(against, margin)}."
        beaten = [c for c in others if pairs[choice.id, c.id].shows_more_than(0.0)]
        if beaten:
            reason += f" It is {_lead(pairs[choice.id, beaten[0].id])}."
        change = _more_items(against, margin)
    else:
        rival = (cheaper_and_out or others)[0]  # against a cheaper one: what the extra cost buys
        against = pairs[choice.id, rival.id]
        reason = f"Use {shown}: {_lead(against)}."
        change = _what_reverses(against, choice, rival)
    for guardrail in choice.unmeasured:
        reason += f" Its {guardrail} was not measured."
        change = f"A measurement of {guardrail}. {change}"
    reason += "".join(f" Note: {caution}." for caution in choice.cautions)
    return Verdict(choice.id, confident, reason + excluded, change)


def _lead(c: Comparison) -> str:
    """How far a is ahead of b, for a manager."""
    found, low, high = c.gain
    return (
        f"{difference_in_words(found, c.metric)} better than {c.b} (95 % interval {bare_difference(low, c.metric)} to "
        f"{bare_difference(high, c.metric)}, {c.n:,} test examples)"
    )


def _advantage(c: Comparison, margin: float) -> str:
    """What is known of rival a's advantage over the choice b, when it does not decide."""
    if c.shows_more_than(0.0):
        needed = difference_in_words(margin, c.metric)
        return f"{c.a} is {_lead(c)}, which is not shown to exceed the margin of {needed} that matters"
    detect = detectable_in_words(c.minimum_detectable_effect, c.metric)
    return f"against {c.a}, no evidence of a difference (could detect ≥ {detect}) on {c.n:,} test examples"


def _more_items(c: Comparison, margin: float) -> str:
    """What would separate the choice b from its rival a."""
    if c.shows_more_than(0.0):
        low = difference_in_words(c.gain[1], c.metric)
        return f"A margin below {low}: then the difference would count, and {c.a} would be chosen."
    if c.items_to_detect is None:
        return f"Other test examples: on these, {c.a} and {c.b} score the same, so more like them may not help."
    more = c.items_to_detect - c.n
    observed = difference_in_words(abs(c.difference), c.metric)
    if more <= 0:
        return f"Fewer candidates: {observed} is too little to stand out among so many."
    if more > PRACTICAL_ITEMS:
        return (
            f"Nothing practical: {c.a} and {c.b} differ by {observed} here, and detecting so small a "
            f"difference would take more than {PRACTICAL_ITEMS:,} further test examples."
        )
    return (
        f"About {_two_digits(more):,} more test examples would detect the observed difference of "
        f"{observed} between {c.a} and {c.b}, if it is real."
    )


def _two_digits(number: int) -> int:
    """Rounded up to two digits: a number needed, which is itself an estimate."""
    size = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / size) * size


def _what_reverses(c: Comparison, choice: Contender, runner_up: Contender) -> str:
    """What would make somebody choose otherwise although the evidence is clear."""
    if _by_cost(runner_up) < _by_cost(choice):
        low = difference_in_words(c.gain[1], c.metric)
        return (
            f"A margin of {low} or more: then {runner_up.id}, which is cheaper, would be enough. "
            "So would test examples unlike these."
        )
    return f"Test examples unlike these: here {choice.id} is both the best and cheaper than the next best."


def _by_cost(c: Contender) -> tuple[bool, float, str]:
    return (not c.baseline, c.cost_seconds, c.id)


# ── what the tests need to know ──────────────────────────────────────────────────────────────────────────
def example_clusters(predictions: Sequence[Prediction]) -> list[str] | None:
    """Cluster of each prediction, those without one by themselves; None where no two share one."""
    names = [f"example {i}" if p.cluster is None else f"cluster {p.cluster}" for i, p in enumerate(predictions)]
    return names if len(set(names)) < len(names) else None


def _right_or_wrong(values: NDArray[Any], metric: str) -> bool:
    """Whether each score is 0 or 1 and cannot leave [0, 1]."""
    return METRICS[metric].span == 1.0 and bool(np.all((values == 0) | (values == 1)))
