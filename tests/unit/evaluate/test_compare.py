"""Comparisons and the verdict: what counts as evidence, who is chosen, and what the sentence says."""

from dataclasses import replace

import numpy as np
import pytest

from tunesmith.config import Guardrails
from tunesmith.errors import EvaluationError
from tunesmith.evaluate.compare import (
    LIMITS,
    Comparison,
    Contender,
    candidate_cost,
    choose,
    compare,
    compare_all,
    metric_interval,
    read_contender,
)
from tunesmith.evaluate.metrics import (
    METRICS,
    bare_difference,
    detectable_in_words,
    difference_in_words,
    in_words,
    item_scores,
    metric_words,
)
from tunesmith.measures.uncertainty import mcnemar, minimum_detectable_effect
from tunesmith.records import Prediction


def answers(candidate, right, clusters=None):
    """Predictions of a yes/no task; ``right`` says which are right."""
    return [
        Prediction(
            f"id {i:04}", candidate, "yes" if ok == (i % 2 == 0) else "no", "yes" if i % 2 == 0 else "no",
            float(ok), cluster=clusters[i] if clusters else None,
        )
        for i, ok in enumerate(right)
    ]  # fmt: skip


def right_answers(n, share, seed=0):
    return [bool(x) for x in np.random.default_rng(seed).random(n) < share]


def rng():
    return np.random.default_rng(0)


def contender(name, value, cost, **more):
    return Contender(name, value, cost, **more)


def verdict_of(sides, costs, margin=0.01, **more):
    """Verdict for candidates given as {id: which answers are right} and {id: cost}."""
    predictions = {name: answers(name, right) for name, right in sides.items()}
    contenders = [
        contender(name, float(np.mean(right)), costs[name], **more.get(name, {})) for name, right in sides.items()
    ]
    found = compare_all(predictions, "accuracy", rng())
    return choose(contenders, found, metric="accuracy", margin=margin)


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────
def test_accuracy_has_wilson_s_interval():
    interval = metric_interval(answers("a", [True] * 160 + [False] * 40), "accuracy", rng())
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.7391, 0.8495)


def test_copies_of_an_example_do_not_narrow_a_clustered_interval():
    right = right_answers(60, 0.7)
    names = [f"page {i}" for i in range(60) for _ in range(4)]
    copies = [ok for ok in right for _ in range(4)]
    single = metric_interval(answers("a", right), "accuracy", rng())
    clustered = metric_interval(answers("a", copies, names), "accuracy", rng())
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, abs=0.02)


def test_all_right_in_few_clusters_is_not_certainty():
    interval = metric_interval(answers("a", [True] * 40, [f"page {i // 10}" for i in range(40)]), "accuracy", rng())
    assert interval.high == 1.0
    assert interval.low < 0.6


def test_calibration_and_likelihood_need_what_they_are_made_of():
    plain = answers("a", [True, False])
    with pytest.raises(EvaluationError, match="2 of 2 predictions have no likelihood"):
        metric_interval(plain, "nll", rng())
    with pytest.raises(EvaluationError, match="have no probabilities"):
        metric_interval(plain, "expected_calibration_error", rng())
    with pytest.raises(EvaluationError, match="expected one of accuracy"):
        metric_interval(plain, "perplexity", rng())
    with pytest.raises(EvaluationError, match="no predictions"):
        metric_interval([], "accuracy", rng())
    full = [replace(p, nll=0.5, probabilities=(0.9, 0.1)) for p in plain]
    assert metric_interval(full, "nll", rng()).value == 0.5
    assert metric_interval(full, "expected_calibration_error", rng()).value == pytest.approx(0.4)


