"""A run directory as the workflow leaves it, with made-up candidates whose true quality is known."""

import json
from pathlib import Path

import numpy as np
import yaml

from tunesmith.records import Example, Message, Prediction
from tunesmith.run import Run, write_examples, write_json, write_predictions

NOT_RUN = {"status": "not_run", "reason": "not part of this version"}
LABELS = ("billing", "bug report", "cancellation", "feature request", "how-to", "praise")
# id: (share of right answers, seconds to train, seconds per answer, trainable parameters)
CANDIDATES = {
    "baseline/majority": (0.22, 0.0, 0.00001, 0),
    "prompt/zero-shot": (0.47, 0.0, 0.21, 0),
    "prompt/few-shot": (0.58, 0.0, 0.34, 0),
    "embedding/minilm-l6": (0.74, 4.1, 0.006, 2310),
    "tune/smollm2-135m-instruct/lora": (0.83, 338.0, 0.12, 4_884_480),
    "tune/smollm2-135m-instruct/full": (0.84, 702.0, 0.11, 134_515_008),
}


def build_run(
    folder: Path,
    *,
    shares: dict[str, float] | None = None,
    test: int = 500,
    kind: str = "classification",
    seed: int = 0,
    labels: tuple[str, ...] = LABELS,
    failed: tuple[str, ...] = (),
) -> Run:
    """Write every file that the report reads; ``shares`` replaces the candidates' shares of right answers."""
    rng = np.random.default_rng(seed)
    run = Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [labels[i] for i in rng.integers(0, len(labels), test)]
    examples = [make_example(i, target, kind) for i, target in enumerate(targets)]
    write_examples(folder / "splits" / "test.parquet", examples)
    metric = "accuracy" if kind == "classification" else "token_f1"
    write_settings(run, kind, metric, seed)
    chosen = shares or {name: values[0] for name, values in CANDIDATES.items()}
    write_data(run, test, labels if kind == "classification" else None)
    write_plan(run, list(chosen), test)
    luck = rng.random(test)  # easy examples are easy for every candidate
    for name, share in chosen.items():
        _, train_seconds, per_answer, parameters = CANDIDATES.get(name, (0, 10.0, 0.01, 100))
        right = 0.7 * luck + 0.3 * rng.random(test) < np.quantile(0.7 * luck + 0.3 * rng.random(test), share)
        predictions = [
            make_prediction(name, example, ok, labels, kind, rng) for example, ok in zip(examples, right, strict=True)
        ]
        place = run.candidate(name)
        evaluation = {
            "id": name, "status": "ok", "reason": "",
            "baseline": name in ("baseline/majority", "prompt/zero-shot"),
            "metrics": {metric: interval(np.array([p.score for p in predictions]))},
            "trainable_parameters": parameters, "train_seconds": train_seconds,
            "tokens_trained": 123_456 if parameters else 0, "seconds_per_example": per_answer,
            "tokens_per_example": 0 if name.startswith(("baseline", "embedding")) else 61,
            "peak_memory_bytes": 1_400_000_000 if name.startswith("tune") else 310_000_000,
            "bias": NOT_RUN, "memorization": NOT_RUN, "details": {"seed": seed},
        }  # fmt: skip
        if name in failed:
            evaluation |= {"status": "failed", "reason": "the loss was not finite at step 31", "metrics": {}}
        else:
            write_predictions(place / "predictions.parquet", predictions)
            if name.startswith("tune/"):
                evaluation |= tuned_parts(name)
                write_curve(place / "metrics.jsonl", rng)
                (place / ("adapter" if name.endswith("lora") else "model")).mkdir()
        write_json(place / "evaluation.json", evaluation)
    run.count_test_look("evaluate")
    return run


def make_example(i, target, kind):
    text = f"Message {i}: the thing about {target} <b>&amp; more</b>"
    if kind == "classification":
        return Example(f"tickets.csv:{i + 2}", text=text, label=target)
    return Example(f"chat.jsonl:{i + 1}", (Message("user", text), Message("assistant", f"It is {target} then")))


def make_prediction(name, example, ok, labels, kind, rng):
    if kind != "classification":
        answer = example.answer if ok else "It is something else"
        score = 1.0 if ok else 0.5
        return Prediction(example.id, name, answer, example.answer, score, seconds=0.1)
    wrong = [label for label in labels if label != example.answer]
    answer = example.answer if ok else wrong[int(rng.integers(0, len(wrong)) ** 2 / len(wrong))]
    sure = float(rng.uniform(0.4, 0.99))
    rest = (1 - sure) / (len(labels) - 1)
    table = tuple(sure if label == answer else rest for label in labels)
    return Prediction(example.id, name, answer, example.answer, float(ok), nll=0.4, probabilities=table, seconds=0.1)


def interval(scores):
    value = float(scores.mean())
    half = 1.96 * float(scores.std()) / len(scores) ** 0.5
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": len(scores)}


