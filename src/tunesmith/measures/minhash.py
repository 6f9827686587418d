"""MinHash: which of many sets of hashed shingles may have much in common, without comparing all pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.measures.overlap import Hashes, Ints

BANDS, ROWS = 32, 4  # 128 values: sets of Jaccard similarity s share a band with probability 1 − (1 − s⁴)³²
SEED = 1
NEIGHBOURS = 4  # members of a group that each is paired with
AGREED = 2  # bands that a pair must agree in: of similarity 0.7, 99.9 % do, of 0.4, 20 %
BLOCK = 100_000
_ODD = np.uint64(0x9E3779B97F4A7C15)


def band_keys(hashes: Hashes, lengths: Ints) -> NDArray[np.uint64]:
    """One key for each band of each set; sets that agree in any key are candidates, shape (n, BANDS).

    Args:
        hashes: Hashed shingles of all sets, one set behind the other.
        lengths: How many of them each set has; a set without any agrees with every other such.

    Source:
        Broder 1997, "On the resemblance and containment of documents"; the values are rensa's R-MinHash.
    """
    from rensa import RMinHash

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(hashes), offsets, BANDS * ROWS, SEED)
    values = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(lengths), BANDS, ROWS)
    keys = np.zeros((len(lengths), BANDS), dtype=np.uint64)
    for row in range(ROWS):
        keys = (keys ^ values[:, :, row]) * _ODD
    return keys


def candidate_links(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of places that agree in two bands, each once; in each band, a place with the four before it and the first.

    Within a large group not all pairs are given, but enough to link its members. Shape (pairs, 2), the smaller first.
    """
    n = len(keys)
    found = np.zeros(0, np.int64)  # smaller place · n + larger place
    for band in keys.T if n else ():
        order = np.argsort(band, kind="stable")
        values = band[order]
        begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        first = np.repeat(order[begins], np.diff(np.append(begins, n)))
        pairs = [found, (first * n + order)[first != order]]
        for step in range(1, min(NEIGHBOURS + 1, n)):
            same = values[step:] == values[:-step]
            pairs.append((order[:-step] * n + order[step:])[same])
        new = np.unique(np.concatenate(pairs[1:])) if len(pairs) > 1 else found
        again = np.concatenate([
            (keys[part // n] == keys[part % n]).sum(1) >= AGREED for part in np.array_split(new, len(new) // BLOCK + 1)
        ])  # fmt: skip
        found = np.union1d(found, new[again])
    return np.stack([found // max(n, 1), found % max(n, 1)], axis=1)
