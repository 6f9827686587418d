"""DPO on real pairs: does the reward margin grow on pairs that were not trained, and are more of them told apart?

    python benchmarks/preference.py [--train 144] [--test 60]

Questions and answers of an FAQ (package zaragoza-construction-faq, CC BY 4.0). Two questions that stand together in
the file, and so are of one topic, lend each other their answers: each question's own is chosen, the other rejected.
Every answer is thus chosen once and rejected once, and only its fit to the question tells which; the two questions of
a couple are on one side of the split, and intervals resample couples. LoRA on SmolLM2-135M, one epoch, with the
product's own settings. The margin is 0 for every pair before training, by definition. Exits with 1 if its interval
after training does not lie above 0. Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from environment import write_result

MODEL = "smollm2-135m-instruct"
DATA = "pypi:zaragoza-construction-faq==1.2.1/zaragoza_construction_faq/data/faq-en-alpaca.jsonl"
BATCH = 8  # pairs a step


def main() -> None:
    parser = argparse.ArgumentParser(description="DPO on pairs from an FAQ.")
    parser.add_argument("--train", type=int, default=144)
    parser.add_argument("--test", type=int, default=60)
    chosen = parser.parse_args()
    result = measure(chosen.train, chosen.test)
    write_result("preference", result)
    if not result["reached"]:
        sys.exit(f"the reward margin did not grow: {result['reward_margin']}")


def couples() -> list[tuple[Any, Any]]:
    """Two examples that lend each other their answers, shuffled by couple."""
    from tunesmith.records import Example, Message
    from tunesmith.sources import resolve_file

    rows = [json.loads(line) for line in resolve_file(DATA).read_text(encoding="utf-8").splitlines()]
    made = [
        tuple(
            Example(
                f"{number}", (Message("user", own["instruction"]), Message("assistant", own["output"])),
                rejected=(Message("assistant", other["output"]),), group=f"{2 * (number // 2)}",
            )
            for number, own, other in ((i, rows[i], rows[i + 1]), (i + 1, rows[i + 1], rows[i]))
        )
        for i in range(0, len(rows) - 1, 2)
        if rows[i]["output"] != rows[i + 1]["output"]
    ]  # fmt: skip
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def measure(n_train: int, n_test: int) -> dict[str, Any]:
    """Train on some pairs, and compare the model before and after on others."""
    import torch

    from tunesmith.config import Lora, Preference
    from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
    from tunesmith.model.load import load_model
    from tunesmith.tasks import build_task
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives import OBJECTIVES, EncodeSettings
    from tunesmith.train.objectives.preference import RATE

    pairs = [example for couple in couples() for example in couple]
    if len(pairs) < n_test + BATCH + n_train:
        sys.exit(f"the file has {len(pairs)} pairs, but {n_test + BATCH + n_train} are needed")
    test, watched, learned = pairs[:n_test], pairs[n_test : n_test + BATCH], pairs[n_test + BATCH :][:n_train]
    task = build_task(Preference(), ())
    lm = load_model(MODEL, "preference")
    preference = OBJECTIVES["preference"]
    encoding = EncodeSettings(lm.max_length)
    items, validation, held_out = (
        preference.encode(task, lm.tokenizer, part, encoding)[0] for part in (learned, watched, test)
    )
    before = np.array([p.score for p in task.predict(lm, test, "base")])

    torch.manual_seed(0)
    attached = METHODS["lora"].attach(lm.model, Lora())
    lm.model = attached.model
    rate, source = METHODS["lora"].learning_rate(lm.model.config.model_type, lm.model.config.hidden_size)
    rate *= RATE
    objective: Any = preference.build(lm, 1024, True)
    settings = LoopSettings(epochs=1, learning_rate=rate, global_batch_size=BATCH, patience=0, evals_per_epoch=1)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(lm.model, attached.trainable, objective, items, validation, settings, Path(folder))
    lm.model.eval()
    after = np.array([p.score for p in task.predict(lm, test, "tuned")])
    margins = objective.margins(lm.model, held_out).numpy()
    groups = [example.group for example in test]
    rng = np.random.default_rng(0)
    grown = bootstrap_interval(margins, clusters=groups, rng=rng)
    gained = paired_bootstrap(after, before, groups, rng=rng)
    return {
        "model": MODEL, "pairs": {"train": n_train, "test": n_test}, "beta": task.beta, "learning_rate": rate,
        "learning_rate_source": source, "reward_margin": grown.to_json(),
        "reward_accuracy": float((margins > 0).mean()),
        "preference_accuracy": {
            "before": float(before.mean()), "after": float(after.mean()), "difference": gained.difference,
            "low": gained.low, "high": gained.high,
        },
        "seconds": round(trained.seconds, 1), "tokens_per_second": round(trained.tokens / trained.seconds, 1),
        "first_validation_loss": trained.first_validation_loss, "last_validation_loss": trained.last_validation_loss,
        "reached": grown.low > 0,
    }  # fmt: skip


if __name__ == "__main__":
    main()
