"""From facts to settings, each with its reason and source; and to candidates, each with its cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.candidates import FAMILIES
from tunesmith.candidates.candidate import model_id
from tunesmith.candidates.prompt import NEAREST_COST, NEAREST_EXAMPLES
from tunesmith.candidates.prompt_search import ROUND_EXAMPLES, ROUND_TOKENS
from tunesmith.candidates.retrieval import RERANK_EXAMPLES
from tunesmith.candidates.setfit import MOST_PAIRS, ROUNDS
from tunesmith.candidates.tuned import FIXED_SUBSET
from tunesmith.config import FINE_TUNED, FORMAT_VERSION, Config
from tunesmith.errors import HardwareError
from tunesmith.evaluate.compare import plain_id
from tunesmith.evaluate.overfitting import CONTROL_EXAMPLES
from tunesmith.measures.uncertainty import minimum_detectable_effect
from tunesmith.plan import estimate
from tunesmith.plan.facts import Facts
from tunesmith.plan.memory import AS_SAID, Correction, Memory, Training, fast_tokens, ways_to_fit
from tunesmith.rag.rerank import LIKELIHOOD
from tunesmith.records import Finding
from tunesmith.train.batches import steps_in
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives.preference import RATE as PREFERENCE_RATE

DEFAULT_MODEL = "smollm2-135m-instruct"
GLOBAL_BATCH = 16  # below 32, where LoRA starts to lose to full fine-tuning (Schulman 2025, "LoRA Without Regret")
DISCORDANCE = 0.15  # share of test items on which two candidates disagree, before it is known
SCORED_TOKENS = {"quick": 36_000, "standard": 320_000, "full": 1_370_000}  # by tier of forgetting; writing counts more
BIAS_TOKENS = {"quick": 33_000, "full": 450_000}  # of the public bias suites
TOKENS_PER_WORD = 1.4  # of English text
ENCODER_SECONDS = 0.006  # per short text and core, MiniLM
RERANK_SECONDS = 0.0003  # per word of a chunk and core, a cross-encoder of MiniLM's size
SETFIT_BYTES = 2e9  # of tuning MiniLM: weights, gradient, moments, two copies, activations
HEAD_STEPS, HEAD_EPOCHS = 2000, 20  # that a new head on a backbone that moves needs, and passes at most
FITTED_EPOCHS = 4  # passes at most where the head starts fitted: the rate falls before early stopping can end it
HEAD_SOURCE = "Mosbach et al. 2021, arXiv:2006.04884"


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting, its value, and why."""

    setting: str
    value: Any
    reason: str
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"setting": self.setting, "value": self.value, "reason": self.reason, "source": self.source}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. ``loop`` holds the training loop's settings for each method."""

    facts: Facts
    choices: tuple[Choice, ...]
    candidates: tuple[dict[str, Any], ...]
    loop: dict[str, dict[str, Any]]
    max_length: int
    detectable: float
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "facts": self.facts.to_json(),
            "choices": [choice.to_json() for choice in self.choices],
            "candidates": list(self.candidates),
            "loop": self.loop,
            "findings": [finding.to_json() for finding in self.findings],
            "max_length": self.max_length,
            "minimum_detectable_effect": {
                "points": round(100 * self.detectable, 2), "n": self.facts.test, "discordance": DISCORDANCE,
            },
            "estimated_seconds": sum(c["estimated_seconds"] for c in self.candidates),
        }  # fmt: skip