def test_text_metrics_are_recomputed_from_the_answers():
    wrong_score = [Prediction("1", "a", "the cat sat", "a cat sat down", 0.0)]
    assert metric_interval(wrong_score, "token_f1", rng()).value == pytest.approx(0.8)


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────
def test_right_or_wrong_answers_are_tested_by_mcnemar():
    a, b = right_answers(200, 0.8, seed=1), right_answers(200, 0.7, seed=2)
    found = compare(answers("a", a), answers("b", b), "accuracy", rng())
    only_a, only_b = (
        sum(x and not y for x, y in zip(a, b, strict=True)),
        sum(y and not x for x, y in zip(a, b, strict=True)),
    )
    assert found.test == "mcnemar_mid_p"
    assert found.p_value == mcnemar(only_a, only_b)[1]
    assert found.difference == pytest.approx((only_a - only_b) / 200)
    assert found.low < found.difference < found.high
    assert found.minimum_detectable_effect == minimum_detectable_effect(200, (only_a + only_b) / 200)
    assert list(found.to_json())[:9] == [
        "a", "b", "metric", "difference", "low", "high", "p_value", "n", "minimum_detectable_effect",
    ]  # fmt: skip


def test_clusters_and_macro_f1_are_tested_by_the_bootstrap():
    a, b = right_answers(90, 0.9, seed=1), right_answers(90, 0.6, seed=2)
    pages = [f"page {i // 3}" for i in range(90)]
    clustered = compare(answers("a", a, pages), answers("b", b, pages), "accuracy", rng())
    assert clustered.test == "paired_bootstrap"
    macro = compare(answers("a", a), answers("b", b), "macro_f1", rng())
    assert macro.test == "paired_bootstrap"
    assert 0 < macro.low < macro.difference < macro.high
    assert macro.minimum_detectable_effect > 0


def test_the_order_of_predictions_changes_nothing():
    a, b = answers("a", right_answers(50, 0.8)), answers("b", right_answers(50, 0.6, seed=3))
    assert compare(a, b, "accuracy", rng()) == compare(a[::-1], b, "accuracy", rng())


def test_different_examples_are_refused_with_how_many_differ():
    a, b = answers("a", [True] * 10), answers("b", [True] * 12)
    with pytest.raises(EvaluationError, match="0 are only in the first and 2 only in the second"):
        compare(a, b, "accuracy", rng())
    changed = [replace(b[0], target="maybe"), *b[1:10]]
    with pytest.raises(EvaluationError, match="different targets on 1 of 10"):
        compare(a, changed, "accuracy", rng())
    with pytest.raises(EvaluationError, match="'nll': expected one of accuracy"):
        compare(a, a, "nll", rng())


def test_p_values_are_adjusted_for_the_number_of_pairs():
    sides = {name: answers(name, right_answers(100, 0.7, seed=i)) for i, name in enumerate("abcd")}
    found = compare_all(sides, "accuracy", rng())
    assert [(c.a, c.b) for c in found] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    assert min(c.adjusted_p_value for c in found) == pytest.approx(min(1.0, 6 * min(c.p_value for c in found)))


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────
COSTS = {"baseline/majority": 0.0, "embedding/minilm-l6": 60.0, "tune/tiny/lora": 900.0}


def test_a_clear_winner_is_chosen_although_it_costs_more():
    sides = {
        "embedding/minilm-l6": right_answers(500, 0.6),
        "tune/tiny/lora": right_answers(500, 0.85, seed=1),
    }
    verdict = verdict_of(sides, COSTS)
    assert verdict.choice == "tune/tiny/lora"
    assert verdict.confident
    assert "points better than embedding/minilm-l6 (95 % interval" in verdict.reason
    assert "500 test examples" in verdict.reason
    assert "margin of" in verdict.would_change


@pytest.mark.parametrize("n", [20, 500, 5000])
@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_identical_predictions_are_never_evidence(n, margin):
    right = right_answers(n, 0.8)
    verdict = verdict_of({"tune/tiny/lora": right, "embedding/minilm-l6": right}, COSTS, margin)
    detect = 100 * minimum_detectable_effect(n, 0.0)
    assert verdict.choice == "embedding/minilm-l6"
    assert not verdict.confident
    assert f"no evidence of a difference (could detect ≥ {detect:.1f} pt)" in verdict.reason
    assert "score the same" in verdict.would_change


