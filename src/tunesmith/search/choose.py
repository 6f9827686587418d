"""Which pretrained model to tune, without tuning any: filters, then scores of frozen features.

The test split is not looked at. What is chosen is a candidate to be judged by ``tunesmith run``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tunesmith.candidates.candidate import Listener
from tunesmith.config import FORMAT_VERSION, Config, Lora
from tunesmith.data.prepare import prepare_data
from tunesmith.errors import ConfigError, TunesmithError
from tunesmith.hardware import Hardware, detect, measure_sgemm
from tunesmith.measures.linear import fit_linear, item_scores
from tunesmith.measures.transferability import h_score, logme
from tunesmith.measures.uncertainty import paired_bootstrap
from tunesmith.plan.choose import GLOBAL_BATCH
from tunesmith.plan.estimate import OTHER_PROCESS_BYTES, training_seconds
from tunesmith.plan.facts import Facts, context_length, gather_facts
from tunesmith.plan.memory import Training
from tunesmith.records import Example
from tunesmith.sources import ModelFolder, find_model, resolve_model
from tunesmith.sources.catalog import MODELS
from tunesmith.tasks import build_task

if TYPE_CHECKING:
    from tunesmith.tasks.task import HeadTask

TASKS = ("classification", "multi_label", "regression")
TRAIN, VALIDATION, ASKED = 1500, 500, 100  # examples at most: fitted on, judged on, asked of a model that writes
MARGIN = 0.01  # of accuracy: a smaller model that may lose less than this is good enough

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Data:
    task: HeadTask
    train: Sequence[Example]
    validation: Sequence[Example]
    all_of_train: int

    @property
    def examples(self) -> list[Example]:
        return [*self.train, *self.validation]


def choose_model(
    config: Config, listener: Listener, names: Sequence[str] = (), licences: Sequence[str] = (),
    language: str | None = None,
) -> Json:  # fmt: skip
    """Rank models for a project, and say which to tune, why the others not, and what the choice cost.

    Args:
        config: The project; its ``model`` is one of those that are looked at.
        listener: Called as work goes on.
        names: Models, as ``model:`` takes them; by default the catalog's that are on this machine.
        licences: What a licence's name may begin with; by default any.
        language: ISO 639 code of the texts; by default any.

    Returns:
        ``ranked`` models with their scores, ``rejected`` ones with the reason, ``choice``, ``reason``, ``seconds``.

    Raises:
        ConfigError: If the task is none that frozen features can be scored for, or no model is left.
    """
    started = time.monotonic()
    if config.task.kind not in TASKS:
        raise ConfigError(f"task: {config.task.kind} cannot be scored on frozen features. Known: {', '.join(TASKS)}.")
    listener("choose: reading the data", 0, 0, {})
    prepared = prepare_data(config.data, config.task.kind, config.seed)
    rng = np.random.default_rng([config.seed, 10])
    parts = [
        [part[i] for i in sorted(rng.permutation(len(part))[:limit])]
        for part, limit in ((prepared.split.train, TRAIN), (prepared.split.validation, VALIDATION))
    ]
    if any(example.text is None for example in parts[0]):
        raise ConfigError("choose ranks models that read text, and these examples hold none.")
    task = cast("HeadTask", build_task(config.task, prepared.labels, prepared.instruction))
    data = _Data(task, parts[0], parts[1], len(prepared.split.train))
    machine, rate = detect(), measure_sgemm()
    own = [config.model] if config.model is not None else []
    rows: list[Json] = []
    rejected: list[Json] = []
    scores: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(names or [*own, *MODELS]):
        begun = time.monotonic()
        try:
            known, reasons = _filter(name, data, machine, rate, licences, language)
            if not reasons:
                listener(f"{name}: reading texts", 0, 0, {})
                measured, scores[name] = _score(name, data, listener)
        except TunesmithError as error:
            reasons = [str(error)]
        if reasons:
            rejected.append({"name": name, "reasons": reasons})
        else:
            rows.append({"name": name, **known, **measured, "seconds": round(time.monotonic() - begun, 1)})
    if not rows:
        told = "\n".join(f"  {row['name']}: {'; '.join(row['reasons'])}" for row in rejected)
        raise ConfigError(f"no model is left to choose from:\n{told}")
    return {
        "format_version": FORMAT_VERSION, "task": config.task.kind,
        "data": {"train": len(data.train), "validation": len(data.validation)},
        **judge(rows, scores, task.head_loss, config.seed), "rejected": rejected,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────
def _filter(
    name: str, data: _Data, machine: Hardware, rate: float, licences: Sequence[str], language: str | None
) -> tuple[Json, list[str]]:
    """What is known of a model before it is loaded, and why it is out, if it is."""
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import load_tokenizer

    entry = MODELS.get(name)
    reasons = []
    if entry is not None and entry.modality != "text":
        reasons.append(f"it reads {entry.modality.replace('-', ' and ')}")
    if licences and (entry is None or not entry.licence.startswith(tuple(licences))):
        reasons.append(f"licence {entry.licence if entry else 'not known'}; asked for is {' or '.join(licences)}")
    if language and entry is not None and not {language, "mul"} & set(entry.languages):
        reasons.append(f"its languages are {', '.join(entry.languages)}, not {language}")
    folder = None if reasons else find_model(name)
    if not reasons and folder is None:
        reasons.append(f"not on this machine: tunesmith models pull {name}")
    if folder is None:
        return {}, reasons
    kind = architecture(folder)
    if kind not in ("decoder", "encoder"):
        return {}, [f"it is of kind {kind}, which is scored neither as encoder nor as decoder"]
    tokenizer = load_tokenizer(folder, kind)
    facts, tokens = _facts(folder, kind, tokenizer, data, machine, rate)
    longest = _limit(folder, tokenizer)
    over = int((tokens > longest).sum())
    if over > len(tokens) // 20:
        reasons.append(f"{over:,} of {len(tokens):,} texts are longer than its {longest:,} tokens")
    training = Training(facts, Lora(), GLOBAL_BATCH, True)
    at_once = training.largest_micro_batch(facts.available_bytes - OTHER_PROCESS_BYTES)
    size = OTHER_PROCESS_BYTES + training.memory(at_once or facts.longest_example).total
    if at_once is None:
        reasons.append(f"tuning it needs {size / 2**30:.1f} GiB, {facts.available_bytes / 2**30:.1f} are free")
    words = sum(len((e.text or "").split()) for e in data.examples)
    return {
        "architecture": kind, "parameters": facts.parameters, "context_length": longest,
        "licence": entry.licence if entry else None, "texts_cut": over,
        "tokens_per_word": round(float(tokens.sum()) / max(1, words), 3),
        "tuning": {
            "method": "lora", "micro_batch_tokens": at_once, "memory_bytes": round(size),
            "seconds_per_epoch": round(training_seconds(facts, "lora", 1.0, GLOBAL_BATCH, False), 1),
        },
    }, reasons  # fmt: skip


def _facts(
    folder: ModelFolder, kind: str, tokenizer: Any, data: _Data, machine: Hardware, rate: float
) -> tuple[Facts, np.ndarray]:
    from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

    items = OBJECTIVES["head"].encode(data.task, tokenizer, data.examples, EncodeSettings(10**9))[0]
    tokens = np.array([item.tokens for item in items])
    counts = {"train": data.all_of_train, "validation": len(data.validation), "test": 0}
    return gather_facts(counts, data.task.outputs, items, 0, folder, kind, machine, rate), tokens


def _limit(folder: ModelFolder, tokenizer: Any) -> int:
    return int(min(context_length(folder), tokenizer.model_max_length))


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────
def _score(name: str, data: _Data, listener: Listener) -> tuple[Json, np.ndarray]:
    """Scores of a model's frozen features, and what its probe scored on each validation example."""
    from tunesmith.model.embed import layer_means, load_backbone

    folder = resolve_model(name)  # which is here: the filter found it
    model, tokenizer = load_backbone(folder)
    done, began = [0], time.monotonic()

    def progress(n: int) -> None:
        done[0] += n
        listener(f"{name}: reading texts", done[0], len(data.examples), {})

    texts = [example.text or "" for example in data.examples]
    features = layer_means(model, tokenizer, texts, _limit(folder, tokenizer), progress)
    per_text = (time.monotonic() - began) / len(texts)
    del model
    n, loss = len(data.train), data.task.head_loss
    targets = np.array([data.task.head_target(example) for example in data.examples], dtype=float)
    columns = np.eye(data.task.outputs)[targets[:n, 0].astype(int)] if loss == "cross_entropy" else targets[:n]
    spread = np.maximum(features[:n].std(0), 1e-6) * features.shape[1] ** 0.5
    scaled = (features - features[:n].mean(0)) / spread  # of a length of about 1, as the grid of penalties wants it
    probe = fit_linear(scaled[:n], targets[:n], scaled[n:], targets[n:], loss, data.task.outputs)
    of_items, losses = item_scores(probe.outputs(scaled[n:]), targets[n:], loss)
    return {
        "h_score": round(h_score(scaled[:n], columns), 4), "logme": round(logme(scaled[:n], columns), 4),
        "probe": {"score": float(of_items.mean()), "loss": float(losses.mean())},
        "zero_shot": _zero_shot(name, data, listener), "seconds_per_text": round(per_text, 5),
    }, of_items  # fmt: skip


