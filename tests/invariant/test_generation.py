"""Answers in a batch behind a shared start = each prompt answered alone, for every family; the start computed once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from invariant.test_packing import FAMILIES, build
from tunesmith.model.generate import generate

START = list(range(30, 60))
PROMPTS = [[*START, *tail] for tail in ([10, 11], [12, 13, 14, 15, 16, 17], [18], [10, 11, 19])]
WINDOWED = {"mistral", "gemma3"}


def language_model(name: str) -> tuple[Any, list[int]]:
    """What generate asks of a language model, and the sizes of what is fed to it, in order."""
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that answers differ and hang on the prompt
    fed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: fed.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True
    )
    tokenizer = SimpleNamespace(
        eos_token_id=2, pad_token_id=0, decode=lambda ids, skip_special_tokens: " ".join(map(str, ids))
    )
    return SimpleNamespace(model=model, tokenizer=tokenizer, device=torch.device("cpu")), fed


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_start_gives_the_same_answers_as_each_prompt_alone(name: str) -> None:
    lm, fed = language_model(name)
    together = generate(lm, PROMPTS, 12)
    computed = sum(fed)
    alone = [generate(lm, [prompt], 12)[0] for prompt in PROMPTS]
    assert together == alone
    assert len({answer.text for answer in alone}) > 1
    if name in WINDOWED:  # padding would fill the window, so that each prompt is computed whole
        assert fed[0] == len(PROMPTS) * max(map(len, PROMPTS))
    else:
        assert fed[0] == len(START)
        assert computed < len(START) + len(PROMPTS) * (6 + 12)


def test_prompts_with_little_in_common_are_computed_whole() -> None:
    lm, fed = language_model("llama")
    generate(lm, [prompt[20:] for prompt in PROMPTS], 2)
    assert fed[0] == len(PROMPTS) * 16
