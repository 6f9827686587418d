"""Time and memory before the run, from formulas. They may be wrong; the report sets the actual beside them."""

from __future__ import annotations

from tunesmith.config import Remedies
from tunesmith.model.quantise import BYTES_PER_WEIGHT
from tunesmith.plan.facts import Facts
from tunesmith.train.methods import METHODS
from tunesmith.train.remedies.kl import TEXTS_A_STEP
from tunesmith.train.remedies.protection import texts_wanted
from tunesmith.train.remedies.replay import ANSWER_TOKENS, QUESTION_TOKENS

EFFICIENCY = 0.6  # share of the measured matrix-product rate that a whole step reaches on a CPU
OTHER_PROCESS_BYTES = 600e6  # Python, torch and the tokenizer, before any weight
TEXT_TOKENS = 80  # of a general text, question and answer
LOGIT_COPIES = 3  # of a chunk of logits: the logits, their exponentials, the gradient


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


def training_bytes(facts: Facts, method: str, settings: object, micro_batch_tokens: int, loss_chunk: int) -> float:
    """Peak resident bytes while training in float32.

    Weights 4 bytes a parameter; gradient and two moments 12 bytes a trained one; activations kept for the backward
    pass (none where features are kept instead), about 26 hidden and 5 intermediate widths per token and layer in a
    gated decoder; one chunk of logits.
    """
    size = 4 if facts.dtype == "float32" else 2
    trained = METHODS[method].trained_parameters(facts.parameters, facts.hidden_size, facts.layers, settings)
    tokens = max(micro_batch_tokens, facts.longest_example)
    frozen: float = facts.parameters * size
    if METHODS[method].four_bit:
        table = facts.vocabulary * facts.hidden_size  # the embedding stays as it is
        frozen = table * size + (facts.parameters - table) * BYTES_PER_WEIGHT
    activations: float = tokens * facts.layers * (26 * facts.hidden_size + 5 * facts.intermediate_size) * size
    if METHODS[method].start == "cached":
        activations = facts.train * facts.hidden_size * 4
    logits = LOGIT_COPIES * loss_chunk * facts.vocabulary * 4
    return OTHER_PROCESS_BYTES + frozen + trained * 12 + activations + logits


def remedies_cost(facts: Facts, method: str, remedies: Remedies, steps: int) -> tuple[float, float]:
    """Seconds and bytes of remedies besides training itself: texts that the base writes, those held to it, copies."""
    wanted = texts_wanted(remedies, facts.train)
    written = sum(wanted.values()) if remedies.replay_from == "base" else 0
    seconds = scoring_seconds(facts, written, 2 * (QUESTION_TOKENS + ANSWER_TOKENS))  # half of them are not ended
    learned = (steps * TEXTS_A_STEP if remedies.kl else 0) + (wanted["held"] if remedies.ewc else 0)
    seconds += scoring_seconds(facts, learned, 2 * TEXT_TOKENS)
    seconds += scoring_seconds(facts, len(remedies.scale) * wanted["compared"], TEXT_TOKENS)
    on_weights = remedies.l2_sp or remedies.ewc or remedies.averaging or remedies.scale
    copies = bool(on_weights and method == "full") + bool(remedies.scale and method == "full") + bool(remedies.ewc)
    return seconds, 4.0 * copies * facts.parameters


def scoring_bytes(facts: Facts) -> float:
    """Peak resident bytes while only predicting."""
    size = 4 if facts.dtype == "float32" else 2
    return OTHER_PROCESS_BYTES + facts.parameters * size + LOGIT_COPIES * 256 * facts.vocabulary * 4
