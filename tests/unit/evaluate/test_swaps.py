"""Flips under swaps and placebos: counted by hand, and told from each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith.evaluate.bias import bias_of_candidates
from tunesmith.evaluate.swaps import measure_swaps, read_swaps, swap_variants, write_swaps
from tunesmith.measures.uncertainty import paired_shares, wilson_interval
from tunesmith.records import Example, Prediction
from tunesmith.run import Run


def answer(i: int, said: str, p: float, name: str = "tune/tiny/lora") -> Prediction:
    return Prediction(f"{i}", name, said, "a", float(said == "a"), probabilities=(p, 1 - p))


def answers(saids: str, ps: list[float] | None = None, name: str = "tune/tiny/lora") -> list[Prediction]:
    return [answer(i, said, (ps or [0.5] * len(saids))[i], name) for i, said in enumerate(saids)]


def test_flips_shift_and_excess_are_those_counted_by_hand() -> None:
    before = answers("a" * 40, [0.9] * 40)
    swap = answers("b" * 10 + "a" * 30, [0.4] * 10 + [0.8] * 30)
    placebo = answers("a" * 8 + "b" * 2 + "a" * 25 + "b" * 3, [0.9] * 38)
    part = measure_swaps(before, {"n.swap": swap, "n.placebo": placebo}, None, 0)["lexica"]["n"]
    assert part["n"] == 40
    assert part["flips"] == wilson_interval(10, 40).to_json()
    assert part["shift"]["value"] == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert part["placebo"]["flips"] == wilson_interval(5, 38).to_json()
    # of the 38 texts with both: 2 flip under both, 8 under the swap alone, 3 under the placebo alone
    assert part["excess"] == paired_shares(2, 8, 3, 38).to_json()
    assert part["against_base"]["status"] == "not_run"
    assert "25.0 % of answers change" in part["sentence"]


def test_a_candidate_blind_to_the_swap_has_no_flip_and_no_shift(tmp_path: Path) -> None:
    examples = [Example(f"f:{i}", text=f"{who} wrote number {i}", label="ab"[i % 2])
                for i, who in enumerate(["James", "Mary"] * 30)]  # fmt: skip
    variants = swap_variants(examples, ["names"])
    assert [len(pairs) for pairs in variants.values()] == [60, 60]
    assert set(variants) == {"names.swap", "names.placebo"}

    def predict(example: Example, blind: bool) -> Prediction:
        text = (example.text or "").split(" ", 1)
        is_a = (int(text[1].split()[-1]) % 2 == 0) if blind else text[0] in ("James", "John")
        return replace(answer(0, "ab"[not is_a], 1.0 - 0.8 * is_a), example_id=example.id)

    run = Run(tmp_path)
    found = {}
    for name, blind in (("blind", True), ("seeing", False)):
        asked = [changed for pairs in variants.values() for _, changed in pairs]
        write_swaps(run, name, variants, [predict(example, blind) for example in asked])
        found[name] = measure_swaps([predict(e, blind) for e in examples], read_swaps(run, name), None, 0)
    blind_part, seeing = found["blind"]["lexica"]["names"], found["seeing"]["lexica"]["names"]
    assert blind_part["flips"]["value"] == blind_part["shift"]["value"] == blind_part["excess"]["value"] == 0
    assert seeing["flips"]["value"] == 1.0
    assert seeing["placebo"]["flips"]["value"] == 0.0
    assert seeing["excess"]["low"] > 0.8


def test_a_tuned_model_is_compared_with_its_base_on_the_same_texts() -> None:
    name = "prompt/zero-shot"
    predictions = {"tune/tiny/lora": answers("a" * 40), name: answers("a" * 40, name=name)}
    swaps = {
        "tune/tiny/lora": {"n.swap": answers("b" * 20 + "a" * 20), "n.placebo": []},
        name: {"n.swap": answers("a" * 30 + "b" * 10, name=name), "n.placebo": []},
    }
    found = bias_of_candidates(predictions, [], [], "classification", 0, swaps)
    assert found["tune/tiny/lora"]["status"] == "not_run"  # groups were not given; the swaps are measured all the same
    part = found["tune/tiny/lora"]["swaps"]["lexica"]["n"]
    assert part["against_base"] == paired_shares(0, 20, 10, 40).to_json()
    assert part["excess"]["status"] == "not_run"
    assert "not measured" in part["sentence"]


def test_few_texts_say_nothing() -> None:
    part = measure_swaps(answers("a" * 40), {"n.swap": answers("b" * 29), "n.placebo": []}, None, 0)
    assert part["status"] == "not_run"
    assert "29 test texts" in part["reason"]


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    saids = "".join(rng.choice(["a", "b"], 10).repeat(10))
    before = answers("a" * 100)
    one = measure_swaps(before, {"n.swap": answers(saids), "n.placebo": []}, None, 0)["lexica"]["n"]["flips"]
    held = [replace(p, cluster=str(i // 10)) for i, p in enumerate(answers(saids))]
    many = measure_swaps(before, {"n.swap": held, "n.placebo": []}, None, 0)["lexica"]["n"]["flips"]
    assert many["high"] - many["low"] > 1.5 * (one["high"] - one["low"])
