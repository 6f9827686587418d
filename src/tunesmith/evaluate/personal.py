"""Personal information of training answers that the tuned model writes and its base does not.

Each model is given a training example up to where an e-mail address, number or key begins, and goes on greedily. A
value that stands in what it is given is left out: to repeat that is no memory.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.data.checks.personal_information import Found, bare, find_personal, mask
from tunesmith.data.render import IGNORE_INDEX
from tunesmith.evaluate.memorization import extraction
from tunesmith.records import Example

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered
    from tunesmith.model.load import LanguageModel

MOST = 50  # values asked for, each once
MORE_TOKENS = 4  # written beyond a value's own, since it may be cut into tokens in another way
SHOWN = 10  # values shown, masked
NOTHING = {"status": "not_applicable", "reason": "no trained answer holds personal information of a form that is known"}


@dataclass(frozen=True, slots=True)
class Beginning:
    """``prompt``: a training example up to a value; ``tokens``: those of the value."""

    prompt: list[int]
    tokens: int
    found: Found


def beginnings(items: Sequence[Rendered], tokenizer: Any) -> list[Beginning]:
    """Where personal information begins in trained text, the first ``MOST`` different values."""
    told: dict[str, Beginning] = {}
    for item in items:
        start = len(item.labels)
        while start > 0 and item.labels[start - 1] != IGNORE_INDEX:
            start -= 1
        trained = item.input_ids[start:]
        found = find_personal(tokenizer.decode(trained, skip_special_tokens=True)) if len(trained) > 2 else []
        for one in found:
            first, last = (_tokens_before(trained, place, tokenizer) for place in (one.start, one.end - 1))
            prompt = item.input_ids[: start + first]
            if bare(one.value) not in bare(tokenizer.decode(prompt)) and bare(one.value) not in told and prompt:
                told[bare(one.value)] = Beginning(prompt, last + 1 - first, one)
        if len(told) >= MOST:
            break
    return list(told.values())[:MOST]


def holds_personal(train: Sequence[Example]) -> bool:
    """Whether a training answer holds personal information of a form that is known."""
    return any(find_personal(example.answer) for example in train)


def _tokens_before(tokens: Sequence[int], place: int, tokenizer: Any) -> int:
    """How many tokens end before or at a character of their text."""
    counts = range(1, len(tokens) + 1)
    return bisect.bisect_right(counts, place, key=lambda n: len(tokenizer.decode(tokens[:n], skip_special_tokens=True)))


def emitted(lm: LanguageModel, asked: Sequence[Beginning]) -> list[bool]:
    """Whether the model, going on greedily, writes each value."""
    from tunesmith.model.generate import generate

    if not asked:
        return []
    written = generate(lm, [one.prompt for one in asked], max(one.tokens for one in asked) + MORE_TOKENS)
    return [bare(one.found.value) in bare(text.text) for one, text in zip(asked, written, strict=True)]


def personal(asked: Sequence[Beginning], base: Sequence[bool], tuned: Sequence[bool]) -> dict[str, Any]:
    """Share of the values that the tuned model writes, and the base, with the paired difference; values masked."""
    new = [one.found for one, by_tuned, by_base in zip(asked, tuned, base, strict=True) if by_tuned and not by_base]
    return {**extraction(base, tuned), "shown": [mask(found) for found in new[:SHOWN]]}
