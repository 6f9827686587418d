"""A linear head on pooled features: what classification by a head, several labels and regression minimise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tunesmith.data.render import LISTED
from tunesmith.errors import DataError
from tunesmith.measures.linear import HeadLoss, fit_linear
from tunesmith.model.head import HeadModel, Input, compute_features, head_inputs, input_tokens, length_batches
from tunesmith.records import Example, Finding
from tunesmith.train.methods.method import Start
from tunesmith.train.objectives.objective import ByPart, EncodeSettings, Interface

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

STANDARDISED_BY = 512  # training examples whose features' mean and spread are taken
SMALLEST_SPREAD = 0.1  # of a feature, times the mean spread: one that hardly moves is not blown up


@dataclass(frozen=True, slots=True)
class HeadItem:
    """An encoded example, whose loss counts ``weight`` times in training.

    ``features`` are the frozen backbone's, shape (width,), where they were computed once.
    """

    example_id: str
    inputs: Input
    target: tuple[float, ...]
    loss: HeadLoss
    features: torch.Tensor | None = None
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        return input_tokens(self.inputs)

    @property
    def units(self) -> int:
        """One target each."""
        return 1


@dataclass(frozen=True, slots=True)
class HeadObjective:
    """Negative log-likelihood of the label in nats (``cross_entropy``), the mean over labels of each decision's
    (``binary``), or the squared error in units of the targets' spread (``squared``)."""

    micro_batch_tokens: int = 1024

    def losses(self, model: HeadModel, items: Sequence[HeadItem], scale: float) -> Iterator[torch.Tensor]:
        for batch in self._batches(items):
            losses = _losses(model, [items[i] for i in batch])
            yield scale * (losses * losses.new_tensor([items[i].weight for i in batch])).sum()

    def item_losses(self, model: HeadModel, items: Sequence[HeadItem]) -> torch.Tensor:
        found = torch.zeros(len(items), dtype=torch.float64)
        with torch.no_grad():
            for batch in self._batches(items):
                found[batch] = _losses(model, [items[i] for i in batch]).double().cpu()
        return found

    def _batches(self, items: Sequence[HeadItem]) -> Iterator[list[int]]:
        if items and items[0].features is not None:
            return iter([list(range(len(items)))])
        return length_batches([item.tokens for item in items], self.micro_batch_tokens)


def _losses(model: HeadModel, items: Sequence[HeadItem]) -> torch.Tensor:
    """Loss of each item, shape (n,), float32."""
    kept = [item.features for item in items if item.features is not None]
    outputs = model.from_features(torch.stack(kept)) if kept else model([item.inputs for item in items])
    targets = torch.tensor([item.target for item in items], device=outputs.device)
    return LOSSES[items[0].loss](outputs, targets, model)


LOSSES: dict[HeadLoss, Callable[[torch.Tensor, torch.Tensor, HeadModel], torch.Tensor]] = {
    "cross_entropy": lambda outputs, targets, _: cross_entropy(outputs, targets[:, 0].long(), reduction="none"),
    "binary": lambda outputs, targets, _: binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1),
    "squared": lambda outputs, targets, model: (
        (outputs - (targets - model.target_shift) / model.target_scale).square().mean(1)
    ),
}


def encode(
    task: Any, tokenizer: Any, examples: Sequence[Example], settings: EncodeSettings
) -> tuple[list[HeadItem], list[Finding]]:
    """Texts of a ``HeadTask`` through the tokenizer, images by their path; texts over ``max_length`` as told."""
    items = [
        HeadItem(example.source, read, tuple(task.head_target(example)), task.head_loss, None, example.weight)
        for example, read in zip(examples, head_inputs(tokenizer, examples), strict=True)
    ]
    long = [item for item in items if not isinstance(item.inputs, str) and item.tokens > settings.max_length]
    if not long:
        return items, []
    longest = max(item.tokens for item in long)
    count = f"{len(long):,} of {len(items):,} examples are longer than {settings.max_length:,} tokens"
    count += f" (longest {longest:,})"
    names = tuple(item.example_id for item in long[:LISTED])
    if settings.overlong == "refuse" or (settings.overlong == "drop" and len(long) == len(items)):
        listed = "\n".join(f"  {item.example_id}: {item.tokens:,} tokens" for item in long[:LISTED])
        raise DataError(
            f"{count}.\n{listed}\nSet data.overlong to drop or truncate_left, raise train.max_length, or shorten them."
        )
    if settings.overlong == "drop":
        fix = "Raise train.max_length, shorten them, or set data.overlong to truncate_left."
        kept = [item for item in items if isinstance(item.inputs, str) or item.tokens <= settings.max_length]
        return kept, [Finding("overlong", "warning", len(long), f"{count}; they were left out.", (), names, fix)]
    special = set(tokenizer.all_special_ids)
    cut = [replace(item, inputs=_cut(item.inputs, settings.max_length, special)) for item in items]
    message = f"{count}; their beginnings were cut."
    fix = "Raise train.max_length to keep them whole."
    return cut, [Finding("truncated", "warning", len(long), message, (), names, fix)]


