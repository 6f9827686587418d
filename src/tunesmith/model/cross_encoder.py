"""How well a text fits a query, by a model that reads both at once: a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.hardware import detect
from tunesmith.model.embed import batches
from tunesmith.model.load import quiet
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import ModelFolder


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """A sequence classifier with one output, in evaluation mode; pairs longer than ``limit`` tokens are cut."""

    model: Any
    tokenizer: Any
    limit: int


def load_cross_encoder(folder: ModelFolder) -> CrossEncoder:
    """Load a cross-encoder, its files checked first.

    Raises:
        ModelError: If it cannot be loaded, has no trained head, or its head gives more than one number.
    """
    quiet()
    check_model_folder(folder.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder.path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder.name}: cannot be loaded as a cross-encoder: {first}") from error
    wanted = "Expected a sequence classifier with one output, such as a folder of cross-encoder/ms-marco-MiniLM-L6-v2."
    if info["missing_keys"]:
        raise ModelError(f"{folder.name}: has no trained head ({sorted(info['missing_keys'])[0]} is missing). {wanted}")
    if model.config.num_labels != 1:
        raise ModelError(f"{folder.name}: its head gives {model.config.num_labels} numbers. {wanted}")
    limit = tokenizer.model_max_length
    if limit > 100_000:  # the tokenizer does not say; RoBERTa's kind counts positions from 2
        limit = getattr(model.config, "max_position_embeddings", 514) - 2
    device = "cuda" if detect().accelerators else "cpu"
    return CrossEncoder(model.to(device).eval(), tokenizer, limit)


def score_pairs(encoder: CrossEncoder, query: str, texts: Sequence[str]) -> np.ndarray:
    """The head's number for the query with each text, shape (n,), float64: higher fits better, of no fixed range.

    Source: Nogueira & Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085.
    """
    if not texts:
        return np.zeros(0)
    rows = encoder.tokenizer([query] * len(texts), list(texts), truncation=True, max_length=encoder.limit)
    scores = np.zeros(len(texts))
    for places in batches([len(ids) for ids in rows["input_ids"]]):
        some = {name: [values[i] for i in places] for name, values in rows.items()}
        padded = encoder.tokenizer.pad(some, return_tensors="pt").to(encoder.model.device)
        with torch.no_grad():
            scores[places] = encoder.model(**padded).logits[:, 0].double().cpu().numpy()
    return scores
