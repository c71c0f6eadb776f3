"""Exact search: count the vectors of a gallery that are not farther than a given one.

    float32 products of a block -> pairs decided, whatever the rounding (nearly all)
                                -> undecided pairs -> float64, by subtraction
                                   (when these are many: float64 products between the two)

The result is that of subtracting every pair in float64, at the price of a float32 product.
"""

from __future__ import annotations

import numpy as np

BLOCK_ELEMENTS = 1 << 20  # taken out of a gallery at a time
MAX_PAIRS = 1 << 18  # looked at together: their arrays take a few megabytes
# Subtracting a pair in float64 costs some hundred times a float64 product: with more undecided
# pairs than this share of a block, the product comes first.
MANY_UNDECIDED = 1 / 128


def count_not_farther(
    queries: np.ndarray,
    gallery: np.ndarray,
    owners: np.ndarray,
    rows: np.ndarray,
    tolerance: float,
    query_block: int = 512,
    gallery_block: int | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (counts int64 (P,), distances float64 (P,), slack) of P pairs of a query and a gallery
    row, sorted by query, then by distance.

    Counted are the gallery rows not farther (Euclidean) from the query than the pair's row and
    slack, that row included; slack is `tolerance` times the length of the longest vector of all.
    queries: float (Q, D). gallery: float (G, D). owners: int (P,), query of each pair, ascending
    from 0 to Q - 1 without a gap. rows: int (P,), its gallery row. Memory beyond the arguments:
    some blocks of gallery_block rows, and of query_block x gallery_block products. ValueError for
    a vector that is not finite.
    """
    query_norms = squared_norms(queries, "queries")
    gallery_norms = squared_norms(gallery, "gallery")
    longest = float(np.sqrt(max(query_norms.max(initial=0), gallery_norms.max(initial=0))))
    slack = tolerance * longest
    apart = distances(queries, gallery, owners, rows)
    apart = apart[np.lexsort((apart, owners))]  # `owners` stay as they are
    limits = apart + slack
    # |q - g| <= limit  <=>  q.g - |g|^2 / 2 >= (|q|^2 - limit^2) / 2, the bar of the pair
    bars = (query_norms[owners] - limits**2) / 2
    reach = (np.sqrt(query_norms) + longest) ** 2
    precision = np.float32 if _fits_float32(longest, queries.shape[1]) else np.float64

    counts = np.zeros(len(owners), np.int64)
    pair_blocks = _pair_blocks(owners, len(queries), query_block)
    step = gallery_block or block_rows(gallery)
    for start in range(0, len(gallery), step):
        block, halves = gallery[start : start + step], gallery_norms[start : start + step] / 2
        for pairs in pair_blocks:
            first, last = owners[pairs][[0, -1]]
            near = slice(first, last + 1)
            counts[pairs] += _count_within(
                queries[near], block, halves, owners[pairs] - first, bars[pairs], limits[pairs],
                reach[near], precision,
            )  # fmt: skip
    return counts, apart, slack


def squared_norms(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return the squared lengths of vectors (n, D): float64 (n,). ValueError with the name of the
    vectors when they are not finite."""
    out = np.empty(len(vectors))
    step = block_rows(vectors)
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].astype(np.float64)
        np.einsum("ij,ij->i", block, block, out=out[start : start + step])
    if not np.isfinite(out).all():
        raise ValueError(f"a vector of the {name} is not finite")
    return out


def distances(
    queries: np.ndarray, gallery: np.ndarray, owners: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the Euclidean distance of query owners[p] to gallery row rows[p]: float64 (P,).

    By subtraction: a difference of squares would round below zero for vectors close together."""
    out = np.empty(len(owners))
    step = block_rows(queries)
    for start in range(0, len(owners), step):
        pairs = slice(start, start + step)
        gap = queries[owners[pairs]].astype(np.float64) - gallery[rows[pairs]]
        out[pairs] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return out


def block_rows(vectors: np.ndarray) -> int:
    """Return how many rows of vectors (n, D) make a block."""
    return max(1, BLOCK_ELEMENTS // max(1, vectors.shape[1]))


def _pair_blocks(owners: np.ndarray, queries: int, query_block: int) -> list[slice]:
    """Return the pairs in blocks of at most `query_block` queries and MAX_PAIRS pairs."""
    ends = np.searchsorted(owners, np.arange(0, queries + query_block, query_block)).tolist()
    return [
        slice(start, min(start + MAX_PAIRS, end))
        for first, end in zip(ends, ends[1:])
        for start in range(first, end, MAX_PAIRS)
    ]


def _count_within(
    queries: np.ndarray,
    block: np.ndarray,
    halves: np.ndarray,
    owners: np.ndarray,
    bars: np.ndarray,
    limits: np.ndarray,
    reach: np.ndarray,
    precision: type,
) -> np.ndarray:
    """Return how many rows of the block lie within limits[p] of query owners[p]: int64 (P,).

    halves: half the squared norms of the block. bars, reach: as in `count_not_farther`.
    """
    score = queries.astype(precision, copy=False) @ block.astype(precision, copy=False).T
    score -= halves.astype(precision)
    margin = _rounding(precision, queries.shape[1]) * reach[owners]
    low, high = (bars - margin).astype(precision), (bars + margin).astype(precision)
    counts, possible = _count_reached(score, owners, high, low)
    if (possible - counts).sum() > MANY_UNDECIDED * score.size and precision is np.float32:
        return _count_within(queries, block, halves, owners, bars, limits, reach, np.float64)

    undecided = np.flatnonzero(possible > counts)
    for start in range(0, len(undecided), 64):
        pairs = undecided[start : start + 64]
        lines = score[owners[pairs]]
        between = (lines >= low[pairs, None]) & (lines < high[pairs, None])
        pair, row = np.divmod(np.flatnonzero(between), len(block))
        pair = pairs[pair]
        near = distances(queries, block, owners[pair], row) <= limits[pair]
        counts += np.bincount(pair[near], minlength=len(counts))
    return counts


def _count_reached(score: np.ndarray, owners: np.ndarray, *bars: np.ndarray) -> list[np.ndarray]:
    """Return how many of score[owners[p]] reach bar[p], for each of `bars`: int64 (P,). score:
    float (q, g)."""
    if len(owners) == len(score):  # one pair a query
        return [np.count_nonzero(score >= bar[:, None], axis=1) for bar in bars]
    below = [np.empty(len(owners), np.int64) for _ in bars]
    ends = np.searchsorted(owners, np.arange(len(score) + 1)).tolist()
    for line, start, end in zip(np.sort(score, axis=1), ends, ends[1:]):
        for found, bar in zip(below, bars):
            found[start:end] = line.searchsorted(bar[start:end])
    return [score.shape[1] - found for found in below]


def _rounding(precision: type, width: int) -> float:
    """Return an upper bound of all rounding in `_count_within`, as a share of (|q| + longest)^2.

    A product of D terms in any order is wrong by at most gamma(D) |q| |g|, gamma(n) = n u / (1 -
    n u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). To this
    come gamma(D) of the norms' halves (|q|^2 + |g|^2) / 2 and of the distance that is compared
    with, whose square is at most (|q| + |g|)^2: together gamma(D) (|q| + |g|)^2. The 32 hold the
    rounding of the vectors themselves and of the last few operations.
    """
    n = (width + 32) * np.finfo(precision).eps / 2
    return float(n / (1 - n))


def _fits_float32(longest: float, width: int) -> bool:
    """Return whether squares neither overflow nor vanish, and the bound above is small."""
    return 1e-12 < longest < 1e15 and width < 100_000
