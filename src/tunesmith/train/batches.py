"""Which examples make a step, in which order, and how a step is cut into packs that fit memory.

The order depends on the seed and the epoch alone: not on the number of processes, nor on where a run resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.model.attention import Pack, Segment, build_pack, common_start


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Examples computed at once. ``rows`` are places in the row whose hidden state predicts ``targets``."""

    pack: Pack
    rows: torch.Tensor  # (supervised,)
    targets: torch.Tensor  # (supervised,)
    counts: tuple[int, ...]  # supervised tokens of each example
    order: tuple[int, ...]  # index of each example in the step


def steps_in(n_examples: int, epochs: float, global_batch_size: int) -> int:
    """Optimizer steps in ``epochs`` passes; every epoch ends with a shorter step where it does not divide."""
    whole, part = divmod(epochs, 1)
    per_epoch = -(-n_examples // global_batch_size)
    return max(1, int(whole) * per_epoch + round(part * per_epoch))


class Order(Protocol):
    """Which items make a step. ``size`` is how many an epoch draws."""

    @property
    def size(self) -> int: ...

    def step(self, global_batch_size: int, seed: int, step: int) -> np.ndarray:
        """Indices of the items in optimizer step ``step`` (from 0), the same on every process."""
        ...


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Every item once an epoch, in an order of the epoch's own."""

    size: int

    def step(self, global_batch_size: int, seed: int, step: int) -> np.ndarray:
        per_epoch = -(-self.size // global_batch_size)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(self.size)
        return order[place * global_batch_size : (place + 1) * global_batch_size]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Every item once an epoch, those of one group one after another; groups, and items in them, are shuffled.

    ``groups`` says of each item which it belongs to.
    """

    groups: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.groups)

    def step(self, global_batch_size: int, seed: int, step: int) -> np.ndarray:
        per_epoch = -(-self.size // global_batch_size)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(self.size)
        _, first, inverse = np.unique(np.array(self.groups)[order], return_index=True, return_inverse=True)
        order = order[np.argsort(first[inverse], kind="stable")]  # by where each group's first item fell
        return order[place * global_batch_size : (place + 1) * global_batch_size]


@dataclass(frozen=True, slots=True)
class Mixed:
    """Items of several data sets that lie one after the other, each drawn at a rate of its own.

    ``sizes`` are the data sets' numbers of items, ``rates`` their shares of what is drawn, ``size`` how many an epoch
    draws. Each data set is gone through in whole passes of an order of its own, so that its items are drawn equally
    often, whatever the rates.
    """

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    size: int

    @property
    def counts(self) -> list[int]:
        """How many items of each data set an epoch draws: what is lost to rounding goes to the largest remainders."""
        exact = [self.size * rate / sum(self.rates) for rate in self.rates]
        counts = [int(n) for n in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_remainder[: self.size - sum(counts)]:
            counts[i] += 1
        return counts

    def step(self, global_batch_size: int, seed: int, step: int) -> np.ndarray:
        per_epoch = -(-self.size // global_batch_size)
        epoch, place = divmod(step, per_epoch)
        drawn = []
        for part, (n, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            first = sum(self.sizes[:part])
            for index in range(epoch * count, (epoch + 1) * count):
                a_pass, at = divmod(index, n)
                drawn.append(first + _permutation(seed, part, a_pass, n)[at])
        order = np.random.default_rng([seed, epoch]).permutation(len(drawn))
        return np.array(drawn)[order[place * global_batch_size : (place + 1) * global_batch_size]]


@functools.lru_cache(maxsize=256)
def _permutation(seed: int, part: int, number: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, part, number]).permutation(size)


def supervised(example: Rendered) -> list[int]:
    """Places t whose label is trained and predicted by the token before."""
    return [t for t in range(1, len(example.labels)) if example.labels[t] != IGNORE_INDEX]


def shared_prefix(examples: Sequence[Rendered]) -> int:
    """Length of the longest common start that no example predicts from: what may be computed once.

    The token that predicts the first trained one stays with its example, so each has at least one of its own.
    """
    if len(examples) < 2:
        return 0
    common = common_start([example.input_ids for example in examples])
    return max(0, min(common, *(supervised(example)[0] - 1 for example in examples)))


def micro_batches(
    examples: Sequence[Rendered], token_budget: int, share_prefix: bool, device: torch.device | str
) -> Iterator[MicroBatch]:
    """Cut a step into packs of about ``token_budget`` tokens; an example longer than that stands alone.

    Examples are ordered by length, so that what is packed together is alike and few shapes occur.
    """
    prefix = shared_prefix(examples) if share_prefix else 0
    for group in groups_by_size([len(example.input_ids) for example in examples], token_budget, prefix):
        yield _micro_batch(examples, group, prefix, device)


def groups_by_size(sizes: Sequence[int], token_budget: int, prefix: int) -> Iterator[list[int]]:
    """Indices in order of size, cut into groups of about ``token_budget`` tokens, a shared prefix counted once."""
    group: list[int] = []
    total = prefix
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        own = sizes[index] - prefix
        if group and total + own > token_budget:
            yield group
            group, total = [], prefix
        group.append(index)
        total += own
    if group:
        yield group


def _micro_batch(examples: Sequence[Rendered], group: list[int], prefix: int, device: torch.device | str) -> MicroBatch:
    chosen = [examples[i] for i in group]
    shared = chosen[0].input_ids[:prefix]
    pack = build_pack(shared, [[Segment(e.input_ids[prefix:])] for e in chosen], device)
    rows: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    for example, (start, *_) in zip(chosen, pack.starts, strict=True):
        places = supervised(example)
        rows += [start + t - prefix - 1 for t in places]
        targets += [example.labels[t] for t in places]
        counts.append(len(places))
    return MicroBatch(
        pack,
        torch.tensor(rows, device=device),
        torch.tensor(targets, device=device),
        tuple(counts),
        tuple(group),
    )