def choose_plan(
    config: Config, facts: Facts, model_name: str, findings: Sequence[Finding] = (), heads: Collection[str] = (),
    corrections: Mapping[str, Correction] | None = None,
) -> Plan:  # fmt: skip
    """Fill in what the config leaves open, and say what each candidate will cost.

    Args:
        config: What the user wrote.
        facts: Of data, model and machine.
        model_name: As it stands in candidates' ids.
        findings: Of the data, to go on with.
        heads: Methods with a new head.
        corrections: Of the memory that methods take, by kind, where two steps were measured.

    Raises:
        HardwareError: If a method needs more memory than the machine has; says what would fit.
    """
    choices: list[Choice] = []
    if config.model is None:
        choices.append(Choice("model", facts.model, "the smallest instruction-tuned model of the catalog"))
    batch = config.train.global_batch_size or GLOBAL_BATCH
    if config.train.global_batch_size is None:
        choices.append(
            Choice("train.global_batch_size", batch, "LoRA bears large batches worse than full", "Schulman 2025")
        )
    max_length = config.train.max_length or facts.context_length
    if config.train.max_length is None:
        choices.append(
            Choice(
                "train.max_length",
                max_length,
                f"the model's own; the longest example has {facts.longest_example}",
            )
        )
    epochs = _epochs(config, facts, batch, heads, choices)
    trainings: dict[str, Training] = {
        m.kind: Training(facts, m, batch, m.kind in heads, (corrections or {}).get(m.kind, AS_SAID))
        for m in config.method
    }
    micro = _micro_batches(config, trainings, choices)
    loop: dict[str, dict[str, Any]] = {}
    for method in config.method:
        rate, source = METHODS[method.kind].learning_rate(facts.model_type, facts.hidden_size)
        if config.task.kind == "preference":
            rate, source = PREFERENCE_RATE * rate, f"{PREFERENCE_RATE:g} of that for next tokens: {source}"
        if config.train.learning_rate is not None:
            rate = config.train.learning_rate
        else:
            choices.append(
                Choice(f"learning_rate ({method.kind})", float(f"{rate:.2e}"), "the rule for this size", source)
            )
        loop[method.kind] = {
            "epochs": epochs[method.kind], "learning_rate": rate, "global_batch_size": batch,
            "schedule": config.train.schedule, "warmup_ratio": config.train.warmup_ratio,
            "weight_decay": config.train.weight_decay, "max_grad_norm": config.train.max_grad_norm,
            "evals_per_epoch": config.train.evals_per_epoch,
            "patience": config.train.patience, "seed": config.seed, "select": config.train.select,
            "micro_batch_tokens": micro[method.kind],
        }  # fmt: skip
    memory: dict[str, Memory] = {kind: training.memory(micro[kind]) for kind, training in trainings.items()}
    candidates = _candidates(config, facts, model_name, epochs, batch, memory)
    _refuse_what_does_not_fit(facts, candidates, trainings, micro)
    findings = [*findings, *_over_budget(config, candidates)]
    detectable = minimum_detectable_effect(facts.test, DISCORDANCE)
    return Plan(facts, tuple(choices), tuple(candidates), loop, max_length, detectable, tuple(findings))


def _epochs(
    config: Config, facts: Facts, batch: int, heads: Collection[str], choices: list[Choice]
) -> dict[str, float]:
    """Passes of each method: enough for its wanted steps, at most its most epochs, and what the budget allows.

    Steps on features that are kept cost next to nothing, so no budget bounds them.
    """
    if config.train.epochs is not None:
        return {method.kind: config.train.epochs for method in config.method}
    per_epoch = steps_in(facts.train, 1, batch)
    fits = math.inf
    if config.budget.minutes is not None and config.fine_tunes:
        once = sum(estimate.training_seconds(facts, m.kind, 1, batch, config.train.share_prefix) for m in config.method)
        fits = max(1, int(config.budget.minutes * 60 * 0.6 / once))
    found: dict[str, float] = {}
    for kind in (m.kind for m in config.method):
        method = METHODS[kind]
        wanted, most, source = method.wanted_steps, method.most_epochs, "Schulman 2025"
        if method.start == "cached":
            source = ""
        elif kind in heads:
            fitted = method.start == "fitted"
            wanted, most, source = HEAD_STEPS, FITTED_EPOCHS if fitted else HEAD_EPOCHS, "" if fitted else HEAD_SOURCE
        epochs = min(most, max(1, math.ceil(wanted / per_epoch)))
        reason = f"{epochs * per_epoch} steps; {wanted} or more are wanted; early stopping keeps the best"
        if fits < epochs and method.start != "cached":
            epochs, reason = int(fits), f"what fits into {config.budget.minutes:g} minutes, by estimate"
        found[kind] = float(epochs)
        name = "train.epochs" if len(config.method) == 1 else f"train.epochs ({kind})"
        choices.append(Choice(name, epochs, reason, source))
    return found


