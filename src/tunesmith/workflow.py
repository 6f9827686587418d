"""The product on one screen: data → plan → train → evaluate → report.

Each stage reads and writes files of the run directory, so each can be run, resumed or replaced alone.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tunesmith.candidates import FAMILIES, Candidate, Context, Fit
from tunesmith.candidates.candidate import Listener, model_id
from tunesmith.candidates.follow import require_metric
from tunesmith.candidates.tuned import MEASURED_ON
from tunesmith.config import FINE_TUNED, FORMAT_VERSION, AnyConfig, Config, Remedies, parse_any_config
from tunesmith.data.checks import GATES, gate
from tunesmith.data.prepare import prepare_data
from tunesmith.data.split import labels_of
from tunesmith.errors import ConfigError, RunError, TunesmithError
from tunesmith.evaluate.calibration import calibration
from tunesmith.evaluate.compare import metric_interval
from tunesmith.evaluate.suites import read_own
from tunesmith.evaluate.swaps import swap_variants, write_swaps
from tunesmith.hardware import detect, free_disk_bytes, measure_sgemm, peak_memory_bytes, reset_peak_memory
from tunesmith.plan.choose import DEFAULT_MODEL, GLOBAL_BATCH, Plan, choose_plan
from tunesmith.plan.facts import context_length, gather_facts
from tunesmith.plan.probe import probe_methods
from tunesmith.records import Example, Finding, Prediction, Split
from tunesmith.report.write import write_report
from tunesmith.run import (
    Run,
    read_examples,
    read_json,
    write_atomic,
    write_examples,
    write_json,
    write_predictions,
)
from tunesmith.sources import resolve_model
from tunesmith.tasks import Task, build_task

SHOWN_PACKAGES = ("tunesmith", "torch", "transformers", "peft", "scikit-learn", "numpy")
SLOWEST_CORE = 20e9  # FLOP/s in float32 of an AVX2 core at 1.5 GHz or so: less was measured, the machine was busy


def silent(stage: str, done: float, total: float, values: dict[str, Any]) -> None:
    """The listener that shows nothing."""


def run(config: Config, folder: Path | str, listener: Listener = silent, command: str = "") -> dict[str, Any]:
    """Do all five stages in ``folder``; whatever is complete there is kept. Returns report.json's content.

    Raises:
        TunesmithError: What cannot be used or done, in words. A candidate that fails is recorded as failed, and
            the others go on.
    """
    directory = Run(Path(folder))
    with directory.lock():
        start(config, directory, command)
        task = prepare(config, directory, listener)
        planned = make_plan(config, directory, listener)
        listener(plan_in_words(planned), 0, 0, {})
        waiting = [row for row in planned["candidates"] if not is_evaluated(directory, row["id"])]
        if waiting:
            directory.count_test_look(", ".join(row["id"] for row in waiting))
        for row in waiting:
            evaluate_candidate(config, directory, task, planned, row, listener)
        listener("report", 0, 0, {})
        return write_report(directory)


def plan(config: Config, listener: Listener = silent, probe: bool = False) -> dict[str, Any]:
    """What ``run`` would do, in plan.json's form with the data's counts and findings; writes and trains nothing.

    ``probe`` measures two steps of every training, on random tokens, and corrects the memory's estimate by them.

    Raises:
        TunesmithError: What ``run`` would refuse before it trains.
    """
    listener("data: reading", 0, 0, {})
    prepared = prepare_data(config.data, config.task.kind, config.seed, config.fairness.copied)
    task = build_task(config.task, prepared.labels, prepared.instruction)
    parts = _parts(prepared.split)
    data = {name: len(examples) for name, examples in parts.items()}
    findings = [finding.to_json() for finding in prepared.findings]
    return {"data": {**data, "findings": findings}, **plan_for(config, parts, task, listener, probe).to_json()}


def train(config: Config, folder: Path | str, listener: Listener = silent, command: str = "") -> list[dict[str, Any]]:
    """Fine-tune and save only, without a look at the test split; a later ``run`` in ``folder`` goes on from there.

    That is ``tune``, and ``tune+rag`` where the config has it; every other candidate, ``setfit`` too, is left to
    ``run``. Reads and writes what ``run`` does, but no predictions, no evaluation.json and no report.

    Returns:
        For each method of each the candidate's ``id``, ``status`` and either ``reason`` or ``model``, the folder of the
        weights, with the numbers of its training.

    Raises:
        ConfigError: If the config asks for no fine-tuning, or no method of it fits.
        TunesmithError: What cannot be used or done, in words. A method that fails is returned as failed, and the
            others go on.
    """
    if not config.fine_tunes:
        raise ConfigError(
            f"candidates: {list(config.candidates)} has no 'tune' and no 'tune+rag', so nothing is trained here. Add "
            "one; 'tunesmith run' fits the others."
        )
    directory = Run(Path(folder))
    with directory.lock():
        start(config, directory, command)
        task = prepare(config, directory, listener)
        planned = make_plan(config, directory, listener)
        rows = [row for row in planned["candidates"] if row["family"] in FINE_TUNED and not _answers_only(row["id"])]
        if not rows:
            kinds = ", ".join(method.kind for method in config.method)
            raise ConfigError(f"method: {kinds} trains no candidate of {list(config.candidates)}. Take lora.")
        return [train_candidate(config, directory, task, planned, row, listener) for row in rows]


def _answers_only(candidate: str) -> bool:
    """Whether a candidate trains nothing and changes another's answers."""
    return candidate.endswith("+threshold")


