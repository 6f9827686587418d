"""Read what a run left behind, compare its candidates, and write the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunesmith.config import FORMAT_VERSION, Forgetting
from tunesmith.errors import RunError
from tunesmith.evaluate.bias import bias_of_run
from tunesmith.evaluate.compare import COSTED_PREDICTIONS, LIMITS, candidate_cost, choose, compare_all, read_contender
from tunesmith.evaluate.contamination import asked_suites, contamination
from tunesmith.evaluate.metrics import METRICS, PERCENT, SHARE, item_scores
from tunesmith.measures.metrics import confusion_matrix
from tunesmith.measures.uncertainty import minimum_detectable_effect
from tunesmith.records import Example, Prediction, Split
from tunesmith.report.card import model_card
from tunesmith.report.findings import is_tuned
from tunesmith.report.html import Answer, Curve, Evidence, render_html
from tunesmith.report.learning_curve import more_data
from tunesmith.report.prior import prior
from tunesmith.run import Run, read_examples, read_json, read_predictions, write_atomic, write_json

ANSWERS_SHOWN = 6  # examples per heading
ANSWER_LENGTH = 400  # characters shown of an input or an answer
WRITTEN = ("generation", "translation", "image_text")  # tasks whose answers are texts, to be read side by side
PARTS = ("overfitting", "forgetting", "bias", "memorization")

Json = dict[str, Any]


def write_report(run: Run) -> Json:
    """Compare the candidates of a run and write the verdict.

    Reads run.yaml, data.json, plan.json, splits/, and of every candidate evaluation.json,
    predictions.parquet and metrics.jsonl. Writes report.json, report.html, and a README.md beside the weights
    of every fine-tuned candidate.

    Args:
        run: A run whose candidates were evaluated.

    Returns:
        The content of report.json.

    Raises:
        NotFoundError: If data.json or plan.json is not there.
        RunError: If a file is damaged, or no candidate was evaluated.
        EvaluationError: If candidates answered different test examples.
    """
    settings, data, plan = run.settings(), read_json(run.data_file), read_json(run.plan_file)
    config = settings["config"]
    task, margin = config["task"], config.get("margin")
    candidates = _read_candidates(run, plan)
    predictions = {
        c["id"]: stored for c in candidates if c["status"] == "ok" and (stored := _read_predictions(run, c["id"]))
    }
    for candidate in candidates:
        if candidate["status"] == "ok" and candidate["id"] not in predictions:
            candidate |= {"status": "not_run", "reason": "it has no stored predictions"}
    for candidate in candidates:
        candidate["cost"] = _cost(candidate, config.get("prices"))
        candidate["estimate"] = _estimate(candidate, plan)
    split = Split(_read_split(run, "train"), _read_split(run, "validation"), _read_split(run, "test"))
    bias, audit = bias_of_run(run, config, predictions)
    for candidate in candidates:
        candidate["bias"] = bias.get(candidate["id"], candidate["bias"])
    asked = dict.fromkeys(name for c in candidates for name in (c["forgetting"] or {}).get("suites") or ())
    suites = asked_suites(asked, Forgetting.model_validate(config.get("forgetting") or {}))
    leaks, of_suites = contamination(
        split, data.get("findings", []), config.get("data", {}).get("contamination"), suites, predictions,
        task["metric"], np.random.default_rng([config.get("seed", 0), 8]),
    )  # fmt: skip
    comparisons = compare_all(predictions, task["metric"], np.random.default_rng(config.get("seed", 0)))
    contenders = [read_contender(c, task["metric"], LIMITS | config.get("guardrails", {})) for c in candidates]
    verdict = choose(contenders, comparisons, metric=task["metric"], margin=margin)
    splits = data["splits"]
    report: Json = {
        "format_version": FORMAT_VERSION,
        "name": settings.get("name", run.folder.name),
        "created": settings.get("created", ""),
        "task": {"kind": task["kind"], "metric": task["metric"]},
        "data": {
            **{part: splits[part]["count"] for part in ("train", "validation", "test")},
            "findings": [
                *data.get("findings", []),
                *(f.to_json() for f in of_suites),
                *plan.get("findings", []),
            ],
            "contamination": leaks,
            "rows": data.get("rows"),
            "accepted": data.get("accepted"),
            "rejected": data.get("rejected"),
            "source": data.get("source"),
            "sha256": {part: splits[part]["sha256"] for part in ("train", "validation", "test")},
            "labels": data.get("labels"),
            "bias": audit,
        },
        "candidates": candidates,
        "comparisons": [c.to_json() for c in comparisons],
        "verdict": verdict.to_json(),
        **more_data(run),
        "test_looks": run.test_looks(),
        "minimum_detectable_effect": _planned_effect(plan, splits["test"]["count"], task["metric"]),
        "prior": prior(
            task["kind"],
            splits["train"]["count"],
            len(data.get("task_labels") or ()),
            documents=bool((config.get("rag") or {}).get("documents")),
        ),
        "plan": {"choices": plan.get("choices", []), "candidates": plan.get("candidates", [])},
        "settings": config,
        "command": settings.get("command"),
        "versions": settings.get("versions", {}),
        "hardware": settings.get("hardware", {}),
    }
    write_json(run.report_file, report)
    write_atomic(run.html_file, render_html(report, _evidence(run, report, predictions, task.get("labels") or {})))
    for candidate in candidates:
        if candidate["status"] == "ok" and is_tuned(candidate["id"]):
            _write_card(run, candidate, report)
    return report


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────
def _read_candidates(run: Run, plan: Json) -> list[Json]:
    """Evaluations in the plan's order; what was planned and has none is said not to have run."""
    files = sorted((run.folder / "candidates").glob("*/evaluation.json"))
    found = {evaluation["id"]: evaluation for evaluation in map(read_json, files)}
    if not found:
        raise RunError(f"{run.folder}: no candidate was evaluated, so there is nothing to report. Run it again.")
    planned = {c["id"]: c for c in plan.get("candidates", [])}
    missing = {
        name: {"id": name, "status": "not_run", "reason": "it was planned but not evaluated", "metrics": {},
               "baseline": c.get("baseline", False)}
        for name, c in planned.items()
        if name not in found
    }  # fmt: skip
    everything = found | missing
    order = [*planned, *(name for name in found if name not in planned)]
    return [_complete(everything[name]) for name in order]


