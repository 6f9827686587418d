"""What texts share with others: an inverted index of hashed n-grams, asked by many texts at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: spreads small numbers over 64 bits


class Windows(NamedTuple):
    """Every run of n items that lies within one row: its hash, where it starts among all items, and its row."""

    hashes: Hashes
    places: Ints
    rows: Ints


class GramIndex(NamedTuple):
    """Places by hash: those of ``hashes[i]`` (sorted, each once) are ``places[starts[i]:starts[i + 1]]``."""

    hashes: Hashes
    starts: Ints
    places: Ints


def windows(items: NDArray[np.integer], lengths: Ints, n: int) -> Windows:
    """All n-grams of rows that stand one behind the other.

    Args:
        items: Numbers of words or characters, of all rows.
        lengths: How many items each row has.
        n: Items in a gram.
    """
    mixed = items.astype(np.uint64) * _ODD
    mixed ^= mixed >> np.uint64(29)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    places = np.flatnonzero(np.arange(len(items)) + n <= ends)
    hashes = np.zeros(len(places), dtype=np.uint64)
    for k in range(n):
        hashes = (hashes * _ODD) ^ mixed[places + k]
    return Windows(hashes, places, rows[places])


def build_index(hashes: Hashes, places: Ints) -> GramIndex:
    """An index of places by hash."""
    order = np.argsort(hashes, kind="stable")
    known, first = np.unique(hashes[order], return_index=True)
    return GramIndex(known, np.append(first, len(hashes)), places[order])


def look_up(index: GramIndex, hashes: Hashes) -> tuple[Ints, Ints]:
    """Pairs (number of the asked hash, a place where it stands), for every place of each."""
    if not len(index.hashes) or not len(hashes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(index.hashes, hashes), len(index.hashes) - 1)
    asked = np.flatnonzero(index.hashes[at] == hashes)
    starts = index.starts[at[asked]]
    counts = index.starts[at[asked] + 1] - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(asked, counts), index.places[np.repeat(starts, counts) + within]


def longest_runs(a: Ints, b: Ints, n: int) -> tuple[Ints, Ints]:
    """Maximal runs of shared items, from the places where shared n-grams start.

    Args:
        a: Place of each shared gram among the items of one side.
        b: Its place on the other side.
        n: Items in a gram.

    Returns:
        The number of the pair that begins each run, and the run's length in items.
    """
    order = np.lexsort((a, a - b))
    same = (np.diff((a - b)[order]) == 0) & (np.diff(a[order]) == 1)
    begins = np.flatnonzero(np.append(True, ~same)) if len(a) else np.zeros(0, np.int64)
    return order[begins], np.diff(np.append(begins, len(a))) + n - 1
