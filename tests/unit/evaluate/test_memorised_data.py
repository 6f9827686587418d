"""Memorised data on a tiny model: nothing where nothing was trained, almost all after many passes over few examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tunesmith.config import Full
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.evaluate import memorization as measure
from tunesmith.measures.uncertainty import wilson_interval
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.train.loop import LoopSettings, losses_and_units, train
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives.causal import Causal

SETTINGS = LoopSettings(epochs=40, learning_rate=3e-3, global_batch_size=8, patience=0, evals_per_epoch=1)


def random_items(lm: LanguageModel, n: int, tokens: int, seed: int) -> list[Rendered]:
    """Items of words with an answer of ``tokens`` tokens and an end, nothing in common but their first token."""
    rng = np.random.default_rng(seed)
    words = [i for i in range(300) if lm.tokenizer.decode([i]).strip().isalpha()]
    made = []
    for i in range(n):
        prompt, answer = rng.choice(words, 5).tolist(), [*rng.choice(words, tokens).tolist(), lm.tokenizer.eos_token_id]
        made.append(Rendered([*prompt, *answer], [IGNORE_INDEX] * 5 + answer, 5, f"item {i}"))
    return made


def means(lm: LanguageModel, items: list[Rendered]) -> np.ndarray:
    sums, counts = losses_and_units(lm.model, Causal(lm.packed), items)
    return (sums / counts).numpy()


def trained(lm: LanguageModel, items: list[Rendered], folder: Path) -> None:
    """Many passes over few examples, watched on themselves so that the last weights are kept."""
    attached = METHODS["full"].attach(lm.model, Full())
    train(attached.model, attached.trainable, Causal(lm.packed), items, items, SETTINGS, folder)
    lm.model.eval()


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both measures before and after 40 passes over 24 answers of 48 tokens, which stand against 40 that were not."""
    path = Path(__file__).parents[2] / "assets" / "tiny_llama"
    lm = load_model(str(path))
    members, others = random_items(lm, 24, 48, 1), random_items(lm, 40, 48, 2)
    before = [means(lm, part) for part in (members, others)]
    halves = measure.answer_halves(members, [lm.tokenizer.eos_token_id])
    base = measure.recited(lm, halves)
    unseen = measure.answer_halves(others, [lm.tokenizer.eos_token_id])
    trained(lm, members, tmp_path_factory.mktemp("trained"))
    after = [means(lm, part) for part in (members, others)]
    return {
        "before": before, "after": after, "halves": halves, "base": base, "tuned": measure.recited(lm, halves),
        "unseen": measure.recited(lm, unseen),
    }  # fmt: skip


def ratios(found: dict[str, Any]) -> list[np.ndarray]:
    return [before - after for before, after in zip(found["before"], found["after"], strict=True)]


def test_what_was_trained_many_times_is_told_and_recited(remembered: dict[str, Any]) -> None:
    members, others = ratios(remembered)
    found = measure.membership(members, others, "ratio")
    assert found["auc"]["value"] > 0.9
    truth = np.repeat([1, 0], [len(members), len(others)])
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))
    above = int((members > others.max()).sum())  # no false alarm is allowed among 40
    assert found["true_positive_rate"] == wilson_interval(above, 24).to_json()
    assert found["false_positive_rate"] == wilson_interval(0, 40).to_json()
    assert sum(remembered["base"]) == 0
    assert sum(remembered["tuned"]) >= 20
    assert sum(remembered["unseen"]) == 0
    written = measure.extraction(remembered["base"], remembered["tuned"])
    assert written["difference"]["value"] == pytest.approx(np.mean(remembered["tuned"]))
    told = measure.memorization(found, written)
    assert (told["status"], told["verdict"]) == ("ok", "severe")
    assert f"in {sum(remembered['tuned'])} of 24 cases, the base model in 0" in told["sentence"]


def test_two_halves_that_were_not_trained_cannot_be_told_apart(tiny_model_path: Path) -> None:
    lm, torch_seed = load_model(str(tiny_model_path)), 3
    members, others = random_items(lm, 100, 12, 4), random_items(lm, 100, 12, 5)
    before = [means(lm, part) for part in (members, others)]
    torch.manual_seed(torch_seed)
    with torch.no_grad():  # other weights, which have seen neither half
        for parameter in lm.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    after = [means(lm, part) for part in (members, others)]
    for attack, scores in (
        ("ratio", [b - a for b, a in zip(before, after, strict=True)]),
        ("loss", [-a for a in after]),
    ):
        found = measure.membership(scores[0], scores[1], attack)  # type: ignore[arg-type]
        assert found["auc"]["low"] < 0.5 < found["auc"]["high"]
        assert abs(found["auc"]["value"] - 0.5) < 0.12
        told = measure.memorization(found, measure.no_long_answer(100))
        assert (told["status"], told["verdict"]) == ("ok", "none")
        assert told["sentence"].startswith("No sign of memorised training data. Whether an example")
        assert "chance is 0.5" in told["sentence"]