def start(config: AnyConfig, directory: Run, command: str) -> None:
    """Write run.yaml, or check that the run that is there has the same settings.

    Where no candidate and no learning curve was begun, other settings start the run anew: a mended mistake needs no new
    folder.
    """
    resolved = config.model_dump(mode="json")
    if directory.settings_file.is_file():
        before = Run.open(directory.folder).settings()["config"]
        if parse_any_config(before) == config:
            return
        if any((directory.folder / kept).exists() for kept in ("candidates", "curve")):
            changed = sorted(key for key in resolved if before.get(key) != resolved[key])
            raise RunError(
                f"{directory.folder}: holds a run with other settings (differing: {', '.join(changed)}). "
                "Use another --out, or delete the folder."
            )
        for file in (directory.data_file, directory.plan_file):
            file.unlink(missing_ok=True)
    elif any(directory.folder.glob("[!.]*")):
        raise RunError(f"{directory.folder}: not empty, and not a run. Use another --out.")
    needed = 2_000_000_000 if config.fine_tunes else 50_000_000
    free = free_disk_bytes(directory.folder)
    if free < needed // 10:
        raise RunError(
            f"{directory.folder}: {free / 1e6:.0f} MB free, {needed / 1e7:.0f} MB needed. Use another --out."
        )
    hardware = detect()
    write_atomic(directory.settings_file, yaml.safe_dump({
        "format_version": FORMAT_VERSION, "name": directory.folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "command": command, "config": resolved,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in SHOWN_PACKAGES}},
        "hardware": {
            "cpu": hardware.cpu_name, "cores": hardware.usable_cores, "memory_bytes": hardware.memory_bytes,
            "accelerators": [a.name for a in hardware.accelerators], "dtype": hardware.dtype,
        },
    }, sort_keys=False, allow_unicode=True))  # fmt: skip


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────
def prepare(config: Config, directory: Run, listener: Listener) -> Task:
    """Read, check and split the data. Writes data.json and splits/; keeps them if they are there."""
    if directory.data_file.is_file():
        data = read_json(directory.data_file)
        for part, stored in data["splits"].items():
            if _digest(read_examples(directory.split(part))) != stored["sha256"]:
                raise RunError(f"{directory.split(part)}: not the split of this run. Start again in a new folder.")
        return build_task(config.task, data["task_labels"], data["instruction"])
    listener("data: reading", 0, 0, {})
    prepared = prepare_data(config.data, config.task.kind, config.seed, config.fairness.copied, listener)
    found = gate(prepared.findings)
    listener(f"data: {GATES[found]}", 0, 0, {})
    task = build_task(config.task, prepared.labels, prepared.instruction)
    parts = _parts(prepared.split)
    for name, examples in parts.items():
        write_examples(directory.split(name), examples)
    counts = {
        label: {
            name: sum(label in labels_of(e, config.task.kind) for e in examples) for name, examples in parts.items()
        }
        for label in prepared.labels
    }
    write_json(directory.data_file, {
        "format_version": FORMAT_VERSION,
        "source": {part: getattr(config.data, part) for part in parts if getattr(config.data, part)},
        "rows": sum(f.rows for f in prepared.files.values()),
        "accepted": sum(len(f.examples) for f in prepared.files.values()),
        "rejected": sum(len(f.bad) for f in prepared.files.values()),
        "gate": found, "findings": [finding.to_json() for finding in prepared.findings],
        "splits": {name: {"count": len(ex), "sha256": _digest(ex)} for name, ex in parts.items()},
        "labels": counts or None, "task_labels": list(prepared.labels), "instruction": prepared.instruction,
    })  # fmt: skip
    return task


