"""Remedies: what each does to the training examples, that weights reach the loss, and thresholds the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.candidates.fairness import at_threshold, remedied
from tunesmith.config import parse_config
from tunesmith.errors import ConfigError
from tunesmith.measures.linear import fit_linear
from tunesmith.model.load import load_model
from tunesmith.records import Example, Prediction
from tunesmith.tasks import build_task
from tunesmith.train.objectives import OBJECTIVES, EncodeSettings


def config(**fairness: Any) -> Any:
    return parse_config(
        {"task": "classification", "data": {"train": "x.csv", "sensitive": "sex"}, "fairness": fairness}
    )


def people(n: int = 60) -> list[Example]:
    """Two in three of the men have label a, and one in three of the women; every tenth group is unknown."""
    rows = []
    for i in range(n):
        man, other = i % 2 == 0, i % 3 == 0
        known = (("sex", "m" if man else "f"),) if i % 10 else ()
        rows.append(
            Example(f"f:{i}", text=f"{'He' if man else 'She'} is {i}", label="ab"[other == man], sensitive=known)
        )
    return rows


def test_reweighing_and_balance_part_group_from_label_and_leave_the_unknown_alone() -> None:
    train = people()
    weighed, told = remedied(train, "reweigh", config(remedies="reweigh"))
    assert [e.id for e in weighed] == [e.id for e in train]
    assert {e.weight for e in weighed if not e.sensitive} == {1.0}
    drawn, _ = remedied(train, "balance", config(remedies="balance"))
    assert {e.weight for e in drawn} == {1.0}
    assert {e.source for e in train if not e.sensitive} <= {e.source for e in drawn}
    for examples, tolerance in ((weighed, 1e-9), (drawn, 0.05)):
        share = {}
        for group in "mf":
            of = [e for e in examples if e.sensitive == (("sex", group),)]
            share[group] = sum(e.weight for e in of if e.label == "a") / sum(e.weight for e in of)
        assert share["m"] == pytest.approx(share["f"], abs=tolerance)
    assert told["smallest_weight"] < 1 < told["largest_weight"]


def test_augmented_examples_stand_twice_with_the_group_swapped() -> None:
    train = people()
    found, told = remedied(train, "augment", config(swaps="pronouns", remedies="augment"))
    assert found[: len(train)] == train
    assert told == {"copies": len(train)}
    assert [e.text.split()[0] for e in found[len(train) :]] == ["She", "He"] * 30  # type: ignore[union-attr]
    assert [e.label for e in found[len(train) :]] == [e.label for e in train]
    with pytest.raises(ConfigError, match="no training text has a term of names"):
        remedied(train, "augment", config(swaps="names", remedies="augment"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fairness": {"remedies": "augment"}}, "augment needs fairness.swaps"),
        ({"fairness": {"remedies": ["reweigh", "reweigh"]}}, "may stand once"),
        ({"fairness": {"remedies": "reweigh"}, "data": {"train": "x.csv"}}, "give data.sensitive"),
        ({"fairness": {"swaps": "names"}, "task": "regression"}, "for classifications of texts"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"task": "classification", "data": {"train": "x.csv", "sensitive": "sex"}} | settings)


@pytest.mark.parametrize("interface", ["causal", "head"])
def test_a_weight_counts_as_often_as_its_example_would_stand(tiny_model_path: Path, interface: str) -> None:
    task = build_task(config().task, ("a", "b"), None)
    lm = load_model(str(tiny_model_path), interface, 2)
    lm.model.requires_grad_(True)
    examples = people(6)
    weights = [2.0, 0.0, 1.0, 1.0, 0.0, 2.0]
    weighed = [Example(e.source, text=e.text, label=e.label, weight=w) for e, w in zip(examples, weights, strict=True)]
    repeated = [e for e, w in zip(examples, weights, strict=True) for _ in range(int(w))]
    objective = OBJECTIVES[interface].build(lm, 1024, True)
    gradients, sums = [], []
    for part in (weighed, repeated):
        items, _ = OBJECTIVES[interface].encode(task, lm.tokenizer, part, EncodeSettings(512))
        lm.model.zero_grad()
        loss = torch.stack(list(objective.losses(lm.model, items, 0.1))).sum()
        loss.backward()
        sums.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None]))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_weights_of_the_logistic_regression_are_scikit_learns(rng: np.random.Generator) -> None:
    from sklearn.linear_model import LogisticRegression

    vectors, weights = rng.normal(size=(80, 4)), rng.random(80)
    targets = (vectors[:, 0] + rng.normal(size=80) > 0).astype(int)
    fit = fit_linear(vectors, targets[:, None], vectors, targets[:, None], "cross_entropy", 2, weights)
    theirs = LogisticRegression(C=fit.c, max_iter=1000).fit(vectors, targets, weights)
    np.testing.assert_allclose(fit.outputs(vectors)[:, 1] - fit.outputs(vectors)[:, 0],
                               theirs.decision_function(vectors), rtol=1e-6, atol=1e-8)  # fmt: skip


def test_an_answer_at_a_threshold_shows_it_as_one_half() -> None:
    made = Prediction("x", "c", "a", "b", 0.0, probabilities=(0.7, 0.3))
    assert at_threshold(made, ("a", "b"), 0.5) == made
    found = at_threshold(made, ("a", "b"), 0.2)
    assert (found.prediction, found.score) == ("b", 1.0)
    assert found.probabilities == pytest.approx((0.7 * 0.2 / 0.38, 0.3 * 0.8 / 0.38))
    assert at_threshold(made, ("a", "b"), 0.3).probabilities == pytest.approx((0.5, 0.5))
