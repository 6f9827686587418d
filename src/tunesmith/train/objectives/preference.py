"""Direct preference optimisation: the chosen answer is to gain likelihood on the rejected one, against a reference.

The loss of a pair is −log σ(margin), its *reward margin* being

    β · ((log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected)))

with sums over the answers' tokens, end of turn included. Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

The reference is the model as it was when training began, which for a new adapter is the model with the adapter off.
What trains is copied once, some megabytes for an adapter and the whole model for full fine-tuning, and the copy is put
in place while a pair's reference is computed, once, as the reference does not move. No file is needed to resume: a
resumed training loads the same start before it loads a checkpoint. And no other pass is needed for any kind of adapter.

Prompt and answers form a tree, so what the two share is computed once, with its gradient. Logits exist for one chunk of
answer tokens at a time: the loss depends on the tokens through the two sums alone, so that once those are known (first
pass over the head), its gradient is that of a weighted sum of the tokens' losses (second pass).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import softplus

from tunesmith.data.render import IGNORE_INDEX, LISTED, Rendered, Renderer, render_all
from tunesmith.errors import ConfigError, DataError, TrainingError
from tunesmith.measures.uncertainty import bootstrap_interval, wilson_interval
from tunesmith.model.attention import Pack, Segment, build_pack
from tunesmith.model.forward import hidden_states, summed_loss, token_losses
from tunesmith.model.score import shared_start
from tunesmith.records import Example, Finding, Message
from tunesmith.tasks.preference import render_pair, worse
from tunesmith.train.batches import groups_by_size
from tunesmith.train.objectives.objective import EncodeSettings, Interface

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel


RATE = 0.1  # of a method's learning rate, whose rule is for next tokens; TRL's defaults: 1e-6 and 2e-5, a twentieth


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and two answers to it, as token ids, each answer with its end of turn; ``beta`` is its task's."""

    example_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    beta: float

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, the prompt once."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def units(self) -> int:
        """A pair has one loss."""
        return 1

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def input_ids(self) -> list[int]:
        """The conversation with the chosen answer."""
        return [*self.prompt, *self.chosen]

    @property
    def labels(self) -> list[int]:
        """``input_ids`` where the chosen answer stands, ``IGNORE_INDEX`` elsewhere."""
        return [IGNORE_INDEX] * len(self.prompt) + list(self.chosen)


class PairBatch(NamedTuple):
    """Pairs computed at once; ``rows`` are places in the row whose hidden state predicts ``targets``."""

    pack: Pack
    rows: torch.Tensor  # (tokens of answers,)
    targets: torch.Tensor  # (tokens of answers,)
    pairs: torch.Tensor  # (tokens of answers,): which pair of the batch each belongs to
    signs: torch.Tensor  # (tokens of answers,): 1 for the chosen answer, −1 for the rejected
    order: tuple[int, ...]  # index of each pair in the step