def test_chance_differences_leave_the_cheapest_and_say_how_many_examples_would_decide():
    right = [i < 150 for i in range(200)]
    better = [5 <= i < 158 for i in range(200)]
    verdict = verdict_of({"embedding/minilm-l6": right, "tune/tiny/lora": better}, COSTS)
    assert verdict.choice == "embedding/minilm-l6"
    assert not verdict.confident
    assert "no evidence of a difference (could detect ≥" in verdict.reason
    assert "more test examples would detect the observed difference" in verdict.would_change


def test_baselines_are_cheaper_than_anything_else():
    right = right_answers(100, 0.75)
    sides = {"embedding/minilm-l6": right, "baseline/majority": right}
    costs = {"embedding/minilm-l6": 1.0, "baseline/majority": 99.0}
    assert verdict_of(sides, costs, **{"baseline/majority": {"baseline": True}}).choice == "baseline/majority"


def difference(a, b, value, low, high, p=0.001):
    return Comparison(a, b, "accuracy", value, low, high, p, 500, 0.04, p, "mcnemar_mid_p", 400)


@pytest.mark.parametrize(
    ("low", "p", "choice"),
    [(0.02, 0.001, "b/dear"), (0.005, 0.001, "a/cheap"), (0.02, 0.06, "a/cheap"), (-0.01, 0.4, "a/cheap")],
)
def test_a_difference_counts_beyond_the_margin_and_after_adjustment(low, p, choice):
    pair = [contender("a/cheap", 0.70, 1.0), contender("b/dear", 0.74, 100.0)]
    for comparison in (
        difference("b/dear", "a/cheap", 0.04, low, 0.07, p),
        difference("b/dear", "a/cheap", 0.04, low, 0.07, p).swapped(),
    ):
        verdict = choose(pair, [comparison], metric="accuracy", margin=0.01)
        assert verdict.choice == choice
        assert verdict.confident == (choice == "b/dear")


def test_a_real_difference_within_the_margin_is_not_called_no_evidence():
    pair = [contender("a/cheap", 0.70, 1.0), contender("b/dear", 0.74, 100.0)]
    verdict = choose(pair, [difference("b/dear", "a/cheap", 0.04, 0.005, 0.07)], metric="accuracy", margin=0.01)
    assert "no evidence" not in verdict.reason
    assert "4.0 points better than a/cheap (95 % interval 0.5 to 7.0, 500 test examples)" in verdict.reason
    assert "margin of 1.0 points" in verdict.reason
    assert "margin below 0.5 points" in verdict.would_change


def test_the_cheapest_of_equals_is_compared_with_what_it_beats():
    three = [
        contender("a/cheap", 0.60, 1.0),
        contender("b/middle", 0.74, 10.0),
        contender("c/dear", 0.75, 100.0),
    ]
    found = [
        difference("c/dear", "a/cheap", 0.15, 0.10, 0.20),
        difference("b/middle", "a/cheap", 0.14, 0.09, 0.19),
        difference("c/dear", "b/middle", 0.01, -0.02, 0.04, p=0.5),
    ]
    verdict = choose(three, found, metric="accuracy", margin=0.01)
    assert verdict.choice == "b/middle"
    assert not verdict.confident
    assert "against c/dear, no evidence of a difference (could detect ≥ 4.0 pt)" in verdict.reason
    assert "14.0 points better than a/cheap" in verdict.reason


def test_being_both_best_and_cheapest_is_said():
    pair = [contender("a/cheap", 0.80, 1.0), contender("b/dear", 0.70, 100.0)]
    verdict = choose(pair, [difference("a/cheap", "b/dear", 0.1, 0.05, 0.15)], metric="accuracy", margin=0.01)
    assert (verdict.choice, verdict.confident) == ("a/cheap", True)
    assert "both the best and cheaper" in verdict.would_change