def _complete(evaluation: Json) -> Json:
    """An evaluation in which every part that was not measured says so, and why."""
    complete: Json = {"status": "ok", "reason": "", "baseline": False, "metrics": {}} | evaluation
    for key in ("trainable_parameters", "train_seconds", "tokens_trained", "seconds_per_example",
                "tokens_per_example", "peak_memory_bytes"):  # fmt: skip
        complete.setdefault(key, None)
    if complete["status"] != "ok":
        reason = "the candidate has no result"
    elif is_tuned(complete["id"]):
        reason = "no result was stored"
    else:
        reason = "no model was changed"
    for part in PARTS:
        if not complete.get(part):
            complete[part] = {"status": "not_run", "reason": reason}
    return complete


def _cost(candidate: Json, prices: Json | None) -> Json:
    """Time, and money where an hour has a price, to train once and answer 10,000 times."""
    seconds = candidate_cost(candidate["train_seconds"], candidate["seconds_per_example"])
    if not math.isfinite(seconds):
        return {"status": "not_run", "reason": "its time per answer was not measured"}
    money = {} if prices is None else {
        "money": seconds / 3600 * prices["machine_hour"], "currency": prices["currency"],
    }  # fmt: skip
    return {"seconds": seconds, "predictions": COSTED_PREDICTIONS, **money}


def _estimate(candidate: Json, plan: Json) -> Json:
    """What the plan said of a candidate's time and memory; of time, what it took where it ran in one go."""
    planned: Json = next((row for row in plan.get("candidates", []) if row["id"] == candidate["id"]), {})
    took = candidate.get("seconds")
    in_one_go = took is not None and took >= (candidate["train_seconds"] or 0.0)
    return {
        "seconds": planned.get("estimated_seconds"), "memory_bytes": planned.get("estimated_memory_bytes"),
        "actual_seconds": took if in_one_go else None, "actual_memory_bytes": candidate["peak_memory_bytes"],
    }  # fmt: skip


def _read_split(run: Run, part: str) -> tuple[Example, ...]:
    return read_examples(run.split(part)) if run.split(part).is_file() else ()


def _read_predictions(run: Run, candidate: str) -> list[Prediction]:
    path = run.candidate(candidate) / "predictions.parquet"
    return read_predictions(path) if path.is_file() else []


def _planned_effect(plan: Json, test: int, metric: str) -> Json | None:
    """What the test split can show of a share, from the plan's guess of how often candidates disagree."""
    if METRICS[metric].unit not in (PERCENT, SHARE):
        return None
    planned = plan.get("minimum_detectable_effect") or {}
    n, discordance = planned.get("n", test), planned.get("discordance", 0.15)
    return {"points": 100 * minimum_detectable_effect(n, discordance), "n": n, "discordance": discordance}


