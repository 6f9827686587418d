from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from end_to_end.projects import TINY, build_cross_encoder, build_encoder
from tunesmith.errors import ModelError
from tunesmith.model.cross_encoder import load_cross_encoder, score_pairs
from tunesmith.sources import resolve_model


def test_scores_are_the_plain_models(tmp_path: Path) -> None:
    """Each pair alone in plain transformers, against all at once, of many lengths, some longer than the model takes."""
    folder = build_cross_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    query, texts = "where is sand?", ["sand " * n + "and stone" for n in (1, 60, 3, 200, 12, 0)]
    expected = []
    for text in texts:
        row = tokenizer(query, text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            expected.append(float(model(**row).logits[0, 0]))
    encoder = load_cross_encoder(resolve_model(str(folder)))
    assert score_pairs(encoder, query, texts) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.1
    assert score_pairs(encoder, query, []).shape == (0,)


def test_where_the_tokenizer_says_no_limit_the_models_is_kept(tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(folder)
    encoder = load_cross_encoder(resolve_model(str(folder)))
    assert encoder.limit == 62
    assert np.isfinite(score_pairs(encoder, "where?", ["sand " * 500])).all()


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path) -> None:
    for folder, match in (
        (build_cross_encoder(tmp_path / "two", outputs=2), "gives 2 numbers"),
        (build_encoder(tmp_path / "bare"), "no trained head"),
        (TINY, "no trained head"),
    ):
        with pytest.raises(ModelError, match=match):
            load_cross_encoder(resolve_model(str(folder)))
