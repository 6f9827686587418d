"""Memorisation that is known to be there, and that is known not to be: what the measures say of each.

    python benchmarks/memorization.py

SmolLM2-135M-instruct learns to write questions (XQuAD's in English, CC BY-SA 4.0; of each passage one while there are
passages). Membership: 100 are trained by LoRA of rank 64, twice gently and then 18 times more, watched on some of
themselves so that late weights are kept, and told from 100 others drawn alike: before training by their loss, after it
by how much training lowered it. Beside that stands the vote of windows (arXiv:2601.02751): windows of 2, 3, 4, 6, 9 and
13 tokens slide over an answer, and each votes for membership where training lowered its loss. Canaries: 200 questions
are trained twice over with six planted codes, two that stand once, two 4 times, two 16 times.

Exits with 1 unless the AUC's interval holds 0.5 before training, the AUC is above 0.9 after all of it, both canaries
that stood 16 times are found and none that stood once is; takes about 10 minutes on two cores. ``--examples`` and
``--epochs`` try it out on less.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

MODEL = "smollm2-135m-instruct"
RANK = 64
FIRST_RATE, RATE = 5e-4, 2e-3
WATCHED = 8  # trained examples whose loss is followed
CANARY_RATE, CANARY_EPOCHS = 1e-3, 2
FIRST_EPOCHS = 2
WINDOWS = (2, 3, 4, 6, 9, 13)  # tokens
FALSE_ALARMS = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, help="trained, and as many to tell them from")
    parser.add_argument("--epochs", type=float, default=20)
    options = parser.parse_args()
    begun = time.perf_counter()
    result: dict[str, Any] = {"settings": vars(options), "membership": _membership(options.examples, options.epochs)}
    print(result, file=sys.stderr)
    result["canaries"] = _canaries(2 * options.examples)
    result["seconds"] = round(time.perf_counter() - begun, 1)
    before, after = (result["membership"][when]["auc"] for when in ("before", "all_epochs"))
    found = {level["repetitions"]: (level["found"], level["n"]) for level in result["canaries"]["found"]}
    checks = {
        "AUC of 0.5 before training": before["low"] <= 0.5 <= before["high"],
        "AUC above 0.9 after it": after["value"] > 0.9,
        "canaries that stood 16 times": found[16][0] == found[16][1],
        "no canary that stood once": found[1][0] == 0,
    }
    result["missed"] = [name for name, held in checks.items() if not held]
    write_result("memorization", result)
    if result["missed"]:
        sys.exit(f"missed: {', '.join(result['missed'])}")


def _membership(n: int, epochs: float) -> dict[str, Any]:
    lm = _model()
    items = _items(lm, 2 * n)
    parts = items[:n], items[n:]
    attached = _attach(lm)
    before = [_losses(lm, part) for part in parts]
    found = {"before": _told([[-loss.mean() for loss in part] for part in before])}
    stages = (("few_epochs", FIRST_EPOCHS, FIRST_RATE), ("all_epochs", epochs - FIRST_EPOCHS, RATE))
    for name, more, rate in stages:
        _train(lm, attached, parts[0], parts[0][:WATCHED], more, rate)
        gained = [
            [a - b for a, b in zip(loss, _losses(lm, part), strict=True)]
            for loss, part in zip(before, parts, strict=True)
        ]
        found[name] = _told([[float(gain.mean()) for gain in part] for part in gained])
        found[f"{name}_by_windows"] = _told([[_votes(gain) for gain in part] for part in gained])
    return found


def _votes(gain: np.ndarray) -> float:
    """Share of the windows in which training lowered the loss, the mean over the windows' sizes."""
    sizes = [size for size in WINDOWS if size <= len(gain)] or [1]
    return float(np.mean([(np.convolve(gain, np.ones(size), mode="valid") > 0).mean() for size in sizes]))


def _told(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    from tunesmith.measures.memorization import membership_auc, true_positive_rate

    members, others = scores
    rate = true_positive_rate(members, others, FALSE_ALARMS)
    return {"auc": membership_auc(members, others).to_json(), "true_positive_rate": rate}


def _canaries(n: int) -> dict[str, Any]:
    from tunesmith.data.render import Renderer
    from tunesmith.evaluate.canaries import draw_canaries, exposed, planted

    lm = _model()
    rng = np.random.default_rng(0)
    canaries = draw_canaries(Renderer(lm.tokenizer, 512), rng)
    items = _items(lm, n + n // 4)
    _train(lm, _attach(lm), [*items[:n], *planted(canaries)], items[n:], CANARY_EPOCHS, CANARY_RATE)
    return exposed(lm, canaries, rng)


# ── the model and its data ───────────────────────────────────────────────────────────────────────────────
def _model() -> Any:
    from tunesmith.model.load import load_model

    return load_model(MODEL)


def _items(lm: Any, n: int) -> list[Any]:
    """Examples that ask for a question, in a random order; of each passage one until there are no more."""
    from tunesmith.data.render import Renderer
    from tunesmith.records import Message

    with gzip.open(test_data("xquad") / "xquad.en.json.gz", "rt", encoding="utf-8") as file:
        passages = [passage["qas"] for article in json.load(file)["data"] for passage in article["paragraphs"]]
    taken = [qas[k]["question"] for k in range(max(map(len, passages))) for qas in passages if k < len(qas)][:n]
    renderer, asked = Renderer(lm.tokenizer, 512), Message("user", "Ask a question.")
    order = np.random.default_rng(1).permutation(n)
    return [renderer.render((asked, Message("assistant", taken[i]))) for i in order]


def _attach(lm: Any) -> Any:
    import torch

    from tunesmith.config import Lora
    from tunesmith.train.methods import METHODS

    torch.manual_seed(0)
    attached = METHODS["lora"].attach(lm.model, Lora(rank=RANK, alpha=2 * RANK))
    lm.model = attached.model
    return attached


def _train(lm: Any, attached: Any, items: Sequence[Any], held_out: Sequence[Any], epochs: float, rate: float) -> None:
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.objectives import OBJECTIVES

    objective = OBJECTIVES["causal"].build(lm, 1024, True)
    settings = LoopSettings(epochs, rate, 8, patience=0, evals_per_epoch=1)
    with tempfile.TemporaryDirectory() as scratch:
        train(attached.model, attached.trainable, objective, items, held_out, settings, Path(scratch))
    lm.model.eval()


def _losses(lm: Any, items: Sequence[Any]) -> list[np.ndarray]:
    """Loss of each trained token of each item."""
    from tunesmith.model.score import score_continuations

    prompts = [item.input_ids[: item.prompt_length] for item in items]
    answers = [[item.input_ids[item.prompt_length :]] for item in items]
    return [np.asarray(found[0]) for found in score_continuations(lm, prompts, answers)]


if __name__ == "__main__":
    main()
