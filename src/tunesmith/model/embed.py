"""Vectors of texts from a frozen model: a sentence encoder pooled as its folder says, or a decoder's hidden states."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.hardware import detect
from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.forward import hidden_states
from tunesmith.model.load import quiet
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import ModelFolder

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

BATCH_TOKENS = 2048  # padded tokens computed at once
MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers, what a folder may consist of

Pooling = Literal["mean", "cls"]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Encoder:
    """A sentence encoder and how it is used.

    Attributes:
        model: Of transformers, without head, in evaluation mode.
        tokenizer: Its ``model_max_length`` is where texts are cut, in tokens.
        pooling: Mean of the last hidden states of all tokens, or that of the first token.
        prefix: What the encoder was trained to read before every text.
        lower: Whether it was trained on lower case.
    """

    model: Any
    tokenizer: Any
    pooling: Pooling = "mean"
    prefix: str = ""
    lower: bool = False


def load_encoder(folder: ModelFolder) -> Encoder:
    """Load a sentence encoder, its files checked first.

    A folder of sentence-transformers says by itself how vectors are pooled; any other is pooled by the mean.

    Raises:
        ModelError: If it cannot be loaded, or is pooled in another way, or has more modules than the transformer,
            pooling and normalisation.
    """
    model, tokenizer = load_backbone(folder)
    prefix, lower = _reading(folder.path)
    return Encoder(model, tokenizer, read_pooling(folder), prefix, lower)


def load_backbone(folder: ModelFolder) -> tuple[Any, Any]:
    """Load an encoder's transformer and its tokenizer, checked first."""
    quiet()
    check_model_folder(folder.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        model = AutoModel.from_pretrained(folder.path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.name}: cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error
    limit = _read(folder.path / "sentence_bert_config.json").get("max_seq_length")
    if limit is not None:
        tokenizer.model_max_length = limit
    return model.to("cuda" if detect().accelerators else "cpu").eval(), tokenizer


def read_pooling(folder: ModelFolder) -> Pooling:
    """How an encoder's vectors are pooled: what its ``modules.json`` leads to, else the mean.

    Raises:
        ModelError: If it is pooled in a way that is not known here, or has other modules.
    """
    modules = _read(folder.path / "modules.json", [])
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
    other = [kind for kind in kinds if kind not in MODULES]
    config = _read(folder.path / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {"pooling_mode": "mean"}
    modes = config.get("pooling_mode")
    if modes is None:
        names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
        modes = [names.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = [modes] if isinstance(modes, str) else modes
    if other or modes not in (["mean"], ["cls"]):
        what = f"has the module {other[0]}" if other else f"is pooled by {' and '.join(modes) or 'nothing'}"
        raise ModelError(
            f"{folder.name}: this sentence encoder {what}; known are those of a transformer whose vectors are the mean "
            "or the first token's. Choose another, such as minilm-l6."
        )
    pooling: Pooling = modes[0]
    return pooling


def _reading(path: Path) -> tuple[str, bool]:
    """What stands before every text, and whether texts are read in lower case."""
    prompts = _read(path / "config_sentence_transformers.json")
    prefix = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    return prefix, bool(_read(path / "sentence_bert_config.json").get("do_lower_case"))


def _read(file: Path, absent: Any = None) -> Any:
    """A JSON file's value; of one that is not there ``absent``, by default an empty mapping.

    Raises:
        ModelError: If it is not JSON of that kind.
    """
    absent = {} if absent is None else absent
    if not file.is_file():
        return absent
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error}). Get the model anew.") from error
    if type(found) is not type(absent):
        raise ModelError(f"{file}: holds {type(found).__name__}, expected {type(absent).__name__}. Get the model anew.")
    return found


def embed(encoder: Encoder, texts: Sequence[str], on_progress: Progress | None = None) -> tuple[np.ndarray, int]:
    """Vectors of ``texts``, shape (n, hidden), float32, of length 1, and how many texts were cut at its limit.

    Source: Reimers & Gurevych 2019, section 3 (mean pooling), arXiv:1908.10084.
    """
    model, tokenizer = encoder.model, encoder.tokenizer
    read = [encoder.prefix + text for text in texts]
    if encoder.lower:
        read = [text.lower() for text in read]
    limit = min(tokenizer.model_max_length, 100_000)
    ids = tokenizer(read, truncation=True, max_length=limit)["input_ids"]
    whole = tokenizer(read, truncation=False, verbose=False)["input_ids"]
    cut = sum(len(a) < len(b) for a, b in zip(ids, whole, strict=True))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for places in batches([len(row) for row in ids]):
        vectors[places] = _embed_batch(encoder, [ids[i] for i in places])
        if on_progress is not None:
            on_progress(len(places))
    return vectors, cut


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places in order of length, cut into batches of at most ``BATCH_TOKENS`` when padded, or of one."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= BATCH_TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop


def _embed_batch(encoder: Encoder, rows: list[list[int]]) -> np.ndarray:
    padded = encoder.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(encoder.model.device)
    with torch.no_grad():
        hidden = encoder.model(**padded).last_hidden_state
    mask = padded["attention_mask"][..., None].to(hidden.dtype)
    pooled = hidden[:, 0] if encoder.pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
    result: np.ndarray = torch.nn.functional.normalize(pooled, dim=1).float().cpu().numpy()
    return result


def hidden_features(
    lm: LanguageModel, texts: Sequence[str], on_progress: Progress | None = None
) -> tuple[dict[str, np.ndarray], int]:
    """A decoder's last hidden states of plain texts, pooled in two ways.

    Every text is read alone, with end of sequence behind it where the tokenizer has one.

    Returns:
        ``last`` (the last token's state) and ``mean`` (over all tokens), each of shape (n, hidden), float32, as the
        model gives them; and how many texts were cut at the model's length.
    """
    end = lm.tokenizer.eos_token_id
    rows = lm.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
    whole = [list(ids) if end is None or ids[-1:] == [end] else [*ids, end] for ids in rows]
    ids = [row if len(row) <= lm.max_length else [*row[: lm.max_length - 1], row[-1]] for row in whole]
    width = lm.model.config.get_text_config().hidden_size
    found = {name: np.zeros((len(ids), width), dtype=np.float32) for name in ("last", "mean")}
    for places in batches([len(row) for row in ids]):
        pack = build_pack([], [[Segment(ids[i])] for i in places], lm.device)
        with torch.no_grad():
            states = hidden_states(lm.model, pack, lm.packed).float()
        for place, start in zip(places, pack.starts, strict=True):
            own = states[start[0] : start[0] + len(ids[place])]
            found["last"][place], found["mean"][place] = own[-1].cpu().numpy(), own.mean(0).cpu().numpy()
        if on_progress is not None:
            on_progress(len(places))
    return found, sum(len(a) < len(b) for a, b in zip(ids, whole, strict=True))


def layer_means(
    model: Any, tokenizer: Any, texts: Sequence[str], limit: int, on_progress: Progress | None = None
) -> np.ndarray:
    """Hidden states of texts, averaged over their tokens and over all layers, shape (n, hidden), float32.

    Args:
        model: An encoder's or decoder's transformer, without head, as :func:`load_backbone` gives it.
        tokenizer: Its tokenizer.
        texts: Each is read alone.
        limit: Tokens at which a text is cut.
        on_progress: Told how many texts are done.

    Source:
        Garbas et al. 2024, "TransformerRanker", arXiv:2409.05997: over all layers, scores rank models better.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # a decoder's tokens then never see the padding
    rows = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    found = np.zeros((len(texts), model.config.get_text_config().hidden_size), dtype=np.float32)
    for places in batches([len(row) for row in rows]):
        padded = tokenizer.pad({"input_ids": [rows[i] for i in places]}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            layers = model(**padded, output_hidden_states=True).hidden_states[1:]
        mask = padded["attention_mask"][..., None]
        mean = torch.stack([(layer.float() * mask).sum(1) for layer in layers]).mean(0) / mask.sum(1)
        found[places] = mean.cpu().numpy()
        if on_progress is not None:
            on_progress(len(places))
    return found
