"""nDCG of scene search: other photographs than the right one may fit a drawing as well.

    objects annotated in the right photograph -> layout match -> gain of every photograph, 0..1
    gains of the nearest, discounted by rank  -> over those of the best: nDCG

Source: Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques, with gains
discounted by log2(1 + rank). Ties count against the query, as in `retrieval`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from core.evaluation import ranking, retrieval
from core.layout_match import LayoutObjects, layout_scores
from core.progress import progress

if TYPE_CHECKING:  # it imports TensorFlow
    from core.evaluation.embedded_split import EmbeddedPhotos

K = 10
FITS = 0.5  # a photograph of a higher gain answers the query as well
BLOCK_ELEMENTS = 1 << 20  # gains of queries and photographs in memory at a time


class GradedSearch(NamedTuple):
    """nDCG@K of the N queries of a split, one for each photograph."""

    scores: dict[Any, np.ndarray]  # kind of query -> float64 (N,)
    chance: np.ndarray  # float64 (N,), expected in a random order of the photographs
    fitting: np.ndarray  # int64 (N,), photographs that fit, the right one among them


def graded_search(
    photos: EmbeddedPhotos, searches: Mapping[Any, tuple[str, np.ndarray]]
) -> GradedSearch:
    """Return nDCG@K of the same queries, ranked in each of several ways.

    searches: kind of query -> name of the scene vector that ranks, and those of the queries, float
    (N, D). Memory does not grow with N * N. ValueError for vectors that are not finite."""
    count = photos.num_scenes
    slack = {
        kind: retrieval.TOLERANCE * _longest(queries, photos.vectors[vector])
        for kind, (vector, queries) in searches.items()
    }
    scores = {kind: np.empty(count) for kind in searches}
    chance, fitting = np.empty(count), np.empty(count, np.int64)
    step = max(1, BLOCK_ELEMENTS // count)
    for start in progress(range(0, count, step), "gains", unit="blocks"):
        rows = slice(start, min(start + step, count))
        gains = np.stack([layout_gains(photos, row) for row in range(rows.start, rows.stop)])
        ideal = discounted_gain(-np.sort(-gains, axis=1))
        chance[rows] = gains.mean(1) * discounted_gain(np.ones((1, count))) / ideal
        fitting[rows] = (gains > FITS).sum(1)
        for kind, (vector, queries) in searches.items():
            apart = cdist(queries[rows], photos.vectors[vector])
            scores[kind][rows] = discounted_gain(ranked_gains(gains, apart, slack[kind])) / ideal
    return GradedSearch(scores, chance, fitting)


def layout_gains(photos: EmbeddedPhotos, row: int) -> np.ndarray:
    """Return how well every photograph fits the objects of one, by layout match with the classes
    annotated: float32 (N,), 0 to 1, 1 for itself."""
    classes, obj_to_img = photos.classes, photos.obj_to_img
    own = np.arange(*np.searchsorted(obj_to_img, [row, row + 1]))
    asked = np.unique(classes[own])
    same = np.flatnonzero(np.isin(classes, asked))  # no other object adds or costs anything
    found, counts = np.unique(obj_to_img[same], return_counts=True)
    drawn, photographed = (
        LayoutObjects(photos.boxes[rows], (classes[rows, None] == asked).astype(np.float32))
        for rows in (own, same)
    )
    gains = np.zeros(photos.num_scenes, np.float32)
    all_exact = len(found) << len(own)
    gains[found] = layout_scores(drawn, photographed, np.cumsum(counts), all_exact)
    return gains.clip(0, 1)  # many surplus objects: below 0


def ranked_gains(gains: np.ndarray, distances: np.ndarray, slack: float) -> np.ndarray:
    """Return the gains of the K nearest photographs, the nearest first: (q, K).

    gains, distances: float (q, N). The better of two photographs stands behind by `slack` times
    the difference of their gains, so that rounding decides nothing for the query."""
    keys = distances + slack * gains
    k = min(K, keys.shape[1])
    nearest = np.argpartition(keys, k - 1, axis=1)[:, :k]
    # Of equal keys the lower gain first.
    order = np.lexsort([np.take_along_axis(each, nearest, 1) for each in (gains, keys)], axis=1)
    return np.take_along_axis(gains, np.take_along_axis(nearest, order, 1), 1)


def discounted_gain(gains: np.ndarray) -> np.ndarray:
    """Return the sum of the first K of ranked gains (q, n), each over log2(1 + rank): float64
    (q,)."""
    first = gains[:, :K].astype(np.float64)
    return first @ (1 / np.log2(np.arange(2, first.shape[1] + 2)))


def _longest(*sides: np.ndarray) -> float:
    """Return the length of the longest vector."""
    return float(np.sqrt(max(ranking.squared_norms(side, "scenes").max() for side in sides)))