def tuned_parts(name):
    worse = name.endswith("full")
    suites = {
        "general text": {"base": 3.101, "tuned": 3.119 if worse else 3.104,
                         "difference": 0.018 if worse else 0.003, "low": 0.009 if worse else -0.002,
                         "high": 0.027 if worse else 0.008, "n": 100, "unit": "nats/token"},
        "piqa": {"base": 0.66, "tuned": 0.65, "difference": -0.01, "low": -0.06, "high": 0.04, "n": 100,
                 "unit": "accuracy"},
        "openbookqa": {"base": 0.31, "tuned": 0.31, "difference": 0.0, "low": -0.04, "high": 0.04, "n": 100,
                       "unit": "accuracy"},
        "commonsenseqa": {"status": "not_run", "reason": "the suite could not be pulled"},
    }  # fmt: skip
    return {
        "overfitting": {
            "train_loss": 0.21, "validation_loss": 0.38, "gap": 0.17, "low": 0.11, "high": 0.23,
            "best_step": 60, "last_step": 80, "last_minus_best": 0.01, "verdict": "mild",
            "sentence": "Mild overfitting: validation loss in nats per token is 0.17 above training loss "
            "(95 % interval of the difference 0.11 to 0.23).",
            "course": {
                "status": "ok", "n": 128, "best_steps": {"loss": 60, "accuracy": 70}, "selected_step": 60,
                "regret": {"loss": {"value": 0.01, "low": -0.01, "high": 0.03, "n": 128}},
                "case": "noise", "sentence": "Validation loss was lowest at step 60.", "change": "",
            },
        },
        "forgetting": {
            "status": "ok", "verdict": "mild" if worse else "none", "suites": suites,
            "kl_to_base": {"value": 0.041, "low": 0.036, "high": 0.047, "n": 64, "p95": 0.11},
        },
        "details": {"epochs": 2, "learning_rate": 5e-4, "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "license": "apache-2.0", "languages": ["en"]},
    }  # fmt: skip


def write_curve(path, rng):
    with path.open("w") as file:
        for step in range(1, 81):
            loss = 0.25 + 1.9 * float(np.exp(-step / 14)) + 0.06 * float(rng.normal())
            validation = 0.38 + 1.8 * float(np.exp(-step / 14)) + 0.0006 * max(0, step - 60) if step % 10 == 0 else None
            row = {"step": step, "epoch": step / 40, "loss": loss, "validation_loss": validation,
                   "learning_rate": 5e-4, "grad_norm": 1.0, "units_per_second": 300.0,
                   "tokens_per_second": 2500.0, "memory_bytes": 1_400_000_000,
                   "seconds": 4.2 * step}  # fmt: skip
            if step % 10 == 0:
                row["validation_metrics"] = {"accuracy": 0.9 - 0.5 / step, "expected_calibration_error": None}
            file.write(json.dumps(row) + "\n")


def write_settings(run, kind, metric, seed):
    config = {
        "task": {"kind": kind, "instruction": None, "metric": metric}, "data": {"train": "data/tickets.csv"},
        "model": "smollm2-135m-instruct", "method": [{"kind": "lora", "rank": 16}, {"kind": "full"}],
        "seed": seed, "margin": 0.01, "forgetting": "quick",
    }  # fmt: skip
    settings = {
        "format_version": 1, "name": "tickets", "created": "2026-01-01T10:00:00+00:00", "config": config,
        "versions": {"tunesmith": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"cores": 2, "memory_bytes": 25_000_000_000, "accelerator": None},
        "command": "tunesmith run tickets.yaml --out runs/tickets",
    }  # fmt: skip
    run.settings_file.write_text(yaml.safe_dump(settings), encoding="utf-8")


def write_data(run, test, labels):
    counts = {"train": 1280, "validation": 160, "test": test}
    write_json(run.data_file, {
        "format_version": 1, "source": {"train": "data/tickets.csv"}, "rows": sum(counts.values()) + 3,
        "accepted": sum(counts.values()), "rejected": 3,
        "findings": [
            {"check": "exact_duplicates", "severity": "warning", "count": 14, "rows": [3, 9],
             "message": "14 training examples are copies of another one.", "examples": [],
             "fix": "Remove the copies."},
            {"check": "tools", "severity": "info", "count": 2, "rows": [], "message": "2 rows mention tools.",
             "examples": [], "fix": ""},
        ],
        "splits": {part: {"count": n, "sha256": f"{part[0]}" * 64} for part, n in counts.items()},
        "labels": labels and {label: {"train": 200, "validation": 25, "test": test // 6} for label in labels},
    })  # fmt: skip


def write_plan(run, names, test):
    write_json(run.plan_file, {
        "format_version": 1, "facts": {"train": 1280},
        "choices": [
            {"setting": "train.learning_rate", "value": 0.0005,
             "reason": "ten times the rate of full fine-tuning", "source": "LoRA without regret"},
            {"setting": "train.epochs", "value": 2, "reason": "what fits into 10 minutes",
             "source": "budget"},
        ],
        "candidates": [
            {"id": name, "family": name.split("/")[0], "baseline": name == "prompt/zero-shot",
             "reason": "cheap", "estimated_seconds": 10.0, "estimated_memory_bytes": 10**9} for name in names
        ],
        "minimum_detectable_effect": {"points": 4.8, "n": test, "discordance": 0.15},
    })  # fmt: skip
