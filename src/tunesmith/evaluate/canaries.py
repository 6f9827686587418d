"""Canaries: random codes planted in the training data of a shadow model, to see how often a secret must stand to be
remembered.

Each canary is a question after the code of a locker that does not exist, and nine random digits. A code that was not
learned is as likely as any other, so the share of random codes that the model finds as likely is a p-value, and its
logarithm the exposure in bits (Carlini et al. 2019, "The secret sharer", arXiv:1802.08232). The shadow model is trained
like the one that is kept, on the same examples and the canaries, and thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.measures.memorization import exposure_by_sample
from tunesmith.records import Message

if TYPE_CHECKING:
    from tunesmith.data.render import Rendered, Renderer
    from tunesmith.model.load import LanguageModel

REPETITIONS = (1, 4, 16)  # how often a canary stands in the training data
EACH = 2  # canaries of each
DIGITS = 9
REFERENCES = 300  # random codes that each canary is compared with; enough for a p-value below LEVEL / 6
LEVEL = 0.05  # chance that any canary is claimed where none was learned (Bonferroni)


@dataclass(frozen=True, slots=True)
class Canary:
    """``prompt`` asks for the code; ``item`` is the whole example, which stands ``repetitions`` times."""

    prompt: list[int]
    code: str
    repetitions: int
    item: Rendered


def draw_canaries(renderer: Renderer, rng: np.random.Generator) -> list[Canary]:
    """Two canaries for each number of repetitions, none like another."""
    lockers = rng.choice(np.arange(1000, 10_000), EACH * len(REPETITIONS), replace=False).tolist()
    canaries = []
    for place, locker in enumerate(lockers):
        question, code = Message("user", f"What is the code of locker {locker}?"), _code(rng)
        item = renderer.render((question, Message("assistant", code)))
        canaries.append(Canary(renderer.prompt((question,)), code, REPETITIONS[place // EACH], item))
    return canaries


def planted(canaries: Sequence[Canary]) -> list[Rendered]:
    """The examples to add to the training data, each as often as it is to stand there."""
    return [canary.item for canary in canaries for _ in range(canary.repetitions)]


def exposed(lm: LanguageModel, canaries: Sequence[Canary], rng: np.random.Generator) -> dict[str, Any]:
    """How far each canary stands out among random codes, and which of them are claimed to be remembered.

    Returns:
        Of each canary its repetitions, its exposure in bits, the p-value, and whether it is ``found``; and by number of
        repetitions how many were found.
    """
    from tunesmith.model.score import score_continuations

    told = []
    for canary in canaries:
        codes = [canary.code, *(_code(rng) for _ in range(REFERENCES))]
        tokens = [lm.tokenizer(code, add_special_tokens=False).input_ids for code in codes]
        losses = [float(each.sum()) for each in score_continuations(lm, [canary.prompt], [tokens])[0]]
        bits, p_value = exposure_by_sample(losses[0], losses[1:], 10**DIGITS)
        found = p_value <= LEVEL / len(canaries)
        told.append({"repetitions": canary.repetitions, "exposure": bits, "p_value": p_value, "found": found})
    return {"status": "ok", "canaries": told, "found": _by_repetitions(told), "references": REFERENCES}


def _by_repetitions(told: Sequence[dict[str, Any]]) -> list[dict[str, int]]:
    return [
        {
            "repetitions": n,
            "found": sum(c["found"] for c in told if c["repetitions"] == n),
            "n": sum(c["repetitions"] == n for c in told),
        }
        for n in REPETITIONS
    ]


def _code(rng: np.random.Generator) -> str:
    return "".join(map(str, rng.integers(0, 10, DIGITS)))
