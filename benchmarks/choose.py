"""Does ``tunesmith choose`` pick the model that tuning all of them would have picked?

    python benchmarks/choose.py [--tasks NAME …] [--models NAME …] [--train 320] [--out runs/choose]

Four models (MiniLM; SmolLM2 whole, and cut off after half its layers; Gemma 3 270M) on four tasks (sarcastic headlines,
BANKING77, sentiment of sentences, spam). The truth is each one tuned by ``tunesmith run`` on ``--train`` examples and
judged on 400 test examples: the encoder gradually, the decoders by LoRA. Runs are kept in ``--out``, every cell in
results/choose.json, so that what was interrupted goes on. For each task whose models are all tuned: Spearman's
correlation of the scores with the truth, top-1 regret (points of accuracy that the choice loses to the best), and the
seconds of choosing as a share of those of tuning all. Reads banking77/, sms_spam/ and uci_sentiment_sentences/ from
TUNESMITH_TEST_DATA, by default shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import RESULTS, test_data, write_result

MINILM, SMOL, HALF, GEMMA = "minilm-l6", "smollm2-135m-instruct", "smollm2-half", "gemma3-270m"
MODELS = (MINILM, HALF, SMOL, GEMMA)
TASKS = ("sarcasm", "banking77", "sentiment", "spam")
SARCASM = "pypi:evals==3.0.1.post1/evals/registry/data/sarcasm/samples.jsonl"


def rows(task: str) -> Iterator[tuple[str, str]]:
    """Texts and labels of a task that is read from the test data."""
    if task == "banking77":
        with (test_data("banking77") / "train.csv").open(encoding="utf-8", newline="") as file:
            yield from ((row["text"], row["category"]) for row in csv.DictReader(file))
        return
    folder = test_data({"sentiment": "uci_sentiment_sentences", "spam": "sms_spam"}[task])
    files = [
        file for file in sorted(folder.rglob("*")) if file.suffix in (".txt", "") and "readme" not in file.name.lower()
    ]
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            first, _, last = line.strip().partition("\t") if task == "spam" else line.strip().rpartition("\t")
            label, text = (first, last) if task == "spam" else (last, first)
            if text.strip() and label in ("ham", "spam", "0", "1"):
                yield text.strip(), {"0": "negative", "1": "positive"}.get(label, label)


def project(task: str, model: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """The project file of a task with a model, as a mapping."""
    source = SARCASM
    if task != "sarcasm":
        chosen.out.mkdir(parents=True, exist_ok=True)
        file = chosen.out / f"{task}.jsonl"
        lines = (json.dumps({"text": text, "label": label}) for text, label in dict.fromkeys(rows(task)))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = str(file)
    labels = {"0": "sincere", "1": "sarcastic"} if task == "sarcasm" else None
    return {
        "task": {"kind": "classification", **({"labels": labels} if labels else {})},
        "data": {"train": source, "train_limit": chosen.train, "validation_size": 200, "test_size": 400},
        "model": place(model, chosen.out), "method": "gradual" if model == MINILM else "lora", "candidates": ["tune"],
        "forgetting": "off", "memorization": "off", "train": {"epochs": 4.0 if model == MINILM else 2.0},
    }  # fmt: skip


def place(model: str, out: Path) -> str:
    """A model's name; of the one that is cut off, its folder, made where it is not there."""
    if model != HALF:
        return model
    folder = out / HALF
    if not (folder / "model.safetensors").is_file():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from tunesmith.sources import resolve_model

        source = resolve_model(SMOL).path
        whole = AutoModelForCausalLM.from_pretrained(source, local_files_only=True)
        whole.model.layers = whole.model.layers[: len(whole.model.layers) // 2]
        whole.config.num_hidden_layers = len(whole.model.layers)
        whole.config.layer_types = None
        whole.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)
    return str(folder.resolve())


def choose(task: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """What ``tunesmith choose`` says of the models."""
    from tunesmith import parse_config
    from tunesmith.search.choose import choose_model

    names = {place(model, chosen.out): model for model in chosen.models}
    found = choose_model(parse_config(project(task, chosen.models[0], chosen)), told, list(names))
    scores = {names[row["name"]]: {k: row[k] for k in ("probe", "h_score", "logme", "zero_shot", "seconds")}
              for row in found["ranked"]}  # fmt: skip
    return {
        "scores": scores,
        "choice": names[found["choice"]],
        "rejected": found["rejected"],
        "seconds": found["seconds"],
    }


def tune(task: str, model: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """The truth: one model tuned and judged."""
    from tunesmith import parse_config, run

    report = run(parse_config(project(task, model, chosen)), chosen.out / f"{task}-{model}-{chosen.train}", told)
    entry = next(c for c in report["candidates"] if c["id"].startswith("tune/"))
    if entry["status"] != "ok":
        return {"status": entry["status"], "reason": entry["reason"]}
    return {
        "accuracy": entry["metrics"]["accuracy"],
        "seconds": entry["estimate"]["actual_seconds"] or entry["train_seconds"],
    }


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Spearman, regret and cost of each task of which all models are tuned."""
    from scipy.stats import spearmanr

    found = {}
    for task, cell in cells.items():
        truth = {model: one["accuracy"]["value"] for model, one in cell["tuned"].items() if "accuracy" in one}
        scored = [model for model in truth if model in cell["chosen"]["scores"]]
        if len(scored) < len(MODELS):
            continue
        of = cell["chosen"]["scores"]
        by = {name: [of[model][name] for model in scored] for name in ("h_score", "logme")}
        by["probe"] = [of[model]["probe"]["score"] for model in scored]
        rank = {name: float(spearmanr(values, list(truth.values())).statistic) for name, values in by.items()}
        spent = sum(one["seconds"] for one in cell["tuned"].values())
        found[task] = {
            "spearman": rank, "regret_points": 100 * (max(truth.values()) - truth[cell["chosen"]["choice"]]),
            "cost_share": cell["chosen"]["seconds"] / spent,
        }  # fmt: skip
    return found


def told(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    if not total:
        print(stage, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path("runs") / "choose")
    chosen = parser.parse_args()
    file = RESULTS / "choose.json"
    cells = json.loads(file.read_text())["tasks"] if file.is_file() else {}
    for task in chosen.tasks:
        cell = cells.setdefault(task, {"chosen": {"scores": {}}, "tuned": {}})
        if set(cell["chosen"]["scores"]) != set(chosen.models):
            cell["chosen"] = choose(task, chosen)
        for model in chosen.models:
            if "accuracy" not in cell["tuned"].get(model, {}):
                cell["tuned"][model] = tune(task, model, chosen)
                write_result("choose", {"train": chosen.train, "summary": summary(cells), "tasks": cells})
    write_result("choose", {"train": chosen.train, "summary": summary(cells), "tasks": cells})


if __name__ == "__main__":
    main()