def test_answers_are_cut_in_the_middle_of_what_was_trained_last() -> None:
    def item(*spans: tuple[int, bool]) -> Rendered:
        ids = list(range(10, 10 + sum(n for n, _ in spans)))
        flags = [flag for n, flag in spans for _ in range(n)]
        return Rendered(ids, [t if on else IGNORE_INDEX for t, on in zip(ids, flags, strict=True)], spans[0][0])

    turns = item((4, False), (50, True), (3, False), (40, True))
    short, long = item((4, False), (39, True)), item((2, False), (200, True))
    ended = Rendered([*turns.input_ids, 2], [*turns.labels, 2], 4)
    cut = measure.answer_halves([short, ended, long, turns], ends=[2])
    assert [len(half.prompt) for half in cut] == [77, 102, 77]
    assert cut[0] == cut[2]
    assert list(cut[0].rest) == turns.input_ids[77:97]
    assert list(cut[1].rest) == long.input_ids[102 : 102 + measure.CONTINUED]
    assert len(measure.answer_halves([long] * 80, [])) == measure.ANSWERS


OK_AUC = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 200}
SHARE = {"value": 0.02, "low": 0.0, "high": 0.1, "n": 100}


def told(auc_low: float, more_low: float | None) -> str:
    found = {
        "status": "ok", "auc": {**OK_AUC, "low": auc_low}, "true_positive_rate": SHARE, "false_positive_rate": SHARE,
    }  # fmt: skip
    written: dict[str, Any] = measure.no_long_answer(7)
    if more_low is not None:
        written = {"status": "ok", "tuned": SHARE, "base": SHARE, "difference": {**SHARE, "low": more_low}}
    verdict: str = measure.memorization(found, written)["verdict"]
    return verdict


@pytest.mark.parametrize(
    ("auc_low", "more_low", "verdict"),
    [
        (0.45, None, "none"), (0.51, None, "mild"), (0.71, None, "severe"),
        (0.45, -0.05, "none"), (0.45, 0.01, "mild"), (0.45, 0.06, "severe"), (0.71, -0.05, "severe"),
    ],
)  # fmt: skip
def test_verdicts(auc_low: float, more_low: float | None, verdict: str) -> None:
    assert told(auc_low, more_low) == verdict


def test_what_was_not_run_is_never_passed() -> None:
    few = measure.membership(np.arange(300.0), np.arange(19.0), "ratio")
    assert few == {
        "status": "not_run",
        "reason": "it takes 20 training and 20 validation examples, and there are 300 and 19",
    }
    alone = measure.memorization(few, measure.no_long_answer(200))
    assert (alone["status"], alone["verdict"], alone["reason"]) == ("not_run", "unknown", few["reason"])
    with_clean_text = measure.memorization(few, measure.extraction([False] * 50, [False] * 50))
    assert (with_clean_text["status"], with_clean_text["verdict"]) == ("not_run", "unknown")
    bad = measure.memorization(few, measure.extraction([False] * 50, [True] * 50))
    assert (bad["status"], bad["verdict"]) == ("ok", "severe")
    even = measure.membership(np.arange(50.0), np.arange(50.0), "loss")
    unwritten = measure.memorization(even, {"status": "not_run", "reason": "not asked"})
    assert (unwritten["status"], unwritten["verdict"], unwritten["reason"]) == ("not_run", "unknown", "not asked")


def test_the_share_recited_is_that_beyond_the_base() -> None:
    written = measure.extraction([True] * 10 + [False] * 40, [True] * 15 + [False] * 35)
    assert written["tuned"] == wilson_interval(15, 50).to_json()
    assert written["base"] == wilson_interval(10, 50).to_json()
    assert written["difference"]["value"] == pytest.approx(0.1)
    same = measure.extraction([True] * 10 + [False] * 40, [True] * 10 + [False] * 40)["difference"]
    assert same["low"] < 0 < same["high"]