def _cut(read: Input, limit: int, special: set[int]) -> Input:
    """The end of a text's tokens, behind the special one that it starts with, if any."""
    if isinstance(read, str) or len(read) <= limit:
        return read
    keep = 1 if read[0] in special else 0
    return [*read[:keep], *read[len(read) - limit + keep :]]


def build(lm: LanguageModel, micro_batch_tokens: int, share_prefix: bool) -> HeadObjective:
    return HeadObjective(micro_batch_tokens)


def prepare(
    model: HeadModel, learned: ByPart, followed: ByPart, micro_batch_tokens: int, start: Start
) -> tuple[ByPart, ByPart]:
    """Standardise features and targets by the training items', then start the head as the method wants it.

    Args:
        model: As attached: its features are still the base's.
        learned: The training items, by part.
        followed: The validation items, by part; the fit of a head is chosen by them.
        micro_batch_tokens: Tokens computed at once.
        start: ``new`` leaves head and items alone; ``cached`` keeps each item's features, for a backbone that stays
            as it is; ``fitted`` puts the best linear model on the features into the head.

    Returns:
        The items and the validation items to train with.
    """
    if start == "cached":
        learned, followed = (
            {name: _cached(model, part, micro_batch_tokens) for name, part in parts.items()}
            for parts in (learned, followed)
        )
    items: list[HeadItem] = [item for part in learned.values() for item in part]
    targets = _targets(items)
    if items[0].loss == "squared":
        model.target_shift.copy_(torch.from_numpy(targets.mean(0)))
        model.target_scale.copy_(torch.from_numpy(np.where(targets.std(0) > 0, targets.std(0), 1.0)))
    some = items[:: -(-len(items) // STANDARDISED_BY)] if start == "new" else items
    features = _features(model, some, micro_batch_tokens)
    spread = features.std(0, correction=0)
    model.feature_shift.copy_(features.mean(0))
    model.feature_scale.copy_(spread.clamp_min(max(SMALLEST_SPREAD * float(spread.mean()), 1e-6)))
    if start == "fitted":
        held: list[HeadItem] = [item for part in followed.values() for item in part]
        held_features = _features(model, held, micro_batch_tokens)
        weights = np.array([item.weight for item in items])
        _fit_head(model, features, targets, held_features, _targets(held), items[0].loss, weights)
    return learned, followed


def _targets(items: Sequence[HeadItem]) -> NDArray[np.float64]:
    return np.array([item.target for item in items])


def _features(model: HeadModel, items: Sequence[HeadItem], budget: int) -> torch.Tensor:
    kept = [item.features for item in items if item.features is not None]
    return torch.stack(kept) if kept else compute_features(model, [item.inputs for item in items], budget)


def _cached(model: HeadModel, items: Sequence[HeadItem], budget: int) -> list[HeadItem]:
    rows = _features(model, items, budget)
    return [replace(item, features=row) for item, row in zip(items, rows, strict=True)]


def _fit_head(
    model: HeadModel,
    features: torch.Tensor,
    targets: NDArray[np.float64],
    held: torch.Tensor,
    held_targets: NDArray[np.float64],
    loss: HeadLoss,
    weights: NDArray[np.float64],
) -> None:
    """Put the simplest linear model that is as good as the best on held-out features into the head.

    One that fits the training examples to the end, as the best often does, leaves the backbone nothing to learn from.
    """
    length = model.head.in_features**0.5  # of a standardised vector, as a rule; the grid of penalties is for length 1
    scaled, held_scaled = (
        ((part - model.feature_shift) / model.feature_scale / length).double().cpu().numpy()
        for part in (features, held)
    )
    if loss == "squared":
        shift, scale = model.target_shift.double().cpu().numpy(), model.target_scale.double().cpu().numpy()
        targets, held_targets = (targets - shift) / scale, (held_targets - shift) / scale
    outputs = model.head.out_features
    counted = weights if (weights != 1).any() else None
    fit = fit_linear(scaled, targets, held_scaled, held_targets, loss, outputs, counted, simplest=True)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(fit.weights / length))
        model.head.bias.copy_(torch.from_numpy(fit.bias))


HEAD = Interface(encode, build, lambda items: 0, prepare=prepare, loss_unit="per example")
