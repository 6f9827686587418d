"""Signs in an answer that a model has collapsed: refusal, repetition, broken JSON."""

from __future__ import annotations

import json
import re

REFUSALS = (
    "i cannot", "i can't", "i can not", "i'm sorry", "i am sorry", "sorry, but", "i apologize", "i apologise",
    "i'm unable", "i am unable", "i'm not able", "i am not able", "i won't", "i will not", "i must decline",
    "as an ai", "as a language model",
)  # fmt: skip
REFUSAL_CHARACTERS = 100  # a refusal says so at once; later the same words may belong to a story


def is_refusal(answer: str) -> bool:
    """Whether an answer refuses: one of ``REFUSALS`` stands in its first ``REFUSAL_CHARACTERS`` characters.

    Example:
        >>> is_refusal("I’m sorry, but I can’t help with that."), is_refusal("Bees make honey.")
        (True, False)
    """
    start = answer[:REFUSAL_CHARACTERS].lower().replace("’", "'")
    return any(phrase in start for phrase in REFUSALS)


def distinct_n(text: str, n: int = 2) -> float:
    """Share of a text's runs of ``n`` words that are different ones; 1 where there is none.

    Source:
        Li et al. 2016, "A diversity-promoting objective function for neural conversation models", arXiv:1510.03055.

    Example:
        >>> distinct_n("a b a b a"), distinct_n("a b c d")
        (0.5, 1.0)
    """
    words = text.lower().split()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def is_json(answer: str) -> bool:
    """Whether an answer is one JSON object or list and nothing else; a code fence around it is allowed.

    Example:
        >>> is_json('```json\\n{"a": 1}\\n```'), is_json('Here it is: {"a": 1}'), is_json("7")
        (True, False, False)
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", answer, re.DOTALL)
    try:
        return isinstance(json.loads(fenced[1] if fenced else answer), dict | list)
    except (ValueError, RecursionError):
        return False
