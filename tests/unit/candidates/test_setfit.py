from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from end_to_end.projects import build_encoder, call, read_strictly, sentences, write_project
from tunesmith.candidates import FAMILIES, Context
from tunesmith.candidates.predictor import WEIGHTS, load_predictor
from tunesmith.candidates.setfit import ENCODER, ROUNDS, build_sentence_transformer, sentence_pairs
from tunesmith.config import parse_config
from tunesmith.errors import MissingExtraError, TrainingError
from tunesmith.model.embed import embed, load_encoder
from tunesmith.records import Example
from tunesmith.sources import resolve_model
from tunesmith.tasks import build_task
from tunesmith.workflow import silent

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="the extra setfit is not installed"
)


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────
def test_pairs_hold_as_many_of_one_label_as_of_two(rng: np.random.Generator) -> None:
    labels = ["a", "b", "c"] * 8
    pairs = sentence_pairs(labels, 10_000, rng)
    assert Counter(p.similarity for p in pairs) == {1.0: 24 * ROUNDS, 0.0: 24 * ROUNDS}
    assert all((labels[p.left] == labels[p.right]) == (p.similarity == 1.0) for p in pairs)
    assert all(p.left != p.right for p in pairs)
    assert {p.right for p in pairs if p.left == 0 and p.similarity == 1.0} == set(range(3, 24, 3))
    assert {p.right for p in pairs if p.left == 0 and p.similarity == 0.0} <= {i for i in range(24) if i % 3}
    assert [p.similarity for p in pairs[:50]] not in ([1.0] * 50, [0.0] * 50)