def test_what_is_vetoed_is_never_chosen_and_named():
    pair = [
        contender("a/cheap", 0.6, 1.0),
        contender("tune/x/full", 0.9, 9.0, vetoes=("its forgetting is severe",)),
    ]
    verdict = choose(pair, [difference("tune/x/full", "a/cheap", 0.3, 0.2, 0.4)], metric="accuracy", margin=0.01)
    assert verdict.choice == "a/cheap"
    assert not verdict.confident
    assert "tune/x/full is excluded: its forgetting is severe." in verdict.reason
    nothing = choose([pair[1]], [], metric="accuracy", margin=0.01)
    assert (nothing.choice, nothing.confident) == (None, False)


def test_a_guardrail_that_was_not_run_never_counts_as_passed():
    pair = [contender("a/cheap", 0.6, 1.0), contender("tune/x/lora", 0.9, 9.0, unmeasured=("forgetting",))]
    verdict = choose(pair, [difference("tune/x/lora", "a/cheap", 0.3, 0.2, 0.4)], metric="accuracy", margin=0.01)
    assert verdict.choice == "tune/x/lora"
    assert not verdict.confident
    assert "Its forgetting was not measured." in verdict.reason
    assert verdict.would_change.startswith("A measurement of forgetting.")


# ── candidates as the verdict sees them ──────────────────────────────────────────────────────────────────
TUNED = {
    "id": "tune/tiny/lora", "status": "ok", "metrics": {"accuracy": {"value": 0.8}}, "train_seconds": 100.0,
    "seconds_per_example": 0.01, "overfitting": {"verdict": "mild"},
    "forgetting": {"verdict": "none", "status": "ok"},
}  # fmt: skip


def test_a_candidate_with_all_guardrails_measured_has_nothing_against_it():
    assert read_contender(TUNED, "accuracy") == Contender("tune/tiny/lora", 0.8, 200.0)


@pytest.mark.parametrize(
    ("change", "vetoes", "unmeasured"),
    [
        ({"status": "failed", "reason": "loss is not finite"}, 1, 0),
        ({"metrics": {}}, 1, 0),
        ({"forgetting": {"verdict": "severe"}}, 1, 0),
        ({"forgetting": {"status": "not_run", "reason": "off", "verdict": "none"}}, 0, 1),
        ({"forgetting": {"verdict": "splendid"}}, 0, 1),
        ({"forgetting": None, "overfitting": None}, 0, 2),
        ({"id": "embedding/minilm-l6", "forgetting": None, "overfitting": None}, 0, 0),
        ({"overfitting": {"verdict": "overfit"}}, 0, 0),
    ],
)
def test_what_excludes_a_candidate_and_what_is_unknown(change, vetoes, unmeasured):
    read = read_contender(TUNED | change, "accuracy")
    assert (len(read.vetoes), len(read.unmeasured)) == (vetoes, unmeasured)


@pytest.mark.parametrize(
    ("limits", "measured", "vetoes", "unmeasured"),
    [
        ({"forgetting": "none"}, {"forgetting": {"verdict": "mild"}}, ("its forgetting is mild",), ()),
        ({"forgetting": "severe"}, {"forgetting": {"verdict": "severe"}}, (), ()),
        ({"forgetting": "off"}, {"forgetting": {"status": "not_run", "reason": "off"}}, (), ()),
        ({"overfitting": "mild"}, {"overfitting": {"verdict": "overfit"}}, ("its overfitting is overfit",), ()),
        ({"overfitting": "none"}, {"overfitting": None}, (), ("overfitting",)),
        ({"memorization": "mild"}, {"memorization": {"verdict": "severe"}}, ("its memorization is severe",), ()),
        ({"memorization": "mild"}, {"memorization": {"verdict": "mild", "status": "ok"}}, (), ()),
        ({"memorization": "severe"}, {}, (), ("memorization",)),
        ({"memorization": "severe"}, {"memorization": {"status": "not_run", "verdict": "none"}}, (), ("memorization",)),
        ({"memorization": "severe"}, {"memorization": {"status": "not_applicable"}}, (), ("memorization",)),
    ],
)
def test_the_user_sets_the_worst_that_a_choice_may_show(limits, measured, vetoes, unmeasured):
    read = read_contender(TUNED | measured, "accuracy", LIMITS | limits)
    assert (read.vetoes, read.unmeasured) == (vetoes, unmeasured)


