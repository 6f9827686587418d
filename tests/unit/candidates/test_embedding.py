from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from end_to_end.projects import build_encoder, sentences
from tunesmith.candidates import FAMILIES, Context
from tunesmith.config import parse_config
from tunesmith.model.embed import embed, load_encoder
from tunesmith.records import Example
from tunesmith.sources import resolve_model
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


def test_embeddings_equal_mean_pooling_of_each_text_alone(encoder: Path) -> None:
    model, tokenizer = load_encoder(resolve_model(str(encoder)))
    texts = [f"the day is {'very ' * (i % 7)}cold {i}" for i in range(40)]
    told: list[int] = []
    vectors, cut = embed(model, tokenizer, texts, told.append)
    assert vectors.shape == (40, 32)
    assert cut == 0
    assert sum(told) == 40
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0]
        mean = hidden.mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_long_texts_are_cut_and_counted(encoder: Path) -> None:
    model, tokenizer = load_encoder(resolve_model(str(encoder)))
    long = "the weather " * 100
    vectors, cut = embed(model, tokenizer, ["short", long, long + "and more"])
    assert cut == 2
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)


def test_probabilities_stand_in_the_order_of_the_tasks_labels(encoder: Path, tmp_path: Path) -> None:
    made = [Example(f"f:{i}", text=text, label=label) for i, (text, label) in enumerate(sentences(60))]
    config = parse_config({"task": "classification", "data": {"train": "x"}, "encoder": str(encoder)})
    context = Context(config, build_task(config.task, ["yes", "no"]), "m", {}, 64, silent)
    candidate: Any = FAMILIES["embedding"].build(context, f"embedding/{encoder}", tmp_path)
    fit = candidate.fit(made[:40], made[40:50])
    assert fit.trainable_parameters == 66  # a row of 32 weights and a bias for each label
    predictions = candidate.predict(made[50:])
    assert [p.example_id for p in predictions] == [e.id for e in made[50:]]
    for p in predictions:
        assert sum(p.probabilities) == pytest.approx(1)
        assert context.task.labels[int(np.argmax(p.probabilities))] == p.prediction
