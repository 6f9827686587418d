"""Attention without padding, over a tree of segments: what examples share is computed once.

Examples are laid end to end in one row of tokens, ``[prefix | item 1 | item 2 | …]``. Every item sees the prefix
and itself; inside an item, segments form a tree (a prompt with several possible answers behind it). Positions
continue from the parent, so each path through the tree is computed exactly as if it stood alone.

The function is registered with transformers' attention interface under ``tunesmith``; a layout reaches it through
a context variable, so every model family that uses the interface works unchanged. Whether it really works for a
given model is not assumed but measured, by ``model.load``'s parity check.

On a CPU, attention runs per chunk: items that are short share one masked product, a long one stands alone. The
waste of masked-out pairs is bounded by the chunk's size, the cost of many small calls by the number of chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CHUNK_TOKENS = 128  # items are grouped up to this many query tokens; measured on 2 cores, flat from 64 to 256


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens. ``parent`` is the index of the segment before it in its item, -1 for the prefix."""

    tokens: Sequence[int]
    parent: int = -1


Item = Sequence[Segment]
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]  # per layer: (1, heads, prefix, head_dim) twice


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of the row whose queries see the prefix and, as the mask says, the range itself."""

    start: int
    stop: int
    positions: torch.Tensor  # (stop - start,)
    allowed: torch.Tensor | None  # (stop - start, stop - start) bool; None: one segment, plainly causal
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, prefix: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask (queries, prefix + queries), or None where plain causal attention is the same."""
        n = self.stop - self.start
        if window is not None and prefix + n <= window:
            window = None
        if self.allowed is None and prefix == 0 and window is None:
            return None
        if window not in self.masks:
            allowed = self.allowed
            if allowed is None:
                allowed = torch.ones(n, n, dtype=torch.bool, device=self.positions.device).tril()
            allowed = torch.cat([allowed.new_ones(n, prefix), allowed], dim=1)
            if window is not None:
                before = torch.cat([torch.arange(prefix, device=self.positions.device), self.positions])
                allowed = allowed & (self.positions[:, None] - before[None, :] < window)
            mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            self.masks[window] = mask.masked_fill_(~allowed, float("-inf"))
        return self.masks[window]


@dataclass(frozen=True, slots=True)
class Pack:
    """One row of tokens with its layout.

    ``starts[i][j]`` is the place of item i's segment j in the row. Where the prefix was computed before, its keys
    and values come from ``cache`` and the row holds the items only.
    """

    input_ids: torch.Tensor  # (1, tokens)
    position_ids: torch.Tensor  # (1, tokens)
    prefix: tuple[int, ...]
    items: tuple[Item, ...]
    starts: tuple[tuple[int, ...], ...]
    chunks: tuple[Chunk, ...]
    cache: KeyValues | None = None
    record: KeyValues | None = None

    @property
    def prefix_in_row(self) -> int:
        """Number of prefix tokens that stand in the row itself."""
        return 0 if self.cache is not None else len(self.prefix)


_layout: ContextVar[tuple[Pack, ...]] = ContextVar("tunesmith_layout", default=())


