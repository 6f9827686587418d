"""Nine small tasks in one model against nine models: instruction induction, SmolLM2-135M, LoRA.

    python benchmarks/multitask.py [--run DIR]

Reads instruction_induction/induce/*.json.gz (Honovich et al. 2022, arXiv:2205.10782, Apache-2.0) from the folder
TUNESMITH_TEST_DATA, by default shared/data beside the repository. Each task gets its own instruction, 240 training, 40
validation and 100 test examples; answers are judged by exact match, greedy decoding. Prints, task by task, zero-shot,
trained alone and trained together, with the paired difference and its interval. Stopped and started again with the same
--run, it goes on. Takes about 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment import test_data, write_result

TASKS = {
    "active_to_passive": "Write the sentence in passive form.",
    "antonyms": "Write a word that means the opposite.",
    "diff": "Subtract the second number from the first.",
    "first_word_letter": "Write the first letter of the word.",
    "letters_list": "Spell the word, with spaces between its letters.",
    "num_to_verbal": "Write the number in English words.",
    "sentiment": "Say whether the review is positive or negative.",
    "singular_to_plural": "Write the plural of the word.",
    "taxonomy_animal": "Write the animals that appear in the list, in alphabetical order.",
}
TRAIN, VALIDATION, TEST = 240, 40, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="Folder to keep the run in; a run that is there goes on.")
    parser.add_argument("--train", type=int, default=TRAIN)
    parser.add_argument("--test", type=int, default=TEST)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    arguments = parser.parse_args()
    source = test_data("instruction_induction") / "induce"
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.run or Path(temporary)
        report = run(source, folder, arguments.tasks, arguments.train, arguments.test)
    whole = arguments.tasks == list(TASKS) and (arguments.train, arguments.test) == (TRAIN, TEST)
    write_result("multitask" if whole else "multitask_part", summary(report))


def run(source: Path, folder: Path, names: list[str], train: int, test: int) -> dict[str, Any]:
    """The whole path of ``tunesmith run`` on a mixture of the tasks."""
    import tunesmith
    from tunesmith.config import parse_any_config

    folder.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for name in names:
        file = folder / f"{name}.jsonl"
        with gzip.open(source / f"{name}.json.gz", "rt", encoding="utf-8") as stored:
            rows = json.load(stored)["examples"].values()
        lines = (json.dumps({"prompt": row["input"], "completion": row["output"]}) for row in rows)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        tasks[name] = {
            "kind": "generation", "instruction": TASKS[name], "metric": "exact_match", "max_new_tokens": 40,
            "data": {"train": str(file), "train_limit": train, "validation_size": VALIDATION, "test_size": test},
        }  # fmt: skip
    config = parse_any_config({
        "tasks": tasks, "model": "smollm2-135m-instruct", "method": "lora", "candidates": ["prompt", "tune"],
        "train": {"epochs": 3}, "forgetting": "off",
    })  # fmt: skip
    return tunesmith.run(config, folder / "run", told)


def told(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    if not total or done == total:
        print(stage, file=sys.stderr)


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What the report says, task by task."""
    tasks = {}
    for name, task in report["tasks"].items():
        values = {candidate.split("/")[0]: value for candidate, value in task["metrics"].items()}
        values["prompt"] = task["metrics"]["prompt/zero-shot"]
        tasks[name] = {
            "zero_shot": values["prompt"], "alone": values.get("tune"), "together": values.get("multi"),
            "together_minus_alone": next((c for c in task["comparisons"] if c["b"].startswith("tune/")), None),
            "together_minus_zero_shot": next((c for c in task["comparisons"] if c["b"].startswith("prompt/")), None),
        }  # fmt: skip
    gradients = next(iter(report["gradients"].values()), None)
    return {"tasks": tasks, "verdict": report["verdict"], "rates": report["rates"], "gradients": gradients}


if __name__ == "__main__":
    main()
