"""Time before the run, and memory besides training's, from formulas. The report sets the actual beside them."""

from __future__ import annotations

from tunesmith.config import Remedies
from tunesmith.plan.facts import Facts
from tunesmith.train.methods import METHODS
from tunesmith.train.remedies.kl import TEXTS_A_STEP
from tunesmith.train.remedies.protection import texts_wanted
from tunesmith.train.remedies.replay import ANSWER_TOKENS, QUESTION_TOKENS

EFFICIENCY = 0.6  # share of the measured matrix-product rate that a whole step reaches on a CPU
OTHER_PROCESS_BYTES = 600e6  # Python, torch and the tokenizer, before any weight
TEXT_TOKENS = 80  # of a general text, question and answer
LOGIT_COPIES = 2  # of a chunk of logits: they, and their exponentials


def training_seconds(facts: Facts, method: str, epochs: float, batch: int, share_prefix: bool) -> float:
    """Seconds to train: tokens really computed × FLOPs per token ÷ (measured rate × efficiency)."""
    prefix = facts.prefix_tokens if share_prefix else 0
    computed = facts.tokens_per_example - prefix + prefix / batch
    below_head = facts.parameters - facts.vocabulary * facts.hidden_size
    head = facts.vocabulary * facts.hidden_size
    per_example = computed * METHODS[method].flops_per_token(below_head)
    per_example += facts.supervised_per_example * METHODS[method].flops_per_token(head)
    if METHODS[method].start == "cached":
        epochs = 1.0  # the features are kept
    return facts.train * epochs * per_example / (facts.flops_per_second * EFFICIENCY)


def scoring_seconds(facts: Facts, examples: int, tokens_each: float) -> float:
    """Seconds to compute ``tokens_each`` tokens forward for each example, 2 FLOPs per parameter and token."""
    return examples * tokens_each * 2.0 * facts.parameters / (facts.flops_per_second * EFFICIENCY)


def remedies_cost(facts: Facts, method: str, remedies: Remedies, steps: int, epochs: float) -> tuple[float, float]:
    """Seconds and bytes of remedies besides the task's own training: texts written, replayed and held, copies."""
    wanted = texts_wanted(remedies, facts.train)
    written = sum(wanted.values()) if remedies.replay_from == "base" else 0
    seconds = scoring_seconds(facts, written, 2 * (QUESTION_TOKENS + ANSWER_TOKENS))  # half of them are not ended
    learned = (steps * TEXTS_A_STEP if remedies.kl else 0) + (wanted["held"] if remedies.ewc else 0)
    learned += round(wanted["replayed"] * epochs)
    seconds += scoring_seconds(facts, learned, 2 * TEXT_TOKENS)
    seconds += scoring_seconds(facts, len(remedies.scale) * wanted["compared"], TEXT_TOKENS)
    on_weights = remedies.l2_sp or remedies.ewc or remedies.averaging or remedies.scale
    copies = bool(on_weights and method == "full") + bool(remedies.scale and method == "full") + bool(remedies.ewc)
    return seconds, 4.0 * copies * facts.parameters


def scoring_bytes(facts: Facts) -> float:
    """Peak resident bytes while only predicting."""
    size = 4 if facts.dtype == "float32" else 2
    return OTHER_PROCESS_BYTES + facts.parameters * size + LOGIT_COPIES * 256 * facts.vocabulary * 4
