from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from tunesmith.evaluate.collapse import (
    JSON_REQUESTS,
    REQUESTS,
    TOPICS,
    Answer,
    collapse,
    general_prompts,
    leaves_english,
    render_answers,
    write_answers,
)
from tunesmith.measures.collapse import distinct_n, is_json, is_refusal
from tunesmith.model.load import load_model


def answers(texts: list[str], structured: list[str]) -> list[Answer]:
    return [Answer(t, len(t.split()), False) for t in texts] + [Answer(t, 3, True) for t in structured]


def test_requests_are_fixed_and_as_different_as_they_can_be() -> None:
    full = general_prompts("full")
    assert len({text for text, _ in full}) == len(full) == 256 + 64
    assert general_prompts("quick")[:32] == full[:32]
    quick = [text for text, asked in general_prompts("quick") if not asked]
    assert set(Counter(topic for topic in TOPICS for text in quick if re.search(rf"\b{topic}\b", text)).values()) == {2}
    assert sum(asked for _, asked in full) == 64 == len(JSON_REQUESTS) * len(TOPICS)
    assert len(REQUESTS) * len(TOPICS) == 256


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I’m sorry, I can't do that.", True), ("As an AI language model, I have no view.", True),
        ("Whales sing.", False), ("Once upon a time " * 10 + "I cannot swim, said the bee.", False),
    ],
)  # fmt: skip
def test_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses


@pytest.mark.parametrize(
    ("text", "leaves"),
    [
        ("The moon is a body that orbits the Earth.", False), ("Moon.", False), ("", False), ("42", False),
        ("Der Mond ist ein Körper, der die Erde umkreist.", True), ("La lune est une roche dans le ciel.", True),
        ("El pan es una comida que se come con sal.", True), ("月は地球の衛星です。", True),
        ("The French say: le pain est bon, and that is that of the house.", False),
    ],
)  # fmt: skip
def test_other_languages(text: str, leaves: bool) -> None:
    assert leaves_english(text) is leaves


def test_repetition_and_json() -> None:
    assert distinct_n("no no no no no") == 0.25
    assert distinct_n("one") == 1
    assert distinct_n("a b c a b c", 3) == 3 / 4
    assert is_json(' ["a"] ') and is_json('```\n{"a": 1}\n```')
    assert not is_json('{"a": 1') and not is_json('"a"') and not is_json("") and not is_json("[" * 100_000)


def test_what_got_worse_is_said_and_what_did_not_is_not(rng: np.random.Generator) -> None:
    story = [f"Once upon a time the bee {i} flew to the moon and back in a day." for i in range(40)]
    good = answers(story, ['{"a": 1}'] * 16)
    assert not any(probe["worse"] for probe in collapse(good, good, rng).values())
    bad = answers(["I cannot help you with that, no."] * 20 + ["der die das ist nicht gut"] * 20, ["a: 1"] * 16)
    found = collapse(good, bad, rng)
    assert {name for name, probe in found.items() if probe["worse"]} == {
        "refusal", "other_language", "valid_json", "length",
    }  # fmt: skip
    assert (found["refusal"]["base"], found["refusal"]["tuned"], found["refusal"]["n"]) == (0, 0.5, 40)
    assert (found["valid_json"]["difference"], found["valid_json"]["n"]) == (-1, 16)
    loop = answers(["bee bee bee bee bee bee bee bee bee bee bee bee"] * 40, ['{"a": 1}'] * 16)
    assert {name for name, probe in collapse(good, loop, rng).items() if probe["worse"]} == {"distinct_2"}
    assert not any(probe["worse"] for probe in collapse(bad, good, rng).values())  # better is not worse


def test_intervals_against_scipy(rng: np.random.Generator) -> None:
    generator = np.random.default_rng(3)
    before, after = generator.integers(20, 60, 64), generator.integers(10, 60, 64)
    base, tuned = (
        [Answer("x " * n, int(n), False) for n in part] + [Answer("{}", 1, True)] for part in (before, after)
    )
    found = collapse(base, tuned, rng)["length"]
    change = (after - before).astype(float)
    half = norm.ppf(0.975) * change.std(ddof=1) / math.sqrt(len(change))
    assert found["difference"] == pytest.approx(change.mean())
    assert found["low"] == pytest.approx(change.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(change.mean() + half, abs=0.1 * half)


def test_answers_are_the_models_own_and_are_found_again(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    prompts = general_prompts("quick")[:3] + general_prompts("quick")[-2:]
    written = write_answers(lm, prompts)
    assert [answer.json_asked for answer in written] == [False] * 3 + [True] * 2
    assert written == write_answers(lm, prompts)
    for item, answer in zip(render_answers(lm, prompts, written), written, strict=True):
        assert item.input_ids[item.prompt_length :] == lm.tokenizer(answer.text, add_special_tokens=False).input_ids
        assert item.labels[item.prompt_length :] == item.input_ids[item.prompt_length :]