def _parts(split: Split) -> dict[str, Sequence[Example]]:
    return {"train": split.train, "validation": split.validation, "test": split.test}


def _digest(examples: Sequence[Example]) -> str:
    return hashlib.sha256("\n".join(example.id for example in examples).encode()).hexdigest()


# ── plan ─────────────────────────────────────────────────────────────────────────────────────────────────
def make_plan(config: Config, directory: Run, listener: Listener) -> dict[str, Any]:
    """Choose settings and candidates. Reads splits/, writes plan.json; keeps it if it is there."""
    if not directory.plan_file.is_file():
        parts = {name: read_examples(directory.split(name)) for name in ("train", "validation", "test")}
        data = read_json(directory.data_file)
        task = build_task(config.task, data["task_labels"], data["instruction"])
        write_json(directory.plan_file, plan_for(config, parts, task, listener).to_json())
    planned: dict[str, Any] = read_json(directory.plan_file)
    return planned


def plan_for(
    config: Config, parts: Mapping[str, Sequence[Example]], task: Task, listener: Listener, probe: bool = False
) -> Plan:
    """What a run would do with these splits; trains and predicts nothing.

    Every example is rendered, so that what cannot be trained or asked is refused before anything is computed.
    """
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import load_tokenizer
    from tunesmith.train.objectives import OBJECTIVES, EncodeSettings
    from tunesmith.train.remedies.replay import read_texts, text_task

    if config.fine_tunes:
        read_own(config.forgetting)  # refused before anything is computed
    listener("plan: model", 0, 0, {})
    folder = resolve_model(config.model or DEFAULT_MODEL)
    kind_of_model = architecture(folder)
    interfaces = _interfaces(config, task, kind_of_model)
    listener("plan: counting tokens", 0, 0, {})
    context = context_length(folder)
    learned = EncodeSettings(config.train.max_length or context, config.train.train_on, config.data.overlong)
    findings: list[Finding] = []
    for name in dict.fromkeys(interfaces.values()):
        tokenizer = load_tokenizer(folder, kind_of_model)
        items, found = OBJECTIVES[name].encode(task, tokenizer, parts["train"], learned)
        findings += found + OBJECTIVES[name].encode(task, tokenizer, parts["validation"], learned)[1]
        # nothing is cut from a test example or left out: it need only fit into the model
        OBJECTIVES[name].encode(task, tokenizer, parts["test"], EncodeSettings(context))
    if config.remedies.replay_from != "base":
        tokenizer, texts = load_tokenizer(folder, kind_of_model), read_texts(config.remedies.replay_from)
        findings += OBJECTIVES["causal"].encode(text_task(), tokenizer, texts, replace(learned, overlong="drop"))[1]
    listener("plan: measuring this machine", 0, 0, {})
    counts = {name: len(examples) for name, examples in parts.items()}
    machine = detect()
    rate = max(measure_sgemm(), SLOWEST_CORE * machine.usable_cores)
    prefix = OBJECTIVES[name].prefix(items)
    facts = gather_facts(counts, len(task.labels), items, prefix, folder, kind_of_model, machine, rate)
    heads = [method for method, name in interfaces.items() if name == "head"]
    corrections = {}
    if config.fine_tunes:
        listener("plan: memory", 0, 0, {})
        corrections = probe_methods(
            config.method, facts, interfaces, config.model or DEFAULT_MODEL, getattr(task, "outputs", 0),
            config.train.micro_batch_tokens, config.train.global_batch_size or GLOBAL_BATCH, probe,
        )  # fmt: skip
    return choose_plan(config, facts, model_id(config.model or DEFAULT_MODEL), findings, heads, corrections)


