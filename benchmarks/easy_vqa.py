"""A small vision–language model, assembled and tuned, against what can be answered without looking: easy-VQA.

    python benchmarks/easy_vqa.py [KEY=VALUE ...]

The project file is examples/easy-vqa.yaml, its settings overridden by the arguments. Questions about one image stand
in one split. Two baselines see no image: the most frequent answer of the training questions, and for each wording of a
question its most frequent answer in training, which is as much as the words alone can tell. Differences are paired,
with images as clusters. Exits with 1 if the tuned model is not above both, by the lower end of the interval.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from environment import write_result

from tunesmith import Example, Prediction, Run, read_config, run
from tunesmith.evaluate.compare import compare, metric_interval
from tunesmith.run import read_examples, read_predictions

METRIC = "exact_match"
PROJECT = Path(__file__).resolve().parent.parent / "examples" / "easy-vqa.yaml"
KINDS = {"yes": "yes or no", "no": "yes or no", "circle": "shape", "rectangle": "shape", "triangle": "shape"}


def main() -> None:
    config = read_config(PROJECT, tuple(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        report = run(config, folder)
        directory = Run(folder)
        entries = {entry["id"]: entry for entry in report["candidates"]}
        tuned_id = next(name for name in entries if name.startswith("tune/"))
        found = {name: read_predictions(directory.candidate(name) / "predictions.parquet") for name in entries}
        train, test = (read_examples(directory.split(part)) for part in ("train", "test"))
    tuned = found[tuned_id]
    baselines = {"majority": found["baseline/majority"], "text_only": _by_wording(train, test, tuned)}
    result = {
        "overrides": sys.argv[1:], "train": len(train), "test": len(test),
        "images_in_test": len({example.image for example in test}),
        "accuracy": {
            name: metric_interval(predictions, METRIC, np.random.default_rng(1)).to_json()
            for name, predictions in {"tuned": tuned, **baselines}.items()
        },
        "tuned_by_kind": _by_kind(tuned),
        "train_seconds": entries[tuned_id]["train_seconds"],
        "images_in_train": len({example.image for example in train}),
        "trained_questions_per_minute": round(60 * len(train) / entries[tuned_id]["train_seconds"], 1),
        "trainable_parameters": entries[tuned_id]["trainable_parameters"],
    }  # fmt: skip
    gains = {name: compare(tuned, other, METRIC, np.random.default_rng(2)) for name, other in baselines.items()}
    result["tuned_minus"] = {
        name: {"difference": gain.difference, "low": gain.low, "high": gain.high, "p_value": gain.p_value}
        for name, gain in gains.items()
    }
    reached = all(gain.low > 0 for gain in gains.values())
    write_result("easy_vqa", {**result, "reached": reached})
    if not reached:
        sys.exit("the tuned model is not above the baselines that see no image")


def _by_wording(train: Sequence[Example], test: Sequence[Example], judged: Sequence[Prediction]) -> list[Prediction]:
    """Answers from the question's words alone."""
    overall = Counter(example.answer for example in train)
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        known[example.prompt[-1].content][example.answer] += 1
    clusters = {prediction.example_id: prediction.cluster for prediction in judged}
    made = []
    for example in test:
        counts = known.get(example.prompt[-1].content) or overall
        answer = min(counts, key=lambda a: (-counts[a], a))
        score = float(answer == example.answer)
        made.append(Prediction(example.id, "text_only", answer, example.answer, score, cluster=clusters[example.id]))
    return made


def _by_kind(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        kinds[KINDS.get(prediction.target, "colour")].append(prediction.score)
    return {kind: {"accuracy": float(np.mean(scores)), "n": len(scores)} for kind, scores in kinds.items()}


if __name__ == "__main__":
    main()
