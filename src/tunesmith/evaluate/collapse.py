"""What a model answers to harmless general requests, before and after: whether it still talks.

The requests are fixed. The base model's answers are also what the divergence from the base is measured on, away from
the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.measures.collapse import distinct_n, is_json, is_refusal
from tunesmith.measures.language import language_of
from tunesmith.measures.uncertainty import paired_bootstrap, paired_shares
from tunesmith.records import Message

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered
    from tunesmith.model.load import LanguageModel

PROMPTS = {"quick": (32, 16), "standard": (128, 32), "full": (256, 64)}  # requests, and of JSON
ANSWER_TOKENS = 64  # an answer is cut there
SHORT = 0.5  # a mean length that surely fell by more than this share counts as worse

TOPICS = (
    "the moon", "honey bees", "bicycles", "the Roman Empire", "bread", "rivers", "volcanoes", "chess", "coffee",
    "trains", "whales", "the human heart", "paper", "rain", "gardens", "music",
)  # fmt: skip
REQUESTS = (
    "What is most interesting about {}?",
    "Explain {} to a ten-year-old child.",
    "Write a short story about {}.",
    "List three facts about {}.",
    "Write a poem of four lines about {}.",
    "Give me advice for a school project about {}.",
    "Write a friendly e-mail that invites a colleague to a talk about {}.",
    "What would a museum of {} show?",
    "Why do people care about {}?",
    "Ask me three quiz questions about {}.",
    "What do people often get wrong about {}?",
    "Suggest a title for a book about {} and say what is in it.",
    "Describe {} in one paragraph.",
    "How did people in the past think about {}?",
    "Compare {} with something similar.",
    "What would you teach first about {}?",
)
JSON_REQUESTS = (
    'Write a JSON object with the keys "topic" and "fact" about {}. Answer with the JSON only.',
    "Give three words about {} as a JSON list of strings. Answer with the JSON only.",
    'Describe {} as a JSON object with the keys "name" and "kind". Answer with the JSON only.',
    'Write a question about {} and its answer as a JSON object with the keys "question" and "answer", nothing else.',
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, how many tokens it took, and whether JSON was asked for."""

    text: str
    tokens: int
    json_asked: bool


def general_prompts(tier: str) -> list[tuple[str, bool]]:
    """The requests of a tier, and of each whether it asks for JSON; forms and topics come as evenly as they can."""
    plain, structured = PROMPTS[tier]
    return [(_nth(REQUESTS, i), False) for i in range(plain)] + [
        (_nth(JSON_REQUESTS, i), True) for i in range(structured)
    ]


def _nth(forms: Sequence[str], i: int) -> str:
    """Every form with every topic once, before any pair comes again."""
    row, form = divmod(i, len(forms))
    return forms[form].format(TOPICS[(form + 4 * row + row // 4) % len(TOPICS)])


def write_answers(
    lm: LanguageModel, prompts: Sequence[tuple[str, bool]], progress: Callable[[int], None] | None = None
) -> list[Answer]:
    """Answer each request greedily, in at most ``ANSWER_TOKENS`` tokens.

    Raises:
        DataError: If the model's template takes no conversation of one user message.
    """
    from tunesmith.model.generate import generate

    found = generate(lm, _prompt_ids(lm, prompts), ANSWER_TOKENS, progress)
    return [Answer(a.text, a.completion_tokens, asked) for a, (_, asked) in zip(found, prompts, strict=True)]


def render_answers(lm: LanguageModel, prompts: Sequence[tuple[str, bool]], answers: Sequence[Answer]) -> list[Rendered]:
    """Requests with the answers behind them, as the places where answers are predicted are found in."""
    from tunesmith.data.render import IGNORE_INDEX, Rendered

    rendered = []
    for shown, answer in zip(_prompt_ids(lm, prompts), answers, strict=True):
        written = list(lm.tokenizer(answer.text, add_special_tokens=False).input_ids)
        rendered.append(Rendered([*shown, *written], [IGNORE_INDEX] * len(shown) + written, len(shown)))
    return rendered


def _prompt_ids(lm: LanguageModel, prompts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    from tunesmith.data.render import Renderer

    renderer = Renderer(lm.tokenizer, lm.max_length)
    return [renderer.prompt((Message("user", text),)) for text, _ in prompts]


def collapse(base: Sequence[Answer], tuned: Sequence[Answer], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """What changed in the answers, tuned against base, prompt by prompt; each with its 95 % interval.

    ``worse`` says that it surely changed for the worse: more refusals or answers that are not English, less valid
    JSON or variety, answers of less than half the length.

    Args:
        base: The base model's answers.
        tuned: The tuned model's, to the same requests in the same order.
        rng: Source of the resamples.
    """
    plain = [(a, b) for a, b in zip(tuned, base, strict=True) if not a.json_asked]
    structured = [(a, b) for a, b in zip(tuned, base, strict=True) if a.json_asked]
    found = {
        "refusal": _shares(plain, is_refusal),
        "other_language": _shares(plain, leaves_english),
        "valid_json": _shares(structured, is_json),
        "length": _means(plain, lambda a: float(a.tokens), "tokens", rng),
        "distinct_2": _means(plain, lambda a: distinct_n(a.text), "share of pairs of words", rng),
    }
    is_worse = {
        "refusal": found["refusal"]["low"] > 0,
        "other_language": found["other_language"]["low"] > 0,
        "valid_json": found["valid_json"]["high"] < 0,
        "length": found["length"]["high"] < -SHORT * found["length"]["base"],
        "distinct_2": found["distinct_2"]["high"] < 0,
    }
    return {name: {**values, "worse": is_worse[name]} for name, values in found.items()}


def leaves_english(text: str) -> bool:
    """Whether a text is in another language than English, and which one can be told."""
    return language_of(text) not in (None, "English")


def _shares(pairs: Sequence[tuple[Answer, Answer]], shows: Callable[[str], bool]) -> dict[str, Any]:
    signs = [(shows(tuned.text), shows(base.text)) for tuned, base in pairs]
    change = paired_shares(
        signs.count((True, True)), signs.count((True, False)), signs.count((False, True)), len(signs)
    )
    after, before = (sum(sign) / len(signs) for sign in zip(*signs, strict=True))
    return {"base": before, "tuned": after, "difference": change.value, "low": change.low, "high": change.high,
            "n": change.n, "unit": "share of answers"}  # fmt: skip


def _means(
    pairs: Sequence[tuple[Answer, Answer]], measure: Callable[[Answer], float], unit: str, rng: np.random.Generator
) -> dict[str, Any]:
    after, before = ([measure(pair[i]) for pair in pairs] for i in (0, 1))
    change = paired_bootstrap(after, before, rng=rng)
    return {"base": float(np.mean(before)), "tuned": float(np.mean(after)), "difference": change.difference,
            "low": change.low, "high": change.high, "n": change.n, "unit": unit}  # fmt: skip