@dataclass(frozen=True, slots=True)
class Dpo:
    """−log σ(reward margin) of pairs, in nats.

    ``start`` holds what trains with a copy of its values when training began; ``packed``, ``micro_batch_tokens`` and
    ``share_prefix`` are as in the causal objective.
    """

    start: tuple[tuple[torch.nn.Parameter, torch.Tensor], ...]
    packed: bool = True
    micro_batch_tokens: int = 1024
    share_prefix: bool = True
    reference: dict[Pair, float] = field(default_factory=dict)  # log π_ref(chosen) − log π_ref(rejected)

    def losses(self, model: Any, items: Sequence[Pair], scale: float) -> Iterator[torch.Tensor]:
        reference = self._reference(model, items)
        device = next(model.parameters()).device
        for batch in _batches(items, self.micro_batch_tokens, self.share_prefix, device):
            hidden = hidden_states(model, batch.pack, self.packed)[batch.rows]
            order = list(batch.order)
            betas = _betas(items)[order]
            margins = betas * (_log_ratios(model, hidden.detach(), batch) - reference[order])
            slopes = betas * torch.sigmoid(-margins)  # of the loss in log π(rejected) − log π(chosen)
            weights = scale * slopes.to(device, torch.float32)[batch.pairs] * batch.signs
            gradient = summed_loss(model, hidden, batch.targets, weights)
            loss = (scale * softplus(-margins).sum()).to(device, torch.float32)
            yield loss + (gradient - gradient.detach())

    def item_losses(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        return softplus(-self.margins(model, items))

    def margins(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        """Reward margin of each pair in nats, shape (n,), float64 on the CPU; the caller sets eval mode."""
        return _betas(items) * (self._all_log_ratios(model, items) - self._reference(model, items))

    def _all_log_ratios(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        device = next(model.parameters()).device
        found = torch.zeros(len(items), dtype=torch.float64)
        with torch.no_grad():
            for batch in _batches(items, self.micro_batch_tokens, self.share_prefix, device):
                hidden = hidden_states(model, batch.pack, self.packed)[batch.rows]
                found[list(batch.order)] = _log_ratios(model, hidden, batch)
        return found

    def _reference(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        """log π_ref(chosen) − log π_ref(rejected) of each pair, shape (n,), float64 on the CPU.

        Each pair is computed alone, so that its value does not depend on the others in its step: a resumed training,
        which meets it at another step first, goes on bit for bit.
        """
        new = [pair for pair in dict.fromkeys(items) if pair not in self.reference]
        if new:
            was_training = model.training
            model.eval()
            self._swap()
            try:
                self.reference.update((pair, float(self._all_log_ratios(model, [pair])[0])) for pair in new)
            finally:
                self._swap()
                model.train(was_training)
        return torch.tensor([self.reference[pair] for pair in items], dtype=torch.float64)

    def _swap(self) -> None:
        """Exchange what trains and its values at the start, without copying."""
        for parameter, copy in self.start:
            parameter.data, copy.data = copy.data, parameter.data


def _betas(pairs: Sequence[Pair]) -> torch.Tensor:
    return torch.tensor([pair.beta for pair in pairs], dtype=torch.float64)


def _batches(
    pairs: Sequence[Pair], token_budget: int, share_prefix: bool, device: torch.device | str
) -> Iterator[PairBatch]:
    """Cut a step into packs of about ``token_budget`` tokens; a pair longer than that stands alone."""
    prefix = shared_start([pair.prompt for pair in pairs]) if share_prefix else []
    for group in groups_by_size([pair.tokens for pair in pairs], token_budget, len(prefix)):
        yield _batch([pairs[i] for i in group], group, prefix, device)


def _batch(pairs: list[Pair], order: list[int], prefix: list[int], device: torch.device | str) -> PairBatch:
    """An answer's last token is only predicted, never fed."""
    items = [
        [Segment(pair.prompt[len(prefix) :]), Segment(pair.chosen[:-1], 0), Segment(pair.rejected[:-1], 0)]
        for pair in pairs
    ]
    pack = build_pack(prefix, items, device)
    rows: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    signs: list[float] = []
    for index, (pair, item, starts) in enumerate(zip(pairs, items, pack.starts, strict=True)):
        last = starts[0] + len(item[0].tokens) - 1  # the prompt's last token predicts the first of both answers
        for answer, start, sign in ((pair.chosen, starts[1], 1.0), (pair.rejected, starts[2], -1.0)):
            rows += [last, *range(start, start + len(answer) - 1)]
            targets += answer
            owners += [index] * len(answer)
            signs += [sign] * len(answer)
    return PairBatch(
        pack, torch.tensor(rows, device=device), torch.tensor(targets, device=device),
        torch.tensor(owners, device=device), torch.tensor(signs, device=device), tuple(order),
    )  # fmt: skip


def _log_ratios(model: Any, hidden: torch.Tensor, batch: PairBatch) -> torch.Tensor:
    """log π(chosen) − log π(rejected) of each pair, shape (pairs,), float64 on the CPU, without gradient."""
    nats = token_losses(model, hidden, batch.targets).double() * batch.signs
    return -torch.zeros(len(batch.order), dtype=torch.float64).index_add_(0, batch.pairs.cpu(), nats.cpu())


def encode(
    task: Any, tokenizer: Any, examples: Sequence[Example], settings: EncodeSettings
) -> tuple[list[Pair], list[Finding]]:
    """Both conversations through the model's chat template; the longer one decides whether a pair is too long."""
    if settings.train_on == "all":
        raise ConfigError("train.train_on is 'all', but a pair is compared by its answers. Leave it out.")
    renderer = Renderer(tokenizer, settings.max_length)
    pairs: list[Pair] = []
    longer: list[tuple[str, tuple[Message, ...]]] = []
    problems: list[str] = []
    beta: float = task.beta
    for example in examples:
        try:
            prompt, chosen, rejected = render_pair(task, renderer, example)
        except DataError as error:
            problems.append(f"  {example.source}: {error}")
            continue
        pairs.append(Pair(example.source, tuple(prompt), tuple(chosen), tuple(rejected), beta))
        longer.append((example.source, task.messages(example if len(chosen) >= len(rejected) else worse(example))))
    if problems:
        more = [f"  … and {len(problems) - LISTED:,} more"] if len(problems) > LISTED else []
        head = f"{len(problems):,} of {len(examples):,} pairs cannot be used."
        raise DataError("\n".join([head, *problems[:LISTED], *more]))
    if all(pair.longest <= settings.max_length for pair in pairs):
        return pairs, []
    fitted, findings = render_all(renderer, longer, settings.overlong)
    if settings.overlong == "drop":
        pairs = [pair for pair in pairs if pair.longest <= settings.max_length]
    # what was cut is the beginning of the prompt, which the two answers share
    return [
        replace(pair, prompt=pair.prompt if len(one.input_ids) == pair.longest else _prompt_of(one, pair))
        for pair, one in zip(pairs, fitted, strict=True)
    ], findings


def _prompt_of(longer: Rendered, pair: Pair) -> tuple[int, ...]:
    """The prompt that is left in front of the longer answer."""
    return tuple(longer.input_ids[: len(longer.input_ids) - max(len(pair.chosen), len(pair.rejected))])


def build(lm: LanguageModel, micro_batch_tokens: int, share_prefix: bool) -> Dpo:
    """The objective of a model made ready to train, whose weights as they are now are the reference.

    Raises:
        TrainingError: If nothing of the model trains: it would be its own reference at every step.
    """
    start = tuple((p, p.detach().clone()) for p in lm.model.parameters() if p.requires_grad)
    if not start:
        raise TrainingError("preference: the model has no trained parameter. Attach a method before the objective.")
    return Dpo(start, lm.packed, micro_batch_tokens, share_prefix)


def shared_prefix(items: Sequence[Pair]) -> int:
    """Length of what all prompts begin with."""
    return len(shared_start([pair.prompt for pair in items]))


def measured(objective: Dpo, model: Any, items: Sequence[Pair], rng: np.random.Generator) -> dict[str, Any]:
    """What the report says of the reward margin: its mean in nats, and the share of pairs where it is above 0.

    It was 0 for every pair when training began, so an interval above 0 says that it grew.
    """
    model.eval()
    margins = objective.margins(model, items).numpy()
    return {
        "reward_margin": bootstrap_interval(margins, rng=rng).to_json(),
        "reward_accuracy": wilson_interval(int((margins > 0).sum()), len(margins)).to_json(),
    }


PREFERENCE = Interface(encode, build, shared_prefix, measured=measured, loss_unit="in nats per pair")
