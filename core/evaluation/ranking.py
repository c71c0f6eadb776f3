"""Exact search: how many vectors of a gallery are not farther than a given one.

    float32 products of a block -> pairs that they decide, whatever their rounding   (nearly all)
                                -> pairs that they leave open -> float64, by subtraction
                                   (when these are many: float64 products between the two)

So the result is that of subtracting every pair in float64, at the price of a float32 product.
"""

from __future__ import annotations

import numpy as np

# Of elements: what is taken out of a gallery at a time.
BLOCK = 1 << 20
# Pairs with a limit that are looked at together: their arrays take a few megabytes.
MOST_PAIRS = 1 << 18
# Subtraction in float64 costs some hundred times a float64 product, a pair: with more open pairs
# than this share of a block, the product comes first.
MANY = 1 / 128


def count_not_farther(
    queries: np.ndarray,
    gallery: np.ndarray,
    owners: np.ndarray,
    rows: np.ndarray,
    tolerance: float,
    query_block: int = 512,
    gallery_block: int | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of every pair of query owners[p] and gallery row rows[p], by query, then by distance: how
    many gallery rows are not farther (Euclidean) from the query than that row and `slack`, int64
    (P,), itself included; its distance, float64 (P,); and slack, `tolerance` times the length of
    the longest vector of all.

    queries: float (Q, D). gallery: float (G, D). owners: int (P,), ascending from 0 to Q - 1
    without a gap. rows: int (P,). Memory beyond the arguments: some blocks of gallery_block rows,
    and of query_block x gallery_block products. ValueError for a vector that is not finite.
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
            own = owners[pairs]
            some = slice(own[0], own[-1] + 1)
            counts[pairs] += _within(
                queries[some], block, halves, own - own[0], bars[pairs], limits[pairs],
                reach[some], precision,
            )  # fmt: skip
    return counts, apart, slack


def squared_norms(vectors: np.ndarray, name: str) -> np.ndarray:
    """Float64 (n,). ValueError, with the name, for vectors (n, D) that are not finite."""
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
    """Euclidean distance of query owners[p] to gallery row rows[p], by subtraction: float64 (P,).

    No difference of squares, which would round below zero for vectors that lie close together."""
    out = np.empty(len(owners))
    step = block_rows(queries)
    for start in range(0, len(owners), step):
        pairs = slice(start, start + step)
        gap = queries[owners[pairs]].astype(np.float64) - gallery[rows[pairs]]
        out[pairs] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return out


def block_rows(vectors: np.ndarray) -> int:
    """How many rows of (n, D) make a block."""
    return max(1, BLOCK // max(1, vectors.shape[1]))


def _pair_blocks(owners: np.ndarray, queries: int, query_block: int) -> list[slice]:
    """The pairs in blocks of at most `query_block` queries and MOST_PAIRS pairs."""
    ends = np.searchsorted(owners, np.arange(0, queries + query_block, query_block)).tolist()
    return [
        slice(start, min(start + MOST_PAIRS, end))
        for first, end in zip(ends, ends[1:])
        for start in range(first, end, MOST_PAIRS)
    ]


def _within(
    queries: np.ndarray,
    block: np.ndarray,
    halves: np.ndarray,
    owners: np.ndarray,
    bars: np.ndarray,
    limits: np.ndarray,
    reach: np.ndarray,
    precision: type,
) -> np.ndarray:
    """How many rows of the block lie within limits[p] of query owners[p]: int64 (P,).

    halves: half the squared norms of the block. bars, reach: as in `count_not_farther`.
    """
    score = queries.astype(precision, copy=False) @ block.astype(precision, copy=False).T
    score -= halves.astype(precision)
    room = _rounding(precision, queries.shape[1]) * reach[owners]
    low, high = (bars - room).astype(precision), (bars + room).astype(precision)
    counts, possible = _reached(score, owners, high, low)
    if (possible - counts).sum() > MANY * score.size and precision is np.float32:
        return _within(queries, block, halves, owners, bars, limits, reach, np.float64)

    undecided = np.flatnonzero(possible > counts)
    for start in range(0, len(undecided), 64):
        some = undecided[start : start + 64]
        lines = score[owners[some]]
        open_ = (lines >= low[some, None]) & (lines < high[some, None])
        pair, row = np.divmod(np.flatnonzero(open_), len(block))
        pair = some[pair]
        near = distances(queries, block, owners[pair], row) <= limits[pair]
        counts += np.bincount(pair[near], minlength=len(counts))
    return counts


def _reached(score: np.ndarray, owners: np.ndarray, *bars: np.ndarray) -> list[np.ndarray]:
    """How many of score[owners[p]] reach bar[p], for each of `bars`: int64 (P,). score: float
    (q, g)."""
    if len(owners) == len(score):  # a bar a query
        return [np.count_nonzero(score >= bar[:, None], axis=1) for bar in bars]
    below = [np.empty(len(owners), np.int64) for _ in bars]
    ends = np.searchsorted(owners, np.arange(len(score) + 1)).tolist()
    for line, start, end in zip(np.sort(score, axis=1), ends, ends[1:]):
        for found, bar in zip(below, bars):
            found[start:end] = line.searchsorted(bar[start:end])
    return [score.shape[1] - found for found in below]


def _rounding(precision: type, width: int) -> float:
    """An upper bound of all rounding in `_within`, as a share of (|q| + longest)^2.

    A product of D terms in any order is wrong by at most gamma(D) |q| |g|, gamma(n) = n u / (1 -
    n u) (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). To this
    come gamma(D) of the norms' halves (|q|^2 + |g|^2) / 2 and of the distance that is compared
    with, whose square is at most (|q| + |g|)^2: together gamma(D) (|q| + |g|)^2. The 32 hold the
    rounding of the vectors themselves and of the last few operations.
    """
    n = (width + 32) * np.finfo(precision).eps / 2
    return float(n / (1 - n))


def _fits_float32(longest: float, width: int) -> bool:
    """Whether squares neither overflow nor vanish, and the bound above is worth something."""
    return 1e-12 < longest < 1e15 and width < 100_000
