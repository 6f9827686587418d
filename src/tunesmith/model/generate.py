"""Batched greedy decoding with a key–value cache, by transformers' own generate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.model.load import LanguageModel
from tunesmith.model.score import shared_start

BATCH_TOKENS = 4096  # prompt tokens decoded side by side
SHARED_TOKENS = 16  # a shorter common start is not worth a cache of its own


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer. ``truncated`` means that it was cut at the token limit, not ended by the model."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Answer each prompt greedily, until the model ends its turn or ``max_new_tokens`` are written.

    The longest common start of all prompts, such as a few-shot prompt's examples, is computed once and its keys and
    values reused. Prompts are batched by length, padded on the left; the answers come back in the order asked.
    """
    results: list[Generated | None] = [None] * len(prompts)
    ends = end_tokens(lm)
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("sdpa")
    try:
        shared, cache = _shared_cache(lm, prompts)
        for group in _batches([len(prompt) for prompt in prompts]):
            batch = [prompts[i] for i in group]
            for index, answer in zip(
                group, _generate_batch(lm, batch, max_new_tokens, ends, shared, cache), strict=True
            ):
                results[index] = answer
            if on_progress is not None:
                on_progress(len(group))
    finally:
        lm.model.set_attn_implementation(before)
    return [result for result in results if result is not None]


def end_tokens(lm: LanguageModel) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [lm.tokenizer.eos_token_id, *several] if token is not None})


def _shared_cache(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[int, Any]:
    """How many tokens all prompts begin with, and the model's cache of them; 0 and None where it does not pay.

    Nor where a layer sees a window only: padding stands between the start and the rest, and would fill the window.
    """
    from transformers import DynamicCache

    start = shared_start(prompts)
    settings = lm.model.config.get_text_config()
    windows = {*(getattr(settings, "layer_types", None) or ())} - {"full_attention"}
    if len(start) < SHARED_TOKENS or windows or getattr(settings, "sliding_window", None):
        return 0, None
    cache = DynamicCache(config=settings)
    with torch.no_grad():
        lm.model(torch.tensor([start], device=lm.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return len(start), cache


def _generate_batch(
    lm: LanguageModel, prompts: list[Sequence[int]], max_new_tokens: int, ends: list[int], shared: int, cache: Any
) -> Iterator[Generated]:
    longest = max(len(prompt) for prompt in prompts)
    pad = lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else ends[0]
    ids = torch.full((len(prompts), longest), pad, device=lm.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        own = torch.tensor(prompt[shared:], device=lm.device)
        ids[row, :shared] = torch.tensor(prompt[:shared], device=lm.device)
        ids[row, longest - len(own) :] = own
        mask[row, :shared] = 1
        mask[row, longest - len(own) :] = 1
    kept = copy.deepcopy(cache)
    if kept is not None:
        kept.batch_repeat_interleave(len(prompts))
    settings: dict[str, Any] = {
        "do_sample": False,
        "num_beams": 1,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    with torch.no_grad():
        out = lm.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad,
            past_key_values=kept, **settings,
        )  # fmt: skip
    for prompt, row in zip(prompts, out[:, longest:].tolist(), strict=True):
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        answer = row if stop is None else row[:stop]
        yield Generated(lm.tokenizer.decode(answer, skip_special_tokens=True), len(prompt), len(answer), stop is None)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if group and (len(group) + 1) * lengths[index] > BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
