"""Likelihood of the target given the source: what encoder–decoder models minimise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.data.render import listed
from tunesmith.errors import DataError
from tunesmith.model.seq2seq import Pair, encode_pair, target_losses, training_losses
from tunesmith.records import Example, Finding
from tunesmith.tasks import Task
from tunesmith.train.objectives.objective import EncodeSettings, Interface

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel


@dataclass(frozen=True, slots=True)
class Seq2seq:
    """Negative log-likelihood of target tokens, in nats; padding carries none."""

    micro_batch_tokens: int = 1024

    def losses(self, model: Any, items: Sequence[Pair], scale: float) -> Iterator[torch.Tensor]:
        return training_losses(model, items, scale, self.micro_batch_tokens)

    def item_losses(self, model: Any, items: Sequence[Pair]) -> torch.Tensor:
        return target_losses(model, items, self.micro_batch_tokens)


def encode(
    task: Task, tokenizer: Any, examples: Sequence[Example], settings: EncodeSettings
) -> tuple[list[Pair], list[Finding]]:
    """Source and target of each example; neither may have more than ``max_length`` tokens.

    Those that do can be refused or dropped, not cut: what is left of a source no longer says what its target does.
    """
    problems: list[str] = []
    pairs: list[Pair] = []
    for example in examples:
        try:
            pairs.append(encode_pair(tokenizer, task.messages(example), example.source))
        except DataError as error:
            problems.append(f"{example.source}: {error}")
    if problems:
        raise DataError(listed(f"{len(problems):,} of {len(examples):,} examples cannot be used.", problems))
    limit = settings.max_length
    kept = [pair for pair in pairs if _longest(pair) <= limit]
    long = [pair for pair in pairs if _longest(pair) > limit]
    if not long:
        return pairs, []
    lengths = [f"{pair.example_id}: {len(pair.source):,} and {len(pair.target):,} tokens" for pair in long]
    count = f"{len(long):,} of {len(pairs):,} examples have a source or a target of more than {limit:,} tokens"
    if settings.overlong != "drop" or not kept:
        fix = "Set data.overlong to drop, raise train.max_length, or shorten them."
        if settings.overlong == "truncate_left":
            fix = f"An encoder–decoder's source is not cut (data.overlong: truncate_left). {fix}"
        raise DataError(f"{listed(count + '.', lengths)}\n{fix}")
    names = tuple(pair.example_id for pair in long[:50])
    fix = "Raise train.max_length, or shorten them."
    return kept, [Finding("overlong", "warning", len(long), f"{count}; they were left out.", (), names, fix)]


def _longest(pair: Pair) -> int:
    return max(len(pair.source), len(pair.target))


def build(lm: LanguageModel, micro_batch_tokens: int, share_prefix: bool) -> Seq2seq:
    return Seq2seq(micro_batch_tokens)


SEQ2SEQ = Interface(encode, build, lambda items: 0)
