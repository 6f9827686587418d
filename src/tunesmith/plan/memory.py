"""How much memory training takes, before it: from formulas, and corrected by two steps that were measured.

What is counted on a CPU is what the process holds at its peak beyond what it held before the model was loaded. The
activations are those that autograd keeps: counted from what the layers of a transformer save for their backward
pass, with attention that keeps no matrix of scores (Korthikanti et al. 2022, arXiv:2205.05198, section 4, without
its quadratic term), and logits that exist for one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from tunesmith.config import Lora, Qlora
from tunesmith.model.quantise import BYTES_PER_WEIGHT
from tunesmith.plan.facts import Facts
from tunesmith.train.methods import METHODS

LOSS_CHUNK = 256  # positions whose logits exist at once, as in model.forward
ATTENTION_CHUNK = 128  # queries of one attention product, as in model.attention
# What the heap of a CPU process holds over what autograd keeps, for adapters and where every weight moves: gradients
# and moments lie scattered in blocks that activations gave back, and no longer fit into. Fitted; see the benchmark.
HEAP, HEAP_WHOLE = 1.85, 1.6
SCORE_COPIES = 3  # of attention's scores where they are kept: the softmax, what is dropped, the result
TOKENIZER_BYTES = 1100  # of a fast tokenizer, for an entry of its vocabulary


class Correction(NamedTuple):
    """What the formula's bytes become: ``factor`` times them, and ``bytes`` more."""

    factor: float = 1.0
    bytes: float = 0.0


AS_SAID = Correction()


def correction(formula: Sequence[float], measured: Sequence[float]) -> Correction:
    """The line through two measurements: what the formula said of two steps, and what they took."""
    (a, b), (x, y) = formula, measured
    factor = (y - x) / (b - a) if b != a else 1.0
    return Correction(factor, y - factor * b)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they are for, at the peak of training; ``unexplained`` is what measured steps took besides."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    unexplained: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, float]:
        return {name: round(value) for name, value in asdict(self).items()} | {"total": round(self.total)}


@dataclass(frozen=True, slots=True)
class Training:
    """A training whose memory is asked for.

    Attributes:
        facts: Of data, model and machine.
        settings: Of the method.
        batch: Examples a step.
        by_head: Whether a new head answers instead of the model's own.
        correction: By two measured steps, if any.
    """

    facts: Facts
    settings: Any
    batch: int
    by_head: bool = False
    correction: Correction = AS_SAID

    def memory(self, tokens: int) -> Memory:
        """Bytes at the peak with ``tokens`` computed at once, or the longest example's where that is more."""
        facts, method = self.facts, METHODS[self.settings.kind]
        size = 4 if facts.dtype == "float32" else 2
        tokens = max(tokens, facts.longest_example)
        trained = method.trained_parameters(facts.parameters, facts.hidden_size, facts.widths.linears, self.settings)
        table = facts.vocabulary * facts.hidden_size
        weights = float(facts.parameters * size)
        if method.four_bit:
            weights = table * size + (facts.parameters - table) * BYTES_PER_WEIGHT
        weights += TOKENIZER_BYTES * facts.vocabulary
        if method.start == "cached":
            found = Memory(weights, 4.0 * trained, 8.0 * trained, facts.train * facts.hidden_size * 4.0, 0.0)
        else:
            whole = trained >= facts.parameters
            activations = tokens * size * self._kept_per_token(whole, tokens)
            if facts.dtype == "float32":
                activations *= HEAP_WHOLE if whole else HEAP
            rows = min(LOSS_CHUNK, tokens * facts.supervised_per_example / facts.tokens_per_example)
            logits = 0.0 if self.by_head else 2.0 * rows * facts.vocabulary * 4  # they, and their exponentials
            if whole:
                logits += (1 if self.by_head else 2) * table * size  # the table's own gradient, and the same scaled
            gradients = float(trained * size)
            if self.batch * facts.tokens_per_example <= tokens:
                gradients = max(0.0, gradients - activations)  # they are made as the activations go
            found = Memory(weights, gradients, 8.0 * trained, activations, logits)
        return replace(found, unexplained=(self.correction.factor - 1) * found.total + self.correction.bytes)

    def _kept_per_token(self, whole: bool, tokens: int) -> float:
        """Numbers that one token leaves behind for the backward pass."""
        facts, widths = self.facts, self.facts.widths
        layer = 2.0 * facts.hidden_size  # what the linear layers of both halves read
        layer += 5 * widths.attention  # queries, keys and values for every head, and twice what attention gives
        layer += (4 if widths.gated else 2) * facts.intermediate_size + widths.heads
        if widths.dropout:
            layer += 2 * facts.hidden_size + SCORE_COPIES * widths.heads * min(facts.longest_example, tokens)
        if facts.prefix_tokens:  # its keys and values, beside each chunk's
            layer += 2 * widths.attention * facts.prefix_tokens / ATTENTION_CHUNK
        norms = widths.norms * (2 if whole and not widths.dropout else 1)  # what is read, and what a weight scales
        adapters = 0.0
        if not whole:
            adapters = self.settings.rank * widths.linears / (facts.hidden_size + facts.intermediate_size)
        return facts.layers * layer + norms + adapters + 3 * facts.hidden_size

    def largest_micro_batch(self, free: float) -> int | None:
        """The most tokens computed at once that fit into ``free`` bytes, up to those beyond which nothing is gained.

        None where not even the longest example fits.
        """
        low = self.facts.longest_example
        high = max(fast_tokens(self.facts), low)
        if self.memory(low).total > free:
            return None
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.memory(middle).total <= free else (low, middle - 1)
        return low


def fast_tokens(facts: Facts) -> int:
    """Tokens computed at once beyond which nothing is gained: measured on 2 cores; on a GPU a guess."""
    return 1024 if facts.dtype == "float32" else 8192


def ways_to_fit(training: Training, free: float, tokens: int) -> list[str]:
    """Settings with which a training would fit into ``free`` bytes, in words, those that change least first.

    Args:
        training: The one that does not fit.
        free: Bytes.
        tokens: Computed at once as it is.
    """

    def told(setting: str, one: Training, at_once: int) -> str:
        return f"{setting} ({one.memory(at_once).total / 2**30:.1f} GiB besides the program)"

    facts, kind, ways = training.facts, training.settings.kind, []
    most = training.largest_micro_batch(free)
    if most is not None and most < tokens:
        ways.append(told(f"train.micro_batch_tokens={most}", training, most))
    for lighter in {"full": (Lora(), Qlora()), "gradual": (Lora(), Qlora()), "lora": (Qlora(),)}.get(kind, ()):
        other = replace(training, settings=lighter, correction=AS_SAID)
        if facts.architecture != "decoder" and METHODS[lighter.kind].four_bit:
            continue
        if (fewer := other.largest_micro_batch(free)) is not None:
            besides = f" with train.micro_batch_tokens={fewer}" if fewer < tokens else ""
            ways.append(told(f"method={lighter.kind}{besides}", other, fewer))
    if most is None:
        short = replace(training, facts=replace(facts, longest_example=9))
        if (length := short.largest_micro_batch(free)) is not None:
            ways.append(told(f"train.max_length={length} with data.overlong=truncate_left", short, length))
    if free > 0:
        share = min(0.9, free / training.memory(facts.longest_example).total)
        ways.append(f"a model of about {facts.parameters * share / 1e6:,.0f} M parameters")
    return ways or ["nothing here: more memory is needed"]