def _micro_batches(config: Config, trainings: Mapping[str, Training], choices: list[Choice]) -> dict[str, int]:
    """Tokens that each method computes at once: the most that fit, up to those beyond which nothing is gained."""
    if (given := config.train.micro_batch_tokens) is not None:
        return {method.kind: given for method in config.method}
    found: dict[str, int] = {}
    for kind, training in trainings.items():
        facts = training.facts
        free = facts.available_bytes - estimate.OTHER_PROCESS_BYTES
        most = training.largest_micro_batch(free)
        found[kind] = most or facts.longest_example
        fast = max(fast_tokens(facts), facts.longest_example)
        reason = "more would not be faster" if most == fast else f"what fits into {free / 2**30:.1f} GiB"
        name = "train.micro_batch_tokens" + (f" ({kind})" if len(trainings) > 1 else "")
        choices.append(Choice(name, found[kind], reason))
    return found


def _candidates(
    config: Config, facts: Facts, model_name: str, epochs: dict[str, float], batch: int, memory: Mapping[str, Memory]
) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys((*config.candidates, "boosting")):  # which has none but for tables, and there always
        family = FAMILIES[name]
        for candidate_id in family.ids(config, model_name, facts.architecture):
            seconds, size = _cost(config, facts, candidate_id, epochs, batch, memory)
            method = plain_id(candidate_id).rsplit("/", 1)[1]
            parts = {"memory": memory[method].to_json()} if name in FINE_TUNED else {}
            rows.append({
                "id": candidate_id, "family": name, "baseline": family.baseline, "reason": family.reason,
                "estimated_seconds": round(seconds, 1), "estimated_memory_bytes": round(size), **parts,
            })  # fmt: skip
    return rows


def _cost(
    config: Config, facts: Facts, candidate_id: str, epochs: dict[str, float], batch: int, memory: Mapping[str, Memory]
) -> tuple[float, float]:
    """Estimated seconds and peak bytes of a candidate, its test predictions included; those of remedies as without."""
    candidate_id = plain_id(candidate_id)
    family = candidate_id.split("/", 1)[0]
    own = facts.tokens_per_example - facts.prefix_tokens + facts.labels * 2
    own += getattr(config.task, "max_new_tokens", 0)
    asked = facts.test * (3 if config.fairness.swaps else 1)  # as it is, swapped, and with the placebo, at most
    asked += facts.validation if getattr(config.task, "temperature_scaling", False) else 0
    test = estimate.scoring_seconds(facts, asked, own)
    if family == "boosting":
        return 2 + 0.002 * facts.train, estimate.OTHER_PROCESS_BYTES
    if family == "baseline":
        return 0.1, estimate.OTHER_PROCESS_BYTES
    if family == "embedding":
        if facts.architecture == "decoder" and candidate_id not in map(_embedding_id, config.encoder):
            texts = facts.train + facts.validation + facts.test
            return estimate.scoring_seconds(facts, texts, own) + 3, estimate.scoring_bytes(facts)
        return _embedding_seconds(facts), estimate.OTHER_PROCESS_BYTES + 200e6
    if family == "setfit":  # two texts a pair, forward and backward
        texts = 2 * min(MOST_PAIRS, 2 * ROUNDS * facts.train)
        return 3 * texts * ENCODER_SECONDS * 2 / facts.cores + _embedding_seconds(facts), SETFIT_BYTES
    if candidate_id == "prompt/zero-shot":
        return test + 3, estimate.scoring_bytes(facts)
    if candidate_id == "prompt/few-shot":
        return test + 3 + _search_seconds(facts, own), estimate.scoring_bytes(facts)
    if candidate_id == "prompt/nearest":  # goes on from few-shot's search, and has the encoder's work besides
        asked += min(NEAREST_EXAMPLES, facts.validation)
        seconds = estimate.scoring_seconds(facts, asked, NEAREST_COST * own)
        return seconds + _embedding_seconds(facts), estimate.scoring_bytes(facts) + 200e6
    shown = config.rag.k * config.rag.chunk_size * TOKENS_PER_WORD if config.rag is not None else 0.0
    looked_up = estimate.scoring_seconds(facts, 2 * facts.test, own + shown) + _embedding_seconds(facts)
    if family == "rag":  # asked once as in use, once with the right chunk alone
        looked_up += _reranking_seconds(config, facts, facts.test + min(RERANK_EXAMPLES, facts.validation))
        return looked_up + 3, estimate.scoring_bytes(facts) + 200e6
    method = next(m for m in config.method if m.kind == candidate_id.rsplit("/", 1)[1])
    seconds = estimate.training_seconds(facts, method.kind, epochs[method.kind], batch, config.train.share_prefix) + 10
    if family == "tune+rag":
        seconds = seconds * (1 + shown / facts.tokens_per_example) + looked_up
        seconds += _reranking_seconds(config, facts, facts.train + facts.validation + facts.test)
    else:
        seconds += test
    if config.forgetting.tier != "off":
        seconds += 2 * estimate.scoring_seconds(facts, 1, SCORED_TOKENS[config.forgetting.tier])
    if config.fairness.suites != "off":
        seconds += 2 * estimate.scoring_seconds(facts, 1, BIAS_TOKENS[config.fairness.suites])
    again = float(config.memorization == "canaries")  # trained a second time
    if config.overfitting == "control":
        again += min(1.0, CONTROL_EXAMPLES / facts.train)
    if again:
        seconds += again * estimate.training_seconds(
            facts, method.kind, epochs[method.kind], batch, config.train.share_prefix
        )
    if config.memorization != "off":
        fixed = min(FIXED_SUBSET, facts.train) + min(FIXED_SUBSET, facts.validation)
        seconds += estimate.scoring_seconds(facts, fixed, facts.tokens_per_example - facts.prefix_tokens)
    steps = steps_in(facts.train, epochs[method.kind], batch)
    remedies = estimate.remedies_cost(facts, method.kind, config.remedies, steps, epochs[method.kind])
    size = estimate.OTHER_PROCESS_BYTES + memory[method.kind].total
    return seconds + remedies[0], size + remedies[1]