# ── what the page shows beside the numbers ───────────────────────────────────────────────────────────────
def _evidence(
    run: Run, report: Json, predictions: Mapping[str, Sequence[Prediction]], words: Mapping[str, str]
) -> Evidence:
    """``words`` are shown for labels that have some in the config."""
    curves = {
        c["id"]: curve
        for c in report["candidates"]
        if c["status"] == "ok" and (curve := _read_curve(run.candidate(c["id"]) / "metrics.jsonl", c))
    }
    choice = report["verdict"]["choice"]
    if choice is None:
        return Evidence(curves)
    answers = predictions[choice]
    labels: list[str] = []
    matrix: list[list[int]] = []
    if report["task"]["kind"] == "classification":
        seen = {p.target for p in answers} | {p.prediction for p in answers}
        labels = [*(name for name in report["data"]["labels"] or {} if name in seen)]
        labels += sorted(seen - set(labels))
        matrix = confusion_matrix([p.prediction for p in answers], [p.target for p in answers], labels).tolist()
    shown = [words.get(label, label) for label in labels]
    beside = _beside(report, choice) if report["task"]["kind"] in WRITTEN else None
    others = {p.example_id: p.prediction for p in predictions[beside]} if beside else {}
    return Evidence(curves, shown, matrix, _answers(run, answers, report["task"], words, others), beside)


def _beside(report: Json, choice: str) -> str | None:
    """Whose answers say what tuning changed: the untuned model's beside a tuned choice, else the best tuned one's."""
    ok = {c["id"]: c for c in report["candidates"] if c["status"] == "ok"}
    if is_tuned(choice):
        return "prompt/zero-shot" if "prompt/zero-shot" in ok else None
    metric = report["task"]["metric"]
    tuned = [name for name in ok if is_tuned(name) and metric in ok[name]["metrics"]]
    return max(tuned, key=lambda name: float(ok[name]["metrics"][metric]["value"]), default=None)


def _read_curve(path: Path, candidate: Json) -> Curve | None:
    if not path.is_file():
        return None
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # a kill may have cut the last line short
    train = tuple((r["step"], r["loss"]) for r in rows if r.get("loss") is not None)
    validation = tuple((r["step"], r["validation_loss"]) for r in rows if r.get("validation_loss") is not None)
    unit = (candidate.get("details") or {}).get("loss_unit", "in nats per token")
    names = dict.fromkeys(name for r in rows for name in r.get("validation_metrics") or {})
    followed = {
        name: tuple(
            (r["step"], value) for r in rows if (value := (r.get("validation_metrics") or {}).get(name)) is not None
        )
        for name in names
    }
    return Curve(train, validation, (candidate["overfitting"] or {}).get("best_step"), unit, followed)


def _answers(
    run: Run, predictions: Sequence[Prediction], task: Json, words: Mapping[str, str], others: Mapping[str, str]
) -> dict[str, list[Answer]]:
    """Confident mistakes for labels; for texts the best and the worst answers, and some that nobody chose.

    ``others`` are another candidate's answers by example, to stand beside.
    """
    path = run.folder / "splits" / "test.parquet"
    shown = {e.id: _input(e) for e in read_examples(path)} if path.is_file() else {}
    scored = list(zip(item_scores(predictions, task["metric"]), predictions, strict=True))

    def answers(chosen: Sequence[tuple[float, Prediction]]) -> list[Answer]:
        return [
            Answer(
                _cut(shown.get(p.example_id, "(not stored)")), _cut(words.get(p.target, p.target)),
                _cut(words.get(p.prediction, p.prediction)), value,
                max(p.probabilities) if p.probabilities else None,
                _cut(others.get(p.example_id, "")) if others else None,
            )
            for value, p in chosen[:ANSWERS_SHOWN]
        ]  # fmt: skip

    if task["kind"] == "classification":
        wrong = [pair for pair in scored if pair[0] == 0]
        wrong.sort(key=lambda pair: (-max(pair[1].probabilities or (0.0,)), pair[1].example_id))
        heading = "Its most confident mistakes" if wrong and wrong[0][1].probabilities else "Some of its mistakes"
        return {heading: answers(wrong)}
    scored.sort(key=lambda pair: pair[1].example_id)  # a hash of the content
    blind = {"Some of its answers, picked blindly": answers(scored)} if task["kind"] in WRITTEN else {}
    scored.sort(key=lambda pair: pair[0])
    return {**blind, "Its worst answers": answers(scored), "Its best answers": answers(scored[::-1])}


def _input(example: Example) -> str:
    if example.text is not None:
        return example.text
    return next((m.content for m in reversed(example.prompt) if m.role == "user"), "")


def _cut(text: str) -> str:
    return text if len(text) <= ANSWER_LENGTH else text[: ANSWER_LENGTH - 1] + "…"


def _write_card(run: Run, candidate: Json, report: Json) -> None:
    """A README.md in the folder that holds the candidate's weights, if it was kept."""
    details = candidate.get("details") or {}
    base_model = details.get("base_model") or candidate["id"].split("/")[1]
    libraries: dict[str, Literal["peft", "transformers"]] = {"adapter": "peft", "model": "transformers"}
    for folder, library in libraries.items():
        path = run.candidate(candidate["id"]) / folder
        if path.is_dir():
            card = model_card(
                candidate, report, library=library, base_model=base_model,
                license=details.get("license"), languages=details.get("languages") or (),
            )  # fmt: skip
            write_atomic(path / "README.md", card)
