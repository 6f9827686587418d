"""Sentence embeddings from a frozen encoder: mean of the last hidden states, normalised to length 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.hardware import detect
from tunesmith.model.load import quiet
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import ModelFolder

BATCH_TOKENS = 2048  # padded tokens computed at once


def load_encoder(folder: ModelFolder) -> tuple[Any, Any]:
    """Load an encoder and its tokenizer, checked first."""
    quiet()
    check_model_folder(folder.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        model = AutoModel.from_pretrained(folder.path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.name}: cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error
    limits = folder.path / "sentence_bert_config.json"
    if limits.is_file():
        tokenizer.model_max_length = json.loads(limits.read_text(encoding="utf-8"))["max_seq_length"]
    return model.to("cuda" if detect().accelerators else "cpu").eval(), tokenizer


def embed(
    model: Any, tokenizer: Any, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, int]:
    """Vectors of ``texts``, shape (n, hidden), float32, and how many texts were cut at the encoder's length.

    Source: Reimers & Gurevych 2019, section 3 (mean pooling), arXiv:1908.10084.
    """
    limit = min(tokenizer.model_max_length, 100_000)
    ids = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    whole = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    cut = sum(len(a) < len(b) for a, b in zip(ids, whole, strict=True))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= BATCH_TOKENS:
            stop += 1
        vectors[order[start:stop]] = _embed_batch(model, tokenizer, [ids[i] for i in order[start:stop]])
        if on_progress is not None:
            on_progress(stop - start)
        start = stop
    return vectors, cut


def _embed_batch(model: Any, tokenizer: Any, rows: list[list[int]]) -> np.ndarray:
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
    with torch.no_grad():
        hidden = model(**padded).last_hidden_state
    mask = padded["attention_mask"][..., None].to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    result: np.ndarray = torch.nn.functional.normalize(mean, dim=1).float().cpu().numpy()
    return result