def test_pairs_are_bounded_and_follow_the_seed() -> None:
    labels = [str(i % 7) for i in range(1000)]
    few, again, other = (sentence_pairs(labels, 500, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert len(few) == 500
    assert few == again != other
    assert len({p.left for p in few}) == 250
    assert len(sentence_pairs(labels, 5_000, np.random.default_rng(0))) == 4_000  # two rounds


def test_a_label_with_one_text_has_pairs_of_two_labels_only(rng: np.random.Generator) -> None:
    pairs = sentence_pairs(["a", "b", "b"], 1_000, rng)
    assert {p.similarity for p in pairs if p.left == 0} == {0.0}
    assert {p.similarity for p in pairs if p.left == 1} == {0.0, 1.0}
    assert {p.similarity for p in sentence_pairs(["a", "a"], 1_000, rng)} == {1.0}
    assert sentence_pairs(["a"], 1_000, rng) == []


# ── the candidate ────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoders") / "tiny", layers=2)


@pytest.fixture(scope="module")
def made() -> list[Example]:
    return [Example(f"f:{i}", text=text, label=label) for i, (text, label) in enumerate(sentences(120))]


def candidate_of(encoder: Path, folder: Path) -> Any:
    config = parse_config({"task": "classification", "data": {"train": "x"}, "encoder": [str(encoder), "model"]})
    assert FAMILIES["setfit"].ids(config, "m", "decoder") == ["setfit/tiny"]
    context = Context(config, build_task(config.task, ["no", "yes"]), "m", {}, 64, silent)
    folder.mkdir()
    return FAMILIES["setfit"].build(context, "setfit/tiny", folder)


@needs_extra
def test_texts_of_one_label_come_to_lie_together(
    encoder: Path, made: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.candidates import setfit

    monkeypatch.setattr(setfit, "LEARNING_RATE", 1e-3)
    candidates = [candidate_of(encoder, tmp_path / name) for name in ("one", "again")]
    fits = [candidate.fit(made[:32], made[32:60]) for candidate in candidates]
    fit = fits[0]
    assert fit.details["pairs"] == 32 * 2 * ROUNDS
    assert fit.details["steps"] == 80
    losses = [row["loss"] for row in fit.details["validation_losses"]]
    assert len(losses) == 6
    assert min(losses) < 0.5 * losses[0]
    best = next(row["step"] for row in fit.details["validation_losses"] if row["loss"] == min(losses))
    assert fit.details["best_step"] == best == fit.measured["overfitting"]["best_step"]
    assert fit.measured["overfitting"]["validation_loss"] == pytest.approx(min(losses))
    assert "nats" not in fit.measured["overfitting"]["sentence"]
    assert fit.measured["forgetting"]["status"] == "not_applicable"
    assert fit.measured["memorization"]["status"] == "not_run"

    saved = tmp_path / "one" / ENCODER
    tuned, plain = load_encoder(resolve_model(str(saved))), load_encoder(resolve_model(str(encoder)))
    texts, yes = [e.text or "" for e in made[60:]], np.array([e.label == "yes" for e in made[60:]])
    gaps = []
    for loaded in (plain, tuned):
        vectors, _ = embed(loaded, texts)
        similar = vectors @ vectors.T
        gaps.append(similar[yes][:, yes].mean() - similar[yes][:, ~yes].mean())
    assert gaps[1] > gaps[0] + 0.3
    predictions = candidates[0].predict(made[60:])
    assert np.mean([p.score for p in predictions]) > 0.9
    assert candidates[0]._encoder is None

    # what was saved is enough to say the same again, and a second run says it too
    from safetensors.numpy import load_file

    weights = load_file(tmp_path / "one" / WEIGHTS)
    logits = embed(tuned, texts)[0] @ weights["weights"].T + weights["bias"]
    assert [["no", "yes"][i] for i in logits.argmax(1)] == [p.prediction for p in predictions]
    moved = (tmp_path / "one").rename(tmp_path / "elsewhere")
    kept = load_predictor(moved).predict(made[60:])
    assert [p.probabilities for p in kept] == [p.probabilities for p in predictions]
    again = candidates[1].predict(made[60:])
    assert [p.probabilities for p in again] == [p.probabilities for p in predictions]
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (moved / WEIGHTS).read_bytes()


@needs_extra
def test_vectors_are_those_of_sentence_transformers(encoder: Path, tmp_path: Path) -> None:
    folder = resolve_model(str(encoder))
    loaded = load_encoder(folder)
    texts = ["the day is cold", "a", "the weather " * 90]
    theirs = build_sentence_transformer(folder, loaded).encode(texts)
    ours, cut = embed(loaded, texts)
    assert cut == 1
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@needs_extra
def test_without_pairs_or_without_gain_nothing_is_kept(
    encoder: Path, made: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.candidates import setfit

    with pytest.raises(TrainingError, match="fewer than two validation examples"):
        candidate_of(encoder, tmp_path / "few").fit(made[:8], made[8:9])
    monkeypatch.setattr(setfit, "LEARNING_RATE", 0.0)
    with pytest.raises(TrainingError, match=r"nothing was learned: no step lowered .* Keep to the embedding candidate"):
        candidate_of(encoder, tmp_path / "none").fit(made[:4], made[4:12])
    assert not (tmp_path / "none" / ENCODER).exists()


def test_without_the_extra_the_command_is_given(
    encoder: Path, made: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[setfit\]'"):
        candidate_of(encoder, tmp_path / "c").fit(made[:8], made[8:16])


def test_it_is_for_texts_with_one_label() -> None:
    own = parse_config({"task": "classification", "data": {"train": "x"}, "encoder": "model"})
    assert FAMILIES["setfit"].ids(own, "m", "decoder") == ["setfit/minilm-l6"]
    for settings, architecture in (({"task": "regression"}, "decoder"), ({"task": "classification"}, "image-encoder")):
        config = parse_config({"data": {"train": "x"}, **settings})
        assert FAMILIES["setfit"].ids(config, "m", architecture) == []


@needs_extra
def test_a_run_judges_it_beside_the_frozen_encoder(encoder: Path, tmp_path: Path) -> None:
    config = write_project(
        tmp_path, candidates=["embedding", "setfit"], encoder=[str(encoder), "model"], data={"train_limit": 24}
    )
    result = call("run", config, "--out", tmp_path / "run", "--quiet")
    assert result.code == 0, result.err
    entries = {entry["id"]: entry for entry in read_strictly(tmp_path / "run" / "report.json")["candidates"]}
    assert list(entries) == ["embedding/tiny", "embedding/tiny_llama", "setfit/tiny"]
    assert {entry["status"] for entry in entries.values()} == {"ok"}, entries
    assert not entries["setfit/tiny"]["baseline"]
