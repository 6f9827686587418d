"""Encoder–decoders of three families against transformers' own losses, and against decoding one token at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assets.seq2seq import FAMILIES, build_seq2seq
from tunesmith.config import Full, Lora, Translation
from tunesmith.errors import DataError, ModelError
from tunesmith.model import seq2seq
from tunesmith.model.generate import end_tokens
from tunesmith.model.load import LanguageModel, load_model
from tunesmith.model.save import save_model
from tunesmith.model.seq2seq import Pair, batches, encode_pair, generate_targets, target_losses
from tunesmith.records import Example, Message
from tunesmith.tasks import Task
from tunesmith.tasks.translation import build_translation
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives import EncodeSettings
from tunesmith.train.objectives.seq2seq import SEQ2SEQ, Seq2seq

WORDS = ["the card", "the money that I sent", "rain", "the weather in the city is cold today", "yes", "no"]


def examples(n: int) -> list[Example]:
    return [
        Example(
            f"f:{i}", (Message("user", f"{WORDS[i % 6]} {i}"), Message("assistant", f"{WORDS[-1 - i % 6]} {i * i}"))
        )
        for i in range(n)
    ]


def task() -> Task:
    return build_translation(Translation(instruction="to French:", max_new_tokens=12), (), None)


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seq2seq(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def lm(path: Path) -> LanguageModel:
    return load_model(str(path), "seq2seq")


@pytest.fixture
def pairs(lm: LanguageModel) -> list[Pair]:
    found, _ = SEQ2SEQ.encode(task(), lm.tokenizer, examples(10), EncodeSettings(100))
    return list(found)


def own_loss(model: Any, pair: Pair) -> float:
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([pair.source]), labels=torch.tensor([pair.target])).loss
    return float(loss)


def test_losses_are_the_models_own_whatever_the_batches(lm: LanguageModel, pairs: list[Pair]) -> None:
    expected = [own_loss(lm.model, pair) * pair.units for pair in pairs]
    for budget in (1, 60, 10_000):
        assert target_losses(lm.model, pairs, budget).tolist() == pytest.approx(expected, rel=1e-5)
        objective = SEQ2SEQ.build(lm, budget, True)
        assert objective.item_losses(lm.model, pairs).tolist() == pytest.approx(expected, rel=1e-5)
        total = sum(float(part) for part in objective.losses(lm.model, pairs, 0.5))
        assert total == pytest.approx(0.5 * sum(expected), rel=1e-5)


def test_gradients_are_the_models_own(lm: LanguageModel, pairs: list[Pair]) -> None:
    lm.model.requires_grad_(True)
    sum(lm.model(input_ids=torch.tensor([p.source]), labels=torch.tensor([p.target])).loss * p.units for p in pairs
        ).backward()  # fmt: skip
    expected = {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}
    lm.model.zero_grad()
    for part in Seq2seq(60).losses(lm.model, pairs, 1.0):
        part.backward()
    for name, parameter in lm.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)
        else:
            assert parameter.grad is None


def test_batches_hold_every_pair_once_and_keep_to_the_budget(pairs: list[Pair]) -> None:
    groups = list(batches(pairs, 80))
    assert sorted(i for group in groups for i in group) == list(range(len(pairs)))
    assert len(groups) > 1
    for group in groups:
        padded = max(len(pairs[i].source) for i in group) + max(len(pairs[i].target) for i in group)
        assert padded * len(group) <= 80 or len(group) == 1


def test_decoding_is_greedy_and_counts_what_was_cut(
    lm: LanguageModel, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = generate_targets(lm, pairs, 6)
    ends = end_tokens(lm)
    for pair, answer in zip(pairs, found, strict=True):
        written = [lm.model.generation_config.decoder_start_token_id]
        with torch.no_grad():
            while len(written) < 7 and written[-1] not in ends[: len(written) > 1]:
                logits = lm.model(input_ids=torch.tensor([pair.source]), decoder_input_ids=torch.tensor([written]))
                written.append(int(logits.logits[0, -1].argmax()))
        ended = written[-1] in ends and len(written) > 1
        tokens = written[1:-1] if ended else written[1:]
        assert answer.text == lm.tokenizer.decode(tokens, skip_special_tokens=True)
        assert (answer.prompt_tokens, answer.completion_tokens) == (len(pair.source), len(tokens))
        assert answer.truncated == (not ended)
    longest = max(answer.completion_tokens for answer in found)
    cut = generate_targets(lm, pairs, longest - 1)  # BART and Marian would force an end there
    assert [a.truncated for a in cut] == [a.completion_tokens >= longest - 1 for a in found]
    assert max(a.completion_tokens for a in cut) == longest - 1
    monkeypatch.setattr(seq2seq, "BATCH_TOKENS", 1)
    told: list[int] = []
    assert generate_targets(lm, pairs[::-1], 6, told.append) == found[::-1]
    assert sum(told) == len(pairs)


@pytest.mark.parametrize("method", [Lora(rank=8), Full()], ids=lambda m: m.kind)
def test_it_learns_by_heart_and_is_saved(path: Path, lm: LanguageModel, tmp_path: Path, method: Any) -> None:
    data = examples(8)
    items, _ = SEQ2SEQ.encode(task(), lm.tokenizer, data, EncodeSettings(100))
    base = target_losses(lm.model, items)
    torch.manual_seed(0)
    attached = METHODS[method.kind].attach(lm.model, method)
    lm.model = attached.model
    assert target_losses(lm.model, items).tolist() == pytest.approx(base.tolist(), rel=1e-5)
    objective = SEQ2SEQ.build(lm, 1024, True)
    settings = LoopSettings(60, 1e-2, 8, patience=0, evals_per_epoch=1)
    train(lm.model, attached.trainable, objective, items, items, settings, tmp_path / "training")
    learned = target_losses(lm.model.eval(), items)
    assert float(learned.sum()) < 0.75 * float(base.sum())  # adapters as narrow as the model learn no more
    save_model(tmp_path / "saved", attached.save, lm, str(path), {"interface": "seq2seq"})
    loaded = load_model(str(tmp_path / "saved"))
    assert loaded.interface == "seq2seq"
    assert target_losses(loaded.model, items).tolist() == pytest.approx(learned.tolist(), rel=1e-4)
    shown = [p.prediction for p in task().predict(lm, data, "c")]
    assert [p.prediction for p in task().predict(loaded, data, "c")] == shown


def test_predictions_hold_the_loss_of_the_right_answer(lm: LanguageModel, pairs: list[Pair]) -> None:
    data = examples(10)
    found = task().predict(lm, data, "c")
    assert [p.target for p in found] == [e.answer for e in data]
    assert [p.nll for p in found] == pytest.approx([own_loss(lm.model, pair) for pair in pairs], rel=1e-5)
    assert all(p.prompt_tokens == len(pair.source) for p, pair in zip(found, pairs, strict=True))


def test_only_t5_reads_the_instruction_and_every_target_ends(lm: LanguageModel, pairs: list[Pair]) -> None:
    shown = lm.tokenizer.decode(pairs[0].source)
    assert shown == ("to French: the card 0" if "<extra_id_0>" in lm.tokenizer.get_vocab() else "the card 0")
    assert {pair.target[-1] for pair in pairs} == {lm.tokenizer.eos_token_id}


def test_what_is_no_pair_is_refused_with_its_place(lm: LanguageModel) -> None:
    user, answer = Message("user", "a"), Message("assistant", "b")
    data = [
        Example("f:1", (user, answer)),
        Example("f:2", (user, answer, user, answer)),
        Example("f:3", (user, Message("assistant", "b <|im_end|>"))),
    ]
    with pytest.raises(DataError, match=r"2 of 3 .*\n.*f:2: .*one user text.*\n.*f:3: .*control token"):
        SEQ2SEQ.encode(task(), lm.tokenizer, data, EncodeSettings(100))


def test_long_ones_are_refused_or_dropped_but_not_cut(lm: LanguageModel) -> None:
    long = Example("f:9", (Message("user", "a b c d e f g h i j " * 9), Message("assistant", "b")))
    data = [*examples(2), long]
    for overlong in ("refuse", "truncate_left"):
        with pytest.raises(DataError, match=r"1 of 3 .*more than 50 tokens"):
            SEQ2SEQ.encode(task(), lm.tokenizer, data, EncodeSettings(50, overlong=overlong))
    kept, findings = SEQ2SEQ.encode(task(), lm.tokenizer, data, EncodeSettings(50, overlong="drop"))
    assert [pair.example_id for pair in kept] == ["f:0", "f:1"]
    assert [(f.check, f.count, f.examples) for f in findings] == [("overlong", 1, ("f:9",))]


def test_a_model_whose_loss_is_not_ours_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = seq2seq._output_scale
    monkeypatch.setattr(seq2seq, "_output_scale", lambda model: 1.3 * scale(model))
    with pytest.raises(ModelError, match="not supported"):
        load_model(str(path), "seq2seq")


def test_models_that_are_told_languages_are_refused(tmp_path: Path) -> None:
    folder = build_seq2seq("bart", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mbart"}))
    with pytest.raises(ModelError, match="languages"):
        load_model(str(folder), "seq2seq")


def test_encode_pair_joins_no_instruction_where_there_is_none(lm: LanguageModel) -> None:
    pair = encode_pair(lm.tokenizer, (Message("user", "rain"), Message("assistant", "no")), "f:1")
    assert lm.tokenizer.decode(pair.source) == "rain"
    assert pair.example_id == "f:1"
    assert pair.tokens == len(pair.source) + pair.units