def _zero_shot(name: str, data: _Data, listener: Listener) -> Json:
    """What a decoder scores when it is only asked, and its negative log-likelihood of the answers."""
    from tunesmith.model.architecture import architecture
    from tunesmith.model.load import load_model

    if architecture(resolve_model(name)) != "decoder" or data.task.head_loss != "cross_entropy":
        return {"status": "not_run", "reason": "it is asked labels only of a model that writes"}
    asked = data.validation[:ASKED]
    try:
        answers = data.task.predict(
            load_model(name), asked, name, (), lambda n: listener(f"{name}: asking", 0, len(asked), {})
        )
    except TunesmithError as error:
        return {"status": "not_run", "reason": str(error)}
    nlls = [answer.nll for answer in answers if answer.nll is not None]
    return {
        "score": float(np.mean([answer.score for answer in answers])), "n": len(answers),
        "nll": float(np.mean(nlls)) if nlls else None,
    }  # fmt: skip


# ── what follows ─────────────────────────────────────────────────────────────────────────────────────────
def judge(rows: Sequence[Json], scores: dict[str, np.ndarray], loss: str, seed: int) -> Json:
    """Rank by the probe's score, and choose the smallest model that is not clearly worse than the best.

    A difference counts if its paired 95 % interval lies beyond a margin: one point of accuracy, otherwise none.

    Args:
        rows: Of each model its ``name``, ``parameters``, ``probe`` and ``h_score``.
        scores: What each one's probe scored on every validation example, higher is better.
        loss: What the task's head minimises.
        seed: Of the resamples.
    """
    ranked = sorted(rows, key=lambda row: (-row["probe"]["score"], -row["h_score"]))
    best = ranked[0]["name"]
    margin = MARGIN if loss == "cross_entropy" else 0.0

    def against(a: str, b: str) -> Json:
        found = paired_bootstrap(scores[a], scores[b], rng=np.random.default_rng([seed, 11]), resamples=2000)
        return {"difference": found.difference, "low": found.low, "high": found.high}

    for row in ranked:
        row["to_best"] = against(row["name"], best)
    by_size = sorted(ranked, key=lambda row: row["parameters"])
    chosen = next(row for row in by_size if row["name"] == best or row["to_best"]["high"] >= -margin)
    larger = next((row for row in by_size if row["parameters"] > chosen["parameters"]), None)
    reason = "the best by its probe" if chosen["name"] == best else f"the smallest not clearly worse than {best}"
    next_size = None
    if larger is not None:
        next_size = {
            "name": larger["name"],
            "parameters": larger["parameters"],
            **against(larger["name"], chosen["name"]),
        }
    return {"ranked": ranked, "choice": chosen["name"], "reason": reason, "next_size": next_size, "margin": margin}
