"""Is a film review's sentence positive or negative? The task-specific methods on two models: Sentence Polarity.

    python benchmarks/polarity.py [--train 2000] [--test 1066] [--parts smollm2-135m-instruct,minilm-l6] [--out FOLDER]

Reads nltk_sentence_polarity/sentence_polarity.zip (5,331 sentences of each kind; Pang and Lee 2005, CC BY 4.0) from the
folder TUNESMITH_TEST_DATA, by default shared/data beside the repository. The decoder is asked, shown examples, and
tuned with LoRA; the encoder is tuned by head, gradual and full; the embedding candidate stands beside both, and all are
judged on the same sentences. Differences are paired. Exits with 1 if the tuned decoder is not above asking it, by the
lower end of the interval. Runs are kept in ``--out``, so that what was interrupted goes on. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

METHODS = {"smollm2-135m-instruct": ["lora"], "minilm-l6": ["head", "gradual", "full"]}
CANDIDATES = {"smollm2-135m-instruct": ["baseline", "prompt", "embedding", "tune"], "minilm-l6": ["tune"]}
ASKED, TUNED = "prompt/zero-shot", "tune/smollm2-135m-instruct/lora"
LABELS = {"neg": "negative", "pos": "positive"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1066)
    parser.add_argument("--parts", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs") / "polarity")
    chosen = parser.parse_args()
    file = _write(test_data("nltk_sentence_polarity") / "sentence_polarity.zip", chosen.out)
    result = _measure([_run(model, file, chosen) for model in chosen.parts.split(",")])
    write_result("polarity", {"train": chosen.train, "test": chosen.test, **result})
    if not result["reached"]:
        sys.exit(f"the tuned decoder is not above asking it: {result['differences']}")


def _write(source: Path, out: Path) -> Path:
    """Both kinds in one file, in the order in which they stand."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "sentences.jsonl"
    with zipfile.ZipFile(source) as archive, file.open("w", encoding="utf-8") as handle:
        for kind, label in LABELS.items():
            text = archive.read(f"sentence_polarity/rt-polarity.{kind}").decode("latin-1")
            for line in text.splitlines():
                handle.write(json.dumps({"text": line.strip(), "label": label}, ensure_ascii=False) + "\n")
    return file


def _run(model: str, file: Path, chosen: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    from tunesmith import parse_config, run

    config = parse_config({
        "task": {
            "kind": "classification",
            "instruction": "Say whether the sentence from a film review is positive or negative.",
        },
        "model": model, "method": METHODS[model], "candidates": CANDIDATES[model], "forgetting": "off",
        "data": {
            "train": str(file), "train_limit": chosen.train, "validation_size": 200, "test_size": chosen.test,
        },
    })  # fmt: skip
    place = chosen.out / f"{model}-{chosen.train}-{chosen.test}"
    return place, run(config, place, _told)


def _measure(runs: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    from tunesmith.evaluate.compare import compare
    from tunesmith.run import Run, read_predictions

    entries, answers, verdicts = {}, {}, {}
    for place, report in runs:
        verdicts[place.name] = report["verdict"]
        for entry in report["candidates"]:
            if entry["status"] != "ok":
                sys.exit(f"{place}: {entry['id']} failed: {entry['reason']}")
            entries[entry["id"]] = {
                "accuracy": entry["metrics"]["accuracy"], "train_seconds": entry["train_seconds"],
                "trainable_parameters": entry["trainable_parameters"],
            }  # fmt: skip
            answers[entry["id"]] = read_predictions(Run(place).candidate(entry["id"]) / "predictions.parquet")
    differences = {}
    pairs = [(name, other) for name in answers for other in (ASKED, "embedding/minilm-l6") if name.startswith("tune/")]
    for name, other in pairs:
        if other in answers:
            gain = compare(answers[name], answers[other], "accuracy", np.random.default_rng(2))
            differences[f"{name} - {other}"] = {
                "difference": gain.difference, "low": gain.low, "high": gain.high, "p_value": gain.p_value,
            }  # fmt: skip
    asked = differences.get(f"{TUNED} - {ASKED}")
    return {
        "candidates": entries, "differences": differences, "verdicts": verdicts,
        "reached": asked is None or asked["low"] > 0,
    }  # fmt: skip


def _told(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    if total == 0:
        print(stage, file=sys.stderr)


if __name__ == "__main__":
    main()
