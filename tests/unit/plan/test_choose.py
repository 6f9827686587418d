from __future__ import annotations

from typing import Any

import pytest

from contract.test_methods import facts
from tunesmith.config import Config, parse_config
from tunesmith.errors import HardwareError
from tunesmith.measures.uncertainty import minimum_detectable_effect
from tunesmith.plan.choose import choose_plan
from tunesmith.train.methods import METHODS


def config(**changes: Any) -> Config:
    return parse_config({"task": "classification", "data": {"train": "x"}} | changes)


def chosen(plan: Any) -> dict[str, Any]:
    return {choice.setting: choice for choice in plan.choices}


def test_what_is_left_open_is_chosen_with_a_reason() -> None:
    plan = choose_plan(config(), facts(), "m")
    choices = chosen(plan)
    assert set(choices) == {
        "model", "train.epochs", "train.global_batch_size", "train.max_length", "train.micro_batch_tokens",
        "learning_rate (lora)",
    }  # fmt: skip
    assert all(choice.reason for choice in plan.choices)
    assert choices["learning_rate (lora)"].source
    assert plan.loop["lora"]["learning_rate"] == pytest.approx(choices["learning_rate (lora)"].value, rel=1e-2)
    assert plan.max_length == 2048


def test_pairs_of_answers_are_learned_at_a_tenth_of_the_rate() -> None:
    whole, tenth = (choose_plan(config(task=kind), facts(), "m") for kind in ("generation", "preference"))
    assert tenth.loop["lora"]["learning_rate"] == pytest.approx(whole.loop["lora"]["learning_rate"] / 10)
    assert chosen(tenth)["learning_rate (lora)"].source.startswith("0.1 of that for next tokens")
    set_by_user = choose_plan(config(task="preference", train={"learning_rate": 0.5}), facts(), "m")
    assert set_by_user.loop["lora"]["learning_rate"] == 0.5


def test_what_the_user_set_is_kept_and_not_called_a_choice() -> None:
    train = {"epochs": 1.5, "learning_rate": 1e-4, "global_batch_size": 4, "max_length": 99, "micro_batch_tokens": 7}
    plan = choose_plan(config(model="m", train=train, method=["lora", "full"], seed=5), facts(), "m")
    assert plan.choices == ()
    for loop in plan.loop.values():
        assert (loop["epochs"], loop["learning_rate"], loop["global_batch_size"], loop["seed"]) == (1.5, 1e-4, 4, 5)
        assert loop["micro_batch_tokens"] == 7
    assert plan.max_length == 99


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("train", [20, 300, 800, 1000, 5000])
def test_epochs_reach_the_wanted_steps_within_bounds(train: int, kind: str) -> None:
    epochs = choose_plan(config(method=kind), facts(train=train), "m").loop[kind]["epochs"]
    per_epoch = -(-train // 16)
    most, wanted = METHODS[kind].most_epochs, METHODS[kind].wanted_steps
    assert 1 <= epochs <= most
    assert epochs == most or epochs * per_epoch >= wanted
    assert epochs == 1 or (epochs - 1) * per_epoch < wanted


@pytest.mark.parametrize("kind", ["lora", "full", "gradual", "head"])
@pytest.mark.parametrize("train", [20, 616, 2464, 10_003])
def test_a_new_head_gets_more_passes_unless_its_features_are_kept(train: int, kind: str) -> None:
    plan = choose_plan(config(method=kind), facts(train=train), "m", heads=[kind])
    epochs, per_epoch = plan.loop[kind]["epochs"], -(-train // 16)
    if kind == "head":
        assert epochs == choose_plan(config(method=kind), facts(train=train), "m").loop[kind]["epochs"]
    else:
        assert epochs == (4 if kind == "gradual" else 20) or 2000 <= epochs * per_epoch < 2000 + per_epoch
        assert ("Mosbach" in chosen(plan)["train.epochs"].source) == (kind != "gradual")


def test_each_method_has_epochs_of_its_own_and_cached_features_no_budget() -> None:
    plan = choose_plan(config(method=["lora", "head"], budget={"minutes": 0.1}), facts(train=400), "m")
    choices = chosen(plan)
    assert plan.loop["head"]["epochs"] == choices["train.epochs (head)"].value == 80
    assert plan.loop["lora"]["epochs"] == choices["train.epochs (lora)"].value == 1
    assert "minutes" in choices["train.epochs (lora)"].reason


def test_a_budget_means_fewer_epochs() -> None:
    slow = facts(train=400, flops_per_second=2e9)
    assert choose_plan(config(), slow, "m").loop["lora"]["epochs"] == 4
    limited = choose_plan(config(budget={"minutes": 20}), slow, "m")
    assert limited.loop["lora"]["epochs"] < 4
    assert "20 minutes" in chosen(limited)["train.epochs"].reason


def test_candidates_with_their_cost() -> None:
    plan = choose_plan(config(method=["lora", "full"]), facts(), "m").to_json()
    assert [c["id"] for c in plan["candidates"]] == [
        "baseline/majority", "prompt/zero-shot", "prompt/few-shot", "prompt/nearest", "embedding/minilm-l6",
        "tune/m/lora", "tune/m/full",
    ]  # fmt: skip
    cost = {c["id"]: c["estimated_seconds"] for c in plan["candidates"]}
    assert cost["prompt/zero-shot"] < cost["prompt/few-shot"] < cost["tune/m/lora"] < cost["tune/m/full"]
    assert plan["estimated_seconds"] == pytest.approx(sum(cost.values()))
    memory = {c["id"]: c["estimated_memory_bytes"] for c in plan["candidates"]}
    assert memory["tune/m/lora"] < memory["tune/m/full"]
    effect = plan["minimum_detectable_effect"]
    assert effect["n"] == 200
    assert effect["points"] == pytest.approx(100 * minimum_detectable_effect(200, effect["discordance"]), abs=0.01)


def test_what_does_not_fit_into_memory_is_refused_with_what_would() -> None:
    with pytest.raises(HardwareError, match=r"tune/m/full needs about .* GiB, but 2\.0 GiB are free.*lora"):
        choose_plan(config(method="full"), facts(available_bytes=2**31), "m")


def test_ranking_anew_is_counted() -> None:
    def seconds(**rag: Any) -> dict[str, float]:
        own = config(task="generation", rag={"documents": "d"} | rag, candidates=["rag", "tune+rag"], encoder="e")
        return {c["id"]: c["estimated_seconds"] for c in choose_plan(own, facts(), "m").candidates}

    plain, whole, half = seconds(), seconds(rerank="likelihood"), seconds(rerank="likelihood", rerank_depth=25)
    for candidate_id, before in plain.items():
        assert whole[candidate_id] - before == pytest.approx(2 * (half[candidate_id] - before), abs=0.2)
        assert half[candidate_id] > before
    read, asked = facts().train + facts().validation + facts().test, facts().test + 50
    small = seconds(rerank="cross-encoder")
    assert small["rag/dense"] - plain["rag/dense"] == pytest.approx(asked * 50 * 200 * 0.0003 / facts().cores, abs=0.2)
    tuned = small["tune+rag/m/lora"] - plain["tune+rag/m/lora"]
    assert tuned == pytest.approx(read * 50 * 200 * 0.0003 / facts().cores, abs=0.2)