def _interfaces(config: Config, task: Task, architecture: str) -> dict[str, str]:
    """How each method will use the model; what prompts alone would, under lora, where nothing is tuned.

    Raises:
        ConfigError: If a method does not fit the task on this model; all of them in one message.
    """
    from tunesmith.model.quantise import require_bitsandbytes
    from tunesmith.train.methods import METHODS

    kinds = [method.kind for method in config.method] if config.fine_tunes else ["lora"]
    found: dict[str, str] = {}
    problems = []
    for kind in kinds:
        try:
            found[kind] = task.interface(architecture, kind)
            if config.fine_tunes:
                require_metric(task, config.train.select)
            if METHODS[kind].four_bit:
                require_bitsandbytes()
                if found[kind] not in ("causal", "preference"):
                    raise ConfigError("4-bit bases are for decoders that write text. Use method lora here.")
            if config.remedies != Remedies() and found[kind] != "causal":
                raise ConfigError("remedies are for decoders that learn next tokens. Remove them, or take a decoder.")
            if config.fine_tunes and config.forgetting.guard is not None and found[kind] not in MEASURED_ON:
                raise ConfigError(
                    f"forgetting.guard is for models that write text, not {found[kind]} ones; leave it out."
                )
        except ConfigError as error:
            problems.append(f"method {kind}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def plan_in_words(plan: dict[str, Any]) -> str:
    """What is about to happen, what it will cost, and what it could show: one sentence."""
    detectable = plan["minimum_detectable_effect"]
    return (
        f"plan: {len(plan['candidates'])} candidates, about {plan['estimated_seconds'] / 60:.0f} minutes; "
        f"with {detectable['n']} test examples, differences of about {detectable['points']:.1f} points can be detected"
    )


# ── train and evaluate ───────────────────────────────────────────────────────────────────────────────────
def is_evaluated(directory: Run, candidate_id: str) -> bool:
    """Whether a candidate's results are complete; a failed one is tried again when the run is."""
    folder = directory.candidate(candidate_id)
    file = folder / "evaluation.json"
    return file.is_file() and read_json(file)["status"] == "ok" and (folder / "predictions.parquet").is_file()


def train_candidate(
    config: Config, directory: Run, task: Task, planned: dict[str, Any], row: dict[str, Any], listener: Listener
) -> dict[str, Any]:
    """Fit one fine-tuning candidate; what the run knows of one that is evaluated already is returned as it is."""
    entry: dict[str, Any] = {"id": row["id"], "status": "ok"}
    try:
        if is_evaluated(directory, row["id"]):
            kept = read_json(directory.candidate(row["id"]) / "evaluation.json")
            entry |= {key: kept[key] for key in ("trainable_parameters", "train_seconds", "tokens_trained")}
            entry |= {key: kept[key] for key in ("overfitting", "forgetting", "details")}
        else:
            entry |= fitted(_fit(config, directory, task, planned, row, listener)[1])
    except TunesmithError as error:
        if isinstance(error, RunError):  # the disk, not the candidate
            raise
        return {**entry, "status": "failed", "reason": str(error)}
    return {**entry, "model": str(directory.saved_model(row["id"]))}


def _fit(
    config: Config, directory: Run, task: Task, planned: dict[str, Any], row: dict[str, Any], listener: Listener
) -> tuple[Candidate, Fit]:
    context = Context(config, task, config.model or DEFAULT_MODEL, planned["loop"], planned["max_length"], listener)
    candidate = FAMILIES[row["family"]].build(context, row["id"], directory.candidate(row["id"]))
    parts = (read_examples(directory.split(part)) for part in ("train", "validation"))
    return candidate, candidate.fit(*parts)


def evaluate_candidate(
    config: Config, directory: Run, task: Task, planned: dict[str, Any], row: dict[str, Any], listener: Listener
) -> None:
    """Fit one candidate and judge it on the test split.

    Reads splits/; writes candidates/<id>/ (predictions.parquet, evaluation.json, swaps/ where swaps are asked for,
    validation.parquet where a temperature is fitted on it, and what fitting leaves there).
    """
    folder = directory.candidate(row["id"])
    entry: dict[str, Any] = {"id": row["id"], "baseline": row["baseline"]}
    reset_peak_memory()
    started = time.monotonic()
    try:
        candidate, fit = _fit(config, directory, task, planned, row, listener)
        test = read_examples(directory.split("test"))
        variants = swap_variants(test, config.fairness.swaps if task.kind == "classification" else ())
        answers = candidate.predict([*test, *(changed for pairs in variants.values() for _, changed in pairs)])
        predictions = answers[: len(test)]
        write_swaps(directory, row["id"], variants, answers[len(test) :])
        write_predictions(folder / "predictions.parquet", predictions)
        held_out: Sequence[Prediction] = ()
        if config.task.kind == "classification" and config.task.temperature_scaling and predictions[0].probabilities:
            held_out = candidate.predict(read_examples(directory.split("validation")))
            write_predictions(folder / "validation.parquet", held_out)
        entry |= {"status": "ok", **measure(task, predictions, config.seed), **fitted(fit)}
        entry |= calibrated(task, predictions, held_out, config.seed)
    except TunesmithError as error:
        if isinstance(error, RunError):  # the disk, not the candidate
            raise
        entry |= {"status": "failed", "reason": str(error), "metrics": {}}
    entry |= {"peak_memory_bytes": peak_memory_bytes(), "seconds": round(time.monotonic() - started, 3)}
    write_json(folder / "evaluation.json", entry)


def measure(task: Task, predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """What an entry of report.json says of predictions, every number from them alone."""
    n = len(predictions)
    return {
        "metrics": {
            metric: metric_interval(predictions, metric, np.random.default_rng([seed, 6])).to_json()
            for metric in task.metrics
        },
        "seconds_per_example": sum(p.seconds for p in predictions) / n,
        "tokens_per_example": sum(p.prompt_tokens + p.completion_tokens for p in predictions) / n,
        "truncated_answers": sum(p.truncated for p in predictions),
    }


def calibrated(
    task: Task, predictions: Sequence[Prediction], held_out: Sequence[Prediction], seed: int
) -> dict[str, Any]:
    """What an entry of report.json says of calibration, with a temperature fitted on validation answers if given."""
    if task.kind != "classification":
        return {}
    return {"calibration": calibration(predictions, task.labels, np.random.default_rng([seed, 8]), held_out)}


def fitted(fit: Fit) -> dict[str, Any]:
    """What an entry of report.json says of fitting a candidate."""
    return {
        "trainable_parameters": fit.trainable_parameters,
        "train_seconds": round(fit.train_seconds, 3),
        "tokens_trained": fit.tokens_trained,
        "overfitting": {"status": "not_run", "reason": "nothing was trained by gradient descent"},
        "forgetting": {"status": "not_run", "reason": "no language model was changed"},
        "memorization": {"status": "not_run", "reason": "no language model was changed"},
        **fit.measured,
        "details": fit.details,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