@pytest.mark.parametrize(
    ("bias", "vetoed", "unmeasured"),
    [
        ({"status": "ok", "amplification": {"column": "sex", "value": 0.09, "low": 0.051}}, True, ()),
        ({"status": "ok", "amplification": {"column": "sex", "value": 0.09, "low": 0.05}}, False, ()),
        ({"status": "not_run", "reason": "a column is small", "amplification": {"column": "sex", "value": 0.2,
          "low": 0.1}}, True, ()),
        ({"status": "not_run", "reason": "a column is small", "amplification": {"column": "sex", "value": 0.0,
          "low": -0.1}}, False, ("bias",)),
        ({"status": "not_run", "reason": "no data.sensitive"}, False, ("bias",)),
        (None, False, ("bias",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["tune/tiny/lora", "embedding/minilm-l6"])
def test_a_limit_on_bias_holds_for_every_candidate_and_is_never_passed_unmeasured(name, bias, vetoed, unmeasured):
    read = read_contender(TUNED | {"id": name, "bias": bias}, "accuracy", LIMITS | {"bias": 0.05})
    assert (bool(read.vetoes), read.unmeasured) == (vetoed, unmeasured)
    assert read_contender(TUNED | {"id": name, "bias": bias}, "accuracy").vetoes == ()  # nobody asked


def test_the_limits_that_hold_without_a_setting_are_those_of_the_config():
    assert Guardrails().model_dump() == LIMITS


def test_overfitting_is_a_caution_since_the_test_examples_have_judged_it():
    assert (
        "past its best step" in read_contender(TUNED | {"overfitting": {"verdict": "overfit"}}, "accuracy").cautions[0]
    )


def test_cost_is_training_plus_ten_thousand_predictions():
    assert candidate_cost(100.0, 0.01) == 200.0
    assert candidate_cost(None, 0.01) == 100.0
    assert candidate_cost(5.0, None) == float("inf")


# ── metrics in other units and directions ────────────────────────────────────────────────────────────────
def numbers(candidate, error, n=200, noise=0.0):
    """Predictions of numbers whose absolute error is ``error`` plus noise."""
    draw = np.random.default_rng(3)
    targets = draw.normal(size=n)
    said = targets + error * draw.choice([-1, 1], n) + noise * draw.normal(size=n)
    return [
        Prediction(f"id {i:04}", candidate, repr(float(p)), repr(float(t)), 0.0)
        for i, (p, t) in enumerate(zip(said, targets, strict=True))
    ]


def judged(sides, metric, margin=None, costs=None):
    sides = {name: [replace(p, candidate=name) for p in predictions] for name, predictions in sides.items()}
    found = compare_all(sides, metric, rng())
    contenders = [
        contender(name, metric_interval(p, metric, rng()).value, (costs or COSTS)[name]) for name, p in sides.items()
    ]
    return choose(contenders, found, metric=metric, margin=margin), found


def test_where_lower_is_better_the_smaller_error_wins_and_differences_stay_a_minus_b():
    sides = {"embedding/minilm-l6": numbers("e", 0.5), "tune/tiny/lora": numbers("t", 0.2)}
    verdict, (found,) = judged(sides, "mae")
    assert found.difference == pytest.approx(0.3)
    assert found.gain[0] == pytest.approx(-0.3)
    assert not found.shows_more_than(0.0)
    assert found.swapped().shows_more_than(0.25)
    assert (verdict.choice, verdict.confident) == ("tune/tiny/lora", True)
    assert (
        "Use tune/tiny/lora (mean absolute error 0.2000): 0.3000 better than embedding/minilm-l6 "
        "(95 % interval 0.3000 to 0.3000, 200 test examples)" in verdict.reason
    )
    assert "margin of 0.3000 or more" in verdict.would_change
    assert "points" not in verdict.reason + verdict.would_change
    # the same numbers the other way round: the cheaper one is best, and stays
    other, _ = judged({"embedding/minilm-l6": numbers("e", 0.2), "tune/tiny/lora": numbers("t", 0.5)}, "mae")
    assert (other.choice, other.confident) == ("embedding/minilm-l6", True)


def test_a_margin_in_the_targets_unit_keeps_the_cheaper_one():
    sides = {"embedding/minilm-l6": numbers("e", 0.5), "tune/tiny/lora": numbers("t", 0.2)}
    verdict, _ = judged(sides, "mae", margin=0.4)
    assert verdict.choice == "embedding/minilm-l6"
    assert "margin of 0.4000 that matters" in verdict.reason
    assert "margin below 0.3000" in verdict.would_change


def test_correlations_are_said_as_plain_numbers():
    sides = {"embedding/minilm-l6": numbers("e", 0.0, noise=1.0), "tune/tiny/lora": numbers("t", 0.0, noise=0.3)}
    verdict, (found,) = judged(sides, "pearson")
    assert verdict.choice == "tune/tiny/lora"
    assert f"{-found.difference:.3f} better than embedding/minilm-l6" in verdict.reason
    assert "Pearson correlation 0.9" in verdict.reason
    assert "points" not in verdict.reason + verdict.would_change


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_candidate_that_says_one_number_is_unrelated_and_never_better(metric):
    constant = [replace(p, prediction="0.0") for p in numbers("b", 0.0)]
    interval = metric_interval(constant, metric, rng())
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)
    weak = numbers("t", 0.0, noise=3.0)
    found = compare(constant, weak, metric, rng())
    assert found.difference < 0
    assert not found.shows_more_than(0.0)
    same = compare(constant, [replace(p, candidate="c") for p in constant], metric, rng())
    assert (same.p_value, same.items_to_detect) == (1.0, None)
    assert same.minimum_detectable_effect > 0
    with pytest.raises(EvaluationError, match=r"all 200 test targets are 1\.0"):
        metric_interval([replace(p, target="1.0") for p in weak], metric, rng())


def test_numbers_that_are_none_are_named():
    wrong = [replace(p, prediction="about three") if i < 5 else p for i, p in enumerate(numbers("t", 0.1))]
    with pytest.raises(EvaluationError, match=r"'about three' of example id 0000.*and 2 more is not a number"):
        metric_interval(wrong, "mae", rng())
    with pytest.raises(EvaluationError, match="'nan' of example"):
        metric_interval([replace(p, prediction="nan") for p in wrong], "pearson", rng())


def translations(candidate, wrong, n=60):
    """Sentences of which the first ``wrong`` share no word with the reference."""
    words = ["le", "petit", "chat", "noir", "dort", "sur", "un", "tapis", "vert", "devant", "la", "porte"]
    targets = [" ".join(words[(i + k) % len(words)] for k in range(8)) for i in range(n)]
    return [Prediction(f"id {i:04}", candidate, "zzz" if i < wrong else t, t, 0.0) for i, t in enumerate(targets)]


@pytest.mark.parametrize(("metric", "words"), [("chrf", "chrF"), ("bleu", "BLEU")])
def test_scores_out_of_a_hundred_are_points_already(metric, words):
    sides = {"embedding/minilm-l6": translations("e", 20), "tune/tiny/lora": translations("t", 0)}
    verdict, (found,) = judged(sides, metric)
    assert found.test == "paired_bootstrap"
    assert -100 < found.difference < -10
    assert found.minimum_detectable_effect > 1
    assert f"({words} 100.0): {-found.difference:.1f} points better than" in verdict.reason
    # the default margin is one point of the metric: half a point does not pay
    comparison = replace(found, difference=-0.6, low=-0.9, high=-0.3)
    pair = [contender("embedding/minilm-l6", 40.0, 1.0), contender("tune/tiny/lora", 40.6, 100.0)]
    assert choose(pair, [comparison], metric=metric, margin=None).choice == "embedding/minilm-l6"


def test_sets_of_labels_are_compared():
    def labelled(candidate, right):
        return [Prediction(f"id {i:04}", candidate, "a|b" if ok else "a", "a|b", 0.0) for i, ok in enumerate(right)]

    a, b = labelled("a", right_answers(100, 0.9)), labelled("b", right_answers(100, 0.5, seed=1))
    assert metric_interval(a, "subset_accuracy", rng()).value == metric_interval(a, "accuracy", rng()).value
    for metric in ("micro_f1", "macro_f1_labels", "subset_accuracy"):
        found = compare(a, b, metric, rng())
        assert found.shows_more_than(0.01)
        assert found.test == ("mcnemar_mid_p" if metric == "subset_accuracy" else "paired_bootstrap")


def test_a_right_or_wrong_test_is_not_made_of_errors_that_happen_to_be_whole():
    whole = [Prediction(f"id {i}", "a", str(i % 3 + i % 2), str(i % 3), 0.0) for i in range(50)]
    other = [replace(p, candidate="b", prediction=p.target) for p in whole]
    assert compare(whole, other, "mae", rng()).test == "paired_bootstrap"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_measured_said_and_bounded(metric):
    predictions = [
        replace(p, nll=0.5, probabilities=(0.9, 0.1)) for p in numbers("tune/tiny/lora", 0.3, n=30, noise=0.1)
    ]
    interval = metric_interval(predictions, metric, rng())
    assert interval.low - 1e-12 <= interval.value <= interval.high + 1e-12
    assert metric_words(metric) and in_words(interval.value, metric)
    assert len(item_scores(predictions, metric)) == 30
    if METRICS[metric].comparable:
        found = compare(predictions, [replace(p, candidate="b") for p in predictions], metric, rng())
        assert (found.difference, found.p_value) == (0.0, 1.0)
        assert found.minimum_detectable_effect > 0
        assert "≥" not in detectable_in_words(found.minimum_detectable_effect, metric)


@pytest.mark.parametrize(
    ("metric", "value", "said", "difference", "signed"),
    [
        ("accuracy", 0.8123, "81.2 %", "4.0 points", "+4.0"),
        ("macro_f1", 0.8123, "0.812", "4.0 points", "+4.0"),
        ("pearson", -0.8123, "−0.812", "0.040", "+0.040"),
        ("chrf", 45.678, "45.7", "0.0 points", "+0.0"),
        ("mae", 21_534.4, "21,534", "0.04000", "+0.04000"),
        ("mae", 0.00123456, "0.001235", "0.04000", "+0.04000"),
    ],
)
def test_numbers_are_said_in_their_unit(metric, value, said, difference, signed):
    assert in_words(value, metric) == said
    assert difference_in_words(0.04, metric) == difference
    assert bare_difference(0.04, metric, signed=True) == signed
    assert bare_difference(-0.04, metric, signed=True) in ("−" + signed[1:], "+0.0")


def test_order_of_single_answers_puts_the_worst_first_whatever_the_direction():
    far, near = numbers("t", 2.0, n=1)[0], numbers("t", 0.1, n=1)[0]
    for metric in ("mae", "pearson", "spearman"):
        assert item_scores([far, near], metric)[0] < item_scores([far, near], metric)[1]
    bad, good = translations("t", 1, n=2)
    for metric in ("chrf", "bleu"):
        assert item_scores([bad, good], metric) == pytest.approx([0.0, 100.0])


def test_forgetting_that_cannot_happen_passes_and_one_that_was_not_measured_does_not():
    head = TUNED | {"forgetting": {"status": "not_applicable", "reason": "the model writes no text"}}
    assert read_contender(head, "accuracy").unmeasured == ()
    off = TUNED | {"forgetting": {"status": "not_run", "reason": "off"}}
    assert read_contender(off, "accuracy").unmeasured == ("forgetting",)
    never = TUNED | {"overfitting": {"status": "not_applicable", "reason": "…"}}
    assert read_contender(never, "accuracy").unmeasured == ("overfitting",)
