from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from end_to_end.projects import build_encoder, sentences
from tunesmith.candidates import FAMILIES, Context
from tunesmith.config import parse_config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.model.embed import embed, hidden_features, load_encoder
from tunesmith.model.load import load_model
from tunesmith.records import Example
from tunesmith.sources import resolve_model
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def test_embeddings_equal_mean_pooling_of_each_text_alone(encoder: Path) -> None:
    loaded = load_encoder(resolve_model(str(encoder)))
    texts = [f"the day is {'very ' * (i % 7)}cold {i}" for i in range(40)]
    told: list[int] = []
    vectors, cut = embed(loaded, texts, told.append)
    assert vectors.shape == (40, 32)
    assert cut == 0
    assert sum(told) == 40
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = loaded.model(torch.tensor([loaded.tokenizer(text).input_ids])).last_hidden_state[0]
        mean = hidden.mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_long_texts_are_cut_and_counted(encoder: Path) -> None:
    loaded = load_encoder(resolve_model(str(encoder)))
    long = "the weather " * 100
    vectors, cut = embed(loaded, ["short", long, long + "and more"])
    assert cut == 2
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)


def test_probabilities_stand_in_the_order_of_the_tasks_labels(encoder: Path, tmp_path: Path) -> None:
    made = [Example(f"f:{i}", text=text, label=label) for i, (text, label) in enumerate(sentences(60))]
    config = parse_config({"task": "classification", "data": {"train": "x"}, "encoder": str(encoder)})
    context = Context(config, build_task(config.task, ["yes", "no"]), "m", {}, 64, silent)
    candidate: Any = FAMILIES["embedding"].build(context, f"embedding/{encoder.name}", tmp_path)
    fit = candidate.fit(made[:40], made[40:50])
    assert fit.trainable_parameters == 66  # a row of 32 weights and a bias for each label
    predictions = candidate.predict(made[50:])
    assert [p.example_id for p in predictions] == [e.id for e in made[50:]]
    for p in predictions:
        assert sum(p.probabilities) == pytest.approx(1)
        assert context.task.labels[int(np.argmax(p.probabilities))] == p.prediction


# ── how a folder says its vectors are pooled ─────────────────────────────────────────────────────────────
def sentence_folder(
    encoder: Path, folder: Path, pooling: dict[str, Any], more: str | None = None, **files: Any
) -> Path:
    """A copy of an encoder as a folder of sentence-transformers."""
    shutil.copytree(encoder, folder)
    kinds = {
        "": "Transformer",
        "1_Pooling": "Pooling",
        "2_Normalize": "Normalize",
        **({"3_More": more} if more else {}),
    }
    modules = [{"idx": i, "path": path, "type": f"any.where.{kind}"} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "1_Pooling").mkdir()
    written = {"modules": modules, "1_Pooling/config": pooling, **files}
    for name, value in written.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize("config", [{"pooling_mode": "cls"}, {"pooling_mode_cls_token": True, "include_prompt": True}])
def test_a_folder_may_ask_for_the_first_tokens_state(encoder: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = sentence_folder(encoder, tmp_path / "e", config)
    loaded = load_encoder(resolve_model(str(folder)))
    vectors, _ = embed(loaded, ["the day is cold", "no"])
    for text, vector in zip(["the day is cold", "no"], vectors, strict=True):
        with torch.no_grad():
            first = loaded.model(torch.tensor([loaded.tokenizer(text).input_ids])).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(vector, first / np.linalg.norm(first), atol=1e-5)


def test_limit_prefix_and_lower_case_are_the_folders(encoder: Path, tmp_path: Path) -> None:
    folder = sentence_folder(
        encoder, tmp_path / "e", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        sentence_bert_config={"max_seq_length": 8, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"ask": "query: "}, "default_prompt_name": "ask"},
    )  # fmt: skip
    plain, told = load_encoder(resolve_model(str(encoder))), load_encoder(resolve_model(str(folder)))
    assert told.tokenizer.model_max_length == 8
    np.testing.assert_allclose(embed(told, ["A DAY"])[0], embed(plain, ["query: a day"])[0], atol=1e-6)
    assert embed(told, ["the weather " * 9])[1] == 1