def _embedding_id(encoder: str) -> str:
    return f"embedding/{model_id(encoder)}"


def _search_seconds(facts: Facts, own: float) -> float:
    """Seconds to choose a prompt: prompts of its rounds, each on the examples new to it, within the budget."""
    asked = sum(min(n, facts.validation) * prompts for n, prompts in zip(ROUND_EXAMPLES, (4, 2, 3, 1), strict=True))
    return min(estimate.scoring_seconds(facts, asked, own), estimate.scoring_seconds(facts, 4, ROUND_TOKENS))


def _embedding_seconds(facts: Facts) -> float:
    texts = facts.train + facts.validation + facts.test
    return texts * ENCODER_SECONDS * 2 / facts.cores + 3


def _reranking_seconds(config: Config, facts: Facts, examples: int) -> float:
    if config.rag is None or config.rag.rerank is None:
        return 0.0
    pairs, words = examples * config.rag.rerank_depth, config.rag.chunk_size
    if config.rag.rerank == LIKELIHOOD:
        return estimate.scoring_seconds(facts, pairs, words * TOKENS_PER_WORD)
    return pairs * words * RERANK_SECONDS / facts.cores


def _over_budget(config: Config, candidates: list[dict[str, Any]]) -> list[Finding]:
    minutes = sum(c["estimated_seconds"] for c in candidates) / 60
    if config.budget.minutes is None or minutes <= config.budget.minutes:
        return []
    message = f"the run is estimated at {minutes:.0f} minutes, over the budget of {config.budget.minutes:g}."
    fix = "Lower data.train_limit or train.epochs, or leave candidates out; or raise budget.minutes."
    return [Finding("budget", "warning", 1, message, fix=fix)]


def _refuse_what_does_not_fit(
    facts: Facts, candidates: list[dict[str, Any]], trainings: Mapping[str, Training], micro: Mapping[str, int]
) -> None:
    """Raise HardwareError with what each candidate needs, and for each that is trained the settings that would fit."""
    problems = []
    free = f"{facts.available_bytes / 2**30:.1f} GiB are free"
    for row in (c for c in candidates if c["estimated_memory_bytes"] > facts.available_bytes):
        advice = "Choose a smaller model."
        if row["family"] in FINE_TUNED:
            kind = plain_id(row["id"]).rsplit("/", 1)[1]
            besides = row["estimated_memory_bytes"] - row["memory"]["total"]
            ways = ways_to_fit(trainings[kind], facts.available_bytes - besides, micro[kind])
            advice = f"Would fit: {'; '.join(ways)}."
        problems.append(
            f"{row['id']} needs about {row['estimated_memory_bytes'] / 2**30:.1f} GiB, but {free}. {advice}"
        )
    if problems:
        raise HardwareError("\n".join(problems))