@contextlib.contextmanager
def layout(*packs: Pack) -> Iterator[None]:
    """Make ``packs``, laid end to end in one row, the layout of every attention call inside the block."""
    token = _layout.set(packs)
    try:
        yield
    finally:
        _layout.reset(token)


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all rows begin with."""
    low, high = min(map(list, rows)), max(map(list, rows))  # whatever these two share, every row between them shares
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def build_pack(
    prefix: Sequence[int],
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    cache: KeyValues | None = None,
    record: KeyValues | None = None,
) -> Pack:
    """Lay out ``items`` behind a shared ``prefix``. Pure but for the tensors it allocates on ``device``."""
    row: list[int] = [] if cache is not None else list(prefix)
    positions: list[int] = list(range(len(row)))
    starts: list[tuple[int, ...]] = []
    for item in items:
        begins: list[int] = []
        firsts: list[int] = []  # position of each segment's first token
        for segment in item:
            first = len(prefix) if segment.parent < 0 else firsts[segment.parent] + len(item[segment.parent].tokens)
            begins.append(len(row))
            firsts.append(first)
            row.extend(segment.tokens)
            positions.extend(range(first, first + len(segment.tokens)))
        starts.append(tuple(begins))
    position_ids = torch.tensor(positions, device=device)
    chunks = tuple(_chunks(0 if cache is not None else len(prefix), items, position_ids))
    return Pack(
        torch.tensor([row], device=device), position_ids[None], tuple(prefix), tuple(items), tuple(starts), chunks,
        cache, record,
    )  # fmt: skip


def _chunks(first: int, items: Sequence[Item], positions: torch.Tensor) -> Iterator[Chunk]:
    group: list[Item] = []
    size = 0
    start = first
    for item in items:
        tokens = sum(len(segment.tokens) for segment in item)
        if group and size + tokens > CHUNK_TOKENS:
            yield _chunk(start, group, positions)
            start, group, size = start + size, [], 0
        group.append(item)
        size += tokens
    if group:
        yield _chunk(start, group, positions)


def _chunk(start: int, group: list[Item], positions: torch.Tensor) -> Chunk:
    size = sum(len(segment.tokens) for item in group for segment in item)
    inside = positions[start : start + size]
    if len(group) == 1 and len(group[0]) == 1:
        return Chunk(start, start + size, inside, None)
    allowed = torch.zeros(size, size, dtype=torch.bool)
    at = 0
    for item in group:
        spans: list[tuple[int, int]] = []
        for segment in item:
            span = (at, at + len(segment.tokens))
            allowed[span[0] : span[1], span[0] : span[1]] = True
            parent = segment.parent
            while parent >= 0:
                allowed[span[0] : span[1], spans[parent][0] : spans[parent][1]] = True
                parent = item[parent].parent
            spans.append(span)
            at = span[1]
    allowed.tril_()  # a parent always stands before its children, so the row's order is causal
    return Chunk(start, start + size, inside, allowed.to(positions.device))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **unknown: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the current layout.

    Args:
        query: (rows, heads, tokens, head_dim); rows have the layout in common, one outside of ``train.together``.
        key: (rows, key_value_heads, tokens, head_dim).
        value: Like ``key``.
        sliding_window: How many tokens back a query sees, itself included.

    Returns:
        (rows, tokens, heads, head_dim), and None for the weights.

    Raises:
        NotImplementedError: If the family asks for something this function does not compute (soft-capped scores,
            attention sinks); the parity check turns that into the padded path.
    """
    packs = _layout.get()
    if not packs:
        raise NotImplementedError("attention 'tunesmith' was called outside a layout")
    if unknown.get("softcap") or unknown.get("s_aux") is not None or attention_mask is not None:
        raise NotImplementedError("soft-capped scores, attention sinks and masks of the model's own")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = [pack.input_ids.shape[1] for pack in packs]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    layer = getattr(module, "layer_idx", None)
    outputs = [
        out
        for pack, q, k, v in zip(packs, queries, keys, values, strict=True)
        for out in _over(pack, q, k, v, layer, dropout, scaling, sliding_window)
    ]
    return torch.cat(outputs, dim=1), None


def _over(
    pack: Pack,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int | None,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> list[torch.Tensor]:
    """Attention over one pack, in parts that follow one another."""
    if pack.record is not None:
        pack.record.append((key, value))
    # split, not slices: its backward pass is one concatenation instead of a sum of full-size tensors
    sizes = [pack.prefix_in_row] * bool(pack.prefix_in_row) + [chunk.stop - chunk.start for chunk in pack.chunks]
    queries, keys, values = (list(tensor.split(sizes, dim=2)) for tensor in (query, key, value))
    n = len(pack.prefix)
    outputs = []
    prefix: tuple[torch.Tensor, ...] = ()
    if pack.cache is not None:
        if layer is None:
            raise NotImplementedError("attention layers that do not know their index")
        prefix = pack.cache[layer]
    elif pack.prefix:
        prefix = (keys.pop(0), values.pop(0), queries.pop(0))
        alone = Chunk(0, n, pack.position_ids[0, :n], None).mask(0, sliding_window, query.dtype)
        outputs.append(_attend(prefix[2], prefix[0], prefix[1], alone, dropout, scaling))
    for chunk, q, k, v in zip(pack.chunks, queries, keys, values, strict=True):
        if prefix:
            k, v = torch.cat([prefix[0], k], dim=2), torch.cat([prefix[1], v], dim=2)
        whole = chunk.allowed is None and (sliding_window is None or k.shape[2] <= sliding_window)
        if whole and len(prefix) == 3 and n < q.shape[2]:
            # One plainly causal product, which skips half the pairs, costs less than a masked one even with the
            # prefix's queries computed again; their results are dropped.
            out = _attend(torch.cat([prefix[2], q], dim=2), k, v, None, dropout, scaling)[:, n:]
        else:
            out = _attend(q, k, v, chunk.mask(n, sliding_window, query.dtype), dropout, scaling)
        outputs.append(out)
    return outputs


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )
    return out.transpose(1, 2)


AttentionInterface.register("tunesmith", attend)