@pytest.mark.parametrize(
    ("pooling", "more", "said"),
    [
        ({"pooling_mode": "max"}, None, "is pooled by max"),
        ({"pooling_mode": ["cls", "mean"]}, None, "is pooled by cls and mean"),
        ({"pooling_mode": "mean"}, "Dense", "has the module Dense"),
    ],
)
def test_other_pooling_and_modules_are_refused(
    encoder: Path, tmp_path: Path, pooling: dict[str, Any], more: str | None, said: str
) -> None:
    folder = sentence_folder(encoder, tmp_path / "e", pooling, more)
    with pytest.raises(ModelError, match=said):
        load_encoder(resolve_model(str(folder)))


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers", reason="the extra setfit is not installed")
    from tunesmith.candidates.setfit import build_sentence_transformer

    folder = resolve_model("minilm-l6")
    encoder = load_encoder(folder)
    texts = ["I still have not received my new card.", "Héllo  wörld", "a", "cards " * 400]
    ours, cut = embed(encoder, texts)
    assert cut == 1
    np.testing.assert_allclose(build_sentence_transformer(folder, encoder).encode(texts), ours, atol=1e-5)


# ── several encoders, and the model itself ───────────────────────────────────────────────────────────────
def config_of(**settings: Any) -> Any:
    return parse_config({"task": "classification", "data": {"train": "x"}, **settings})


def test_each_encoder_is_a_candidate() -> None:
    ids = FAMILIES["embedding"].ids
    assert ids(config_of(), "tiny", "decoder") == ["embedding/minilm-l6"]
    assert ids(config_of(encoder="hf:BAAI/bge-small"), "tiny", "decoder") == ["embedding/bge-small"]
    assert ids(config_of(encoder=["minilm-l6", "model"]), "tiny", "decoder") == [
        "embedding/minilm-l6",
        "embedding/tiny",
    ]
    assert ids(config_of(model="dinov2-small"), "dinov2-small", "image-encoder") == ["embedding/dinov2-small"]
    with pytest.raises(ConfigError, match=r"hf:a/x, hf:b/x are not all of different names.*Keep one"):
        ids(config_of(encoder=["hf:a/x", "hf:b/x"]), "tiny", "decoder")


def test_hidden_features_are_those_of_each_text_alone(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    texts = [f"the day is {'very ' * (i % 5)}cold" for i in range(12)] + ["word " * 4 * lm.max_length]
    told: list[int] = []
    found, cut = hidden_features(lm, texts, told.append)
    assert cut == 1
    assert sum(told) == 13
    end, plain = lm.tokenizer.eos_token_id, load_model(str(tiny_model_path)).model.model
    plain.set_attn_implementation("eager")
    for place in (0, 3, 11):
        ids = [*lm.tokenizer(texts[place]).input_ids, end]
        with torch.no_grad():
            states = plain(torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(found["last"][place], states[-1], atol=1e-4)
        np.testing.assert_allclose(found["mean"][place], states.mean(0), atol=1e-4)


def test_the_models_own_states_are_tried_in_both_poolings(tiny_model_path: Path, tmp_path: Path) -> None:
    made = [Example(f"f:{i}", text=text, label=label) for i, (text, label) in enumerate(sentences(80))]
    config = config_of(encoder=["minilm-l6", "model"], model=str(tiny_model_path))
    context = Context(config, build_task(config.task, ["yes", "no"]), str(tiny_model_path), {}, 64, silent)
    candidate: Any = FAMILIES["embedding"].build(context, "embedding/tiny_llama", tmp_path)
    details = candidate.fit(made[:50], made[50:65]).details
    tried = details["tried_on_validation"]
    kinds = {(row["pooling"], row["predictor"]) for row in tried}
    assert kinds == {(p, m) for p in ("last", "mean") for m in ("logistic", "ridge", "neighbours")}
    chosen = next(
        row for row in tried
        if (row["pooling"], row["predictor"]) == (details["pooling"], details["predictor"])
        and all(row.get(key) == details[key] for key in ("C", "k") if key in details)
    )  # fmt: skip
    assert chosen["score"] == max(row["score"] for row in tried)
    assert len(candidate.predict(made[65:])) == 15
