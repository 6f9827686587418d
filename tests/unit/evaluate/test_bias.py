"""Amplified bias: golden values, fairlearn on random inputs, and predictors whose bias is known."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evaluate import bias
from tunesmith.evaluate.bias import bias_of_candidates, measure_bias
from tunesmith.records import Example, Prediction


def answered(groups, labels, answers, name="tune/tiny/lora", clusters=None, column="gender"):
    """Predictions of items whose group, right label and answer are given; a group of None is not known."""
    return [
        Prediction(
            f"item {i}", name, str(said), str(right), float(said == right),
            cluster=None if clusters is None else str(clusters[i]),
            sensitive=() if group is None else ((column, str(group)),),
        )
        for i, (group, right, said) in enumerate(zip(groups, labels, answers, strict=True))
    ]  # fmt: skip


def learned(groups, labels, column="gender"):
    return [
        Example(f"f:{i}", text=str(i), label=str(label), sensitive=((column, str(group)),))
        for i, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]


def binary(first, second, n=100):
    """Groups 0 and 1 of ``n`` items each with so many positives."""
    labels = np.concatenate([np.arange(n) < round(n * first), np.arange(n) < round(n * second)]).astype(int)
    return np.repeat([0, 1], n), labels


def measure(groups, labels, answers, base=None, **more):
    predictions = answered(groups, labels, answers, **more)
    before = None if base is None else answered(groups, labels, base, "prompt/zero-shot", **more)
    train = [e for e in learned(groups, labels) if dict(e.sensitive)["gender"] != "None"]
    return measure_bias(predictions, {"base": before}, train, ["gender"], 0)


def test_golden_values():
    groups, labels = binary(0.70, 0.40)
    found = measure(groups, labels, binary(0.80, 0.30)[1])
    column = found["columns"]["gender"]
    assert column["directional_amplification"]["value"] == pytest.approx(0.100)
    assert column["zhao_amplification"]["value"] == pytest.approx(0.10101, abs=5e-6)
    row = column["labels"]["1"]
    assert (row["label_gap"]["value"], row["gap"]["value"]) == (pytest.approx(0.3), pytest.approx(0.5))
    assert row["amplification"]["value"] == pytest.approx(0.2)
    assert found["amplification"]["value"] == pytest.approx(0.2)
    assert row["amplification"]["low"] > 0
    assert "amplified bias by 'gender'" in found["sentence"]
    assert column["worst_group"]["value"] == pytest.approx(0.9)


def test_a_perfect_predictor_amplifies_nothing_at_all():
    groups, labels = binary(0.70, 0.40)
    found = measure(groups, labels, labels)
    assert [found["amplification"][key] for key in ("value", "low", "high")] == [0, 0, 0]
    assert found["sentence"].startswith("no evidence")


def test_weakening_is_a_smaller_gap():
    groups, labels = binary(0.80, 0.30)
    found = measure(groups, labels, binary(0.60, 0.50)[1])
    assert found["amplification"]["high"] < 0
    assert found["sentence"].startswith("a smaller gap")


def test_every_rate_and_gap_is_fairlearns():
    metrics = pytest.importorskip("fairlearn.metrics", reason="the oracle of these rates is fairlearn")
    rng = np.random.default_rng(3)
    groups, labels, answers = (rng.integers(0, 3, 900) for _ in range(3))
    column = measure(groups, labels, answers)["columns"]["gender"]
    for label in range(3):
        frame = metrics.MetricFrame(
            metrics={"said": metrics.selection_rate, "true_positive": metrics.true_positive_rate,
                     "false_positive": metrics.false_positive_rate},
            y_true=labels == label, y_pred=answers == label, sensitive_features=groups,
        )  # fmt: skip
        row = column["labels"][str(label)]
        for ours, gap in (("said", "gap"), ("true_positive", "true_positive_gap"),
                          ("false_positive", "false_positive_gap")):  # fmt: skip
            assert [row["rates"][str(g)][ours] for g in range(3)] == pytest.approx(frame.by_group[ours].to_list())
            assert row[gap]["value"] == pytest.approx(frame.difference()[ours])
        in_labels = metrics.demographic_parity_difference(labels == label, labels == label, sensitive_features=groups)
        assert row["amplification"]["value"] == pytest.approx(frame.difference()["said"] - in_labels)
    accuracy = metrics.MetricFrame(
        metrics=lambda right, said: np.mean(right == said), y_true=labels, y_pred=answers, sensitive_features=groups
    )
    assert [entry["value"] for entry in column["accuracy"]] == pytest.approx(accuracy.by_group.to_list())
    assert column["worst_group"]["value"] == pytest.approx(accuracy.group_min())


def test_an_over_regularised_model_amplifies_an_injected_correlation_and_a_good_one_does_not():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    groups = rng.integers(0, 2, 2000)
    labels = (rng.random(2000) < np.where(groups == 0, 0.7, 0.4)).astype(int)
    # the evidence is good but small in scale, the group large: a small weight cannot use the first
    inputs = np.stack([0.1 * (labels + rng.normal(0, 0.1, 2000)), groups], axis=1)
    found = {}
    for name, strength in (("good", 1e6), ("over-regularised", 1e-1)):
        answers = LogisticRegression(C=strength).fit(inputs[:1000], labels[:1000]).predict(inputs[1000:])
        predictions = answered(groups[1000:], labels[1000:], answers)
        train = learned(groups[:1000], labels[:1000])
        found[name] = measure_bias(predictions, {}, train, ["gender"], 0)
    good, bad = (found[name]["amplification"] for name in ("good", "over-regularised"))
    assert abs(good["value"]) < 0.01
    assert bad["low"] > 0.1
    assert found["over-regularised"]["columns"]["gender"]["directional_amplification"]["low"] > 0.05


def test_the_interval_covers_the_amplification_that_was_put_in(monkeypatch):
    """Answers turn over at random so that the true amplification is −0.12: 95 % of intervals should hold it."""
    monkeypatch.setattr(bias, "RESAMPLES", 1_000)
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(60):
        groups = rng.integers(0, 2, 400)
        labels = (rng.random(400) < np.where(groups == 0, 0.8, 0.2)).astype(int)
        answers = np.where(rng.random(400) < 0.1, 1 - labels, labels)
        found = measure(groups, labels, answers)["amplification"]
        inside += found["low"] <= -0.12 <= found["high"]
    assert inside >= 52


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(2)
    groups, labels, answers = (np.repeat(rng.integers(0, 2, 100), 4) for _ in range(3))
    alone = measure(groups, labels, answers)["amplification"]
    together = measure(groups, labels, answers, clusters=np.repeat(np.arange(100), 4))["amplification"]
    assert together["value"] == alone["value"]
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_several_labels_and_columns_share_one_chance_of_a_false_alarm():
    rng = np.random.default_rng(4)
    groups, labels, answers = rng.integers(0, 2, 600), rng.integers(0, 5, 600), rng.integers(0, 5, 600)
    column = measure(groups, labels, answers)["columns"]["gender"]
    worst = column["amplification"]
    alone = column["labels"][worst["label"]]["amplification"]
    assert worst["tests"] == 5
    assert worst["low"] < alone["low"] < alone["high"] < worst["high"]


def test_a_tuned_model_is_compared_with_its_base_on_the_same_examples():
    groups, labels = binary(0.70, 0.40)
    base = binary(0.60, 0.50)[1]
    against = measure(groups, labels, binary(0.80, 0.30)[1], base=base)["columns"]["gender"]["against_base"]
    assert against["candidate"] == "prompt/zero-shot"
    assert against["gap"]["1"]["value"] == pytest.approx(0.5 - 0.1)
    assert against["gap"]["1"]["low"] > 0
    assert against["directional_amplification"]["value"] == pytest.approx(0.2)
    same = measure(groups, labels, base, base=base)["columns"]["gender"]["against_base"]["gap"]["1"]
    assert (same["low"], same["high"]) == (0, 0)


def test_cells_with_few_examples_have_no_rate_and_few_groups_no_measurement():
    groups, labels = binary(0.70, 0.40, n=29)
    found = measure(groups, labels, labels)
    assert found["status"] == "not_run"
    assert "not enough data" in found["reason"]
    assert "amplification" not in found
    groups = [*np.repeat(["a", "b"], 40), *["rare"] * 5, *[None] * 3]
    labels = [0, 1] * 44
    column = measure(groups, labels, labels)["columns"]["gender"]
    assert column["n"] == 80
    assert column["small_groups"] == {"groups": 1, "examples": 5}
    assert column["without_group"] == 3
    rates = column["labels"]["1"]["rates"]
    assert rates["a"]["said"] == 0.5
    assert rates["a"]["true_positive"] is None  # 20 examples
    assert column["labels"]["1"]["true_positive_gap"] is None
    assert "rare" not in rates


def test_a_column_that_cannot_be_measured_is_never_passed_over():
    groups, labels = binary(0.70, 0.40)
    predictions = answered(groups, labels, binary(0.8, 0.3)[1])
    found = measure_bias(predictions, {}, learned(groups, labels), ["gender", "age"], 0)
    assert found["status"] == "not_run"
    assert "'age'" in found["reason"]
    assert found["amplification"]["column"] == "gender"


def test_without_a_column_or_labels_nothing_is_measured_and_the_reason_is_said():
    predictions = {"tune/a": answered(*[[0, 1]] * 3)}
    assert bias_of_candidates(predictions, (), (), "classification", 0) == {
        "tune/a": {"status": "not_run", "reason": "no data.sensitive"}
    }
    assert "classification only" in bias_of_candidates(predictions, (), (), "regression", 0)["tune/a"]["reason"]


def test_only_tuned_candidates_have_a_base():
    groups, labels = binary(0.70, 0.40)
    predictions = {name: answered(groups, labels, labels, name) for name in ("prompt/zero-shot", "tune/a", "embedding")}
    found = bias_of_candidates(predictions, learned(groups, labels), ["gender"], "classification", 0)
    status = {name: part["columns"]["gender"]["against_base"]["status"] for name, part in found.items()}
    assert status == {"prompt/zero-shot": "not_run", "tune/a": "ok", "embedding": "not_run"}
