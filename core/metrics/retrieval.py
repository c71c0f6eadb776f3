"""Sketch-based image retrieval: exact ranks, recall and what they are worth.

One right answer a query. Ties count against the query, so that an embedding collapsed to a point
ranks every answer last instead of first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from core.dataset import QueryProtocol, protocols
from core.metrics.base import Figure, bootstrap_interval, bootstrap_intervals, macro_average
from core.registry import METRICS

TOP = (1, 5, 10)

# Distances closer than this share of the longest vector are a tie: about a hundred times the
# rounding of the float32 network that made the vectors, which must not decide a rank.
TOLERANCE = 1e-5


# ---------------------------------------------------------------- numerics


def answer_distances(queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Euclidean distance float64 (Q,) of each query (Q, D) to gallery (G, D) row answers[q]."""
    out = np.empty(len(queries))
    for start in range(0, len(queries), 4096):
        rows = slice(start, start + 4096)
        gap = queries[rows].astype(np.float64) - gallery[answers[rows]]
        out[rows] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return out


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    answers: np.ndarray,
    query_block: int = 512,
    gallery_block: int = 8192,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """The rank of each query's right answer by Euclidean distance: int64 (Q,), 1 = nearest.

    queries: float (Q, D). gallery: float (G, D). answers: int (Q,), the gallery row that is right.
    rank = 1 + the number of other rows not farther than the right one (ties against the query).
    Exact, in blocks: memory beyond the arguments is one block of query_block x gallery_block
    float64. ValueError for a vector that is not finite, or an answer outside the gallery.
    """
    queries, gallery, answers = np.asarray(queries), np.asarray(gallery), np.asarray(answers)
    _check(queries, gallery, answers)
    if len(queries) == 0:
        return np.zeros(0, np.int64)
    query_norms, gallery_norms = _squared_norms(queries), _squared_norms(gallery)
    slack = tolerance * np.sqrt(max(query_norms.max(), gallery_norms.max()))
    limit = (answer_distances(queries, gallery, answers) + slack) ** 2

    # |q - g|^2 <= limit  <=>  |g|^2 - 2 q.g <= limit - |q|^2. Only this comparison is needed, so
    # no root of a difference that rounds below zero is ever taken; in float64 the rounding
    # (about 1e-14) is far below the tolerance.
    counts = np.zeros(len(queries), np.int64)
    for start in range(0, len(gallery), gallery_block):
        columns = slice(start, start + gallery_block)
        block = tf.constant(gallery[columns], tf.float64)
        norms = tf.constant(gallery_norms[columns])
        for first in range(0, len(queries), query_block):
            rows = slice(first, first + query_block)
            left = tf.constant(-2.0 * queries[rows].astype(np.float64))
            score = tf.matmul(left, block, transpose_b=True) + norms
            near = score <= tf.constant((limit[rows] - query_norms[rows])[:, None])
            counts[rows] += tf.math.count_nonzero(near, axis=1).numpy()
    return np.maximum(counts, 1)  # the right row is within its own limit: it is the 1


def nearest(
    queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows int64 (Q, k) and their distances, for a few queries (a picture).

    In the order of `ranks`: the right answer stands behind the rows it ties with.
    """
    _check(queries, gallery, answers)
    queries, gallery = queries.astype(np.float64), gallery.astype(np.float64)
    squared = _squared_norms(queries)[:, None] + _squared_norms(gallery)
    slack = TOLERANCE * np.sqrt(squared.max() / 2)
    distances = np.sqrt(np.maximum(squared - 2 * queries @ gallery.T, 0))
    rows = np.arange(len(queries))
    keys = distances.copy()
    keys[rows, answers] = answer_distances(queries, gallery, answers) + slack
    right = np.zeros(keys.shape, bool)
    right[rows, answers] = True
    order = np.lexsort((right, keys), axis=1)[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def recall_at_k(rank: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the right answer is among the k nearest, else 0.0: float64 (Q,)."""
    return (np.asarray(rank) <= k).astype(np.float64)


def average_precision(rank: np.ndarray) -> np.ndarray:
    """Average precision of each query, float64 (Q,): 1 / rank, as there is one right answer."""
    return 1.0 / np.asarray(rank, np.float64)


def harmonic_mean_chance(n: np.ndarray) -> np.ndarray:
    """Expected reciprocal rank of a random order of n: H_n / n. int array or scalar -> float64."""
    n = np.asarray(n, np.int64)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, max(1, n.max()) + 1))])
    return harmonic[n] / np.maximum(n, 1)


def scores(kind: str, rank: np.ndarray) -> np.ndarray:
    """Per query scores (Q,) for kind 'mAP' or 'top<k>'."""
    return average_precision(rank) if kind == "mAP" else recall_at_k(rank, _k(kind))


def chance(kind: str, n: int) -> float:
    """Expected score of a random order of a gallery of n."""
    return float(harmonic_mean_chance(n)) if kind == "mAP" else min(_k(kind), n) / n


def classifier_ceiling(kind: str, classes: np.ndarray, gallery_classes: np.ndarray) -> float:
    """Expected macro score of a perfect classifier that cannot tell objects of a class apart.

    It ranks the n_c gallery objects of the query's class first, in random order, so a query of
    class c expects min(k, n_c) / n_c, or H_{n_c} / n_c for mAP; then the mean over the classes
    that occur among the queries. classes int (Q,), gallery_classes int (G,).
    """
    names, counts = np.unique(gallery_classes, return_counts=True)
    size = counts[np.isin(names, np.unique(classes))]
    if kind == "mAP":
        return float(np.mean(harmonic_mean_chance(size)))
    return float(np.mean(np.minimum(_k(kind), size) / size))


def _k(kind: str) -> int:
    return int(kind.removeprefix("top"))


def _squared_norms(vectors: np.ndarray) -> np.ndarray:
    """float64 (n,), computed in blocks so that no second copy of the vectors is made."""
    out = np.empty(len(vectors))
    for start in range(0, len(vectors), 4096):
        block = vectors[start : start + 4096].astype(np.float64)
        out[start : start + 4096] = np.einsum("ij,ij->i", block, block)
    return out


def _check(queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {queries.shape} and gallery {gallery.shape} do not match")
    if answers.shape != queries.shape[:1]:
        raise ValueError(f"{len(queries)} queries, but answers of shape {answers.shape}")
    if answers.size and (answers.min() < 0 or answers.max() >= len(gallery)):
        raise ValueError(f"an answer lies outside the gallery of {len(gallery)}")
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        for start in range(0, len(vectors), 4096):
            if not np.isfinite(vectors[start : start + 4096]).all():
                raise ValueError(f"a vector of the {name} is not finite")


# ---------------------------------------------------------------- metrics


def scene_figures(
    ranks: Mapping[QueryProtocol, np.ndarray],
    metrics: Mapping[str, str],
    gallery: int,
    split: str,
    seed: int,
    **labels: str,
) -> list[Figure]:
    """Scene recall, a row for each metric and protocol: a query that carries the photograph's own
    boxes can be answered from positions alone, so real sketches stand beside blank and shuffled
    ones, shared boxes beside others.

    ranks: int (Q,) of the same queries under each protocol. metrics: name -> kind, as of `scores`.
    gallery: photographs that each query chose from. seed: of the bootstrap. labels: further ones.
    """
    found, values = {}, []
    for name, kind in metrics.items():
        for protocol in ranks:
            score = scores(kind, ranks[protocol])
            found[name, protocol, "itself"] = len(values)
            values.append(score)
            if protocol.sketches == "real":  # the same scenes: a paired difference
                found[name, protocol, "gap"] = len(values)
                values.append(score - scores(kind, ranks[protocol.control]))
    values = np.stack(values, axis=1)
    means, intervals = values.mean(axis=0), bootstrap_intervals(values, seed=seed)

    figures = []
    for (name, protocol, what), column in found.items():
        if what == "gap":
            continue
        kind, controls = metrics[name], {}
        if protocol.sketches == "real":
            gap = found[name, protocol, "gap"]
            low, high = intervals[gap].tolist()
            controls = {
                "minus_blank": float(means[gap]),
                "minus_blank_low": low,
                "minus_blank_high": high,
            }
        if kind == "mAP":
            controls["median_rank"] = float(np.median(ranks[protocol]))
        figures.append(
            Figure(
                metric=name,
                split=split,
                value=float(means[column]),
                n=len(values),
                labels={**protocol.labels, **labels},
                gallery=gallery,
                chance=chance(kind, gallery),
                interval=tuple(intervals[column].tolist()),
                controls=controls,
            )
        )
    return figures


def _scene_figures(evaluation, name: str, kind: str) -> list[Figure]:
    """Scene recall by each vector asked for."""
    figures = []
    for vector in evaluation.vectors:
        ranks = {
            protocol: evaluation.scene_ranks(protocol, vector)
            for protocol in protocols(evaluation.dataset.own_boxes)
        }
        gallery, seed = evaluation.photos.scenes, evaluation.seed
        figures += scene_figures(
            ranks, {name: kind}, gallery, evaluation.split, seed, vector=vector
        )
    return figures


def _object_figures(evaluation, name: str, kind: str) -> list[Figure]:
    """Instance-level object recall among all objects of the split, macro-averaged over classes."""
    rank, classes, scenes = evaluation.object_ranks()
    gallery = evaluation.photos.classes
    values = scores(kind, rank)
    return [
        Figure(
            metric=name,
            split=evaluation.split,
            value=macro_average(values, classes),
            n=len(values),
            labels={"average": "macro"},
            gallery=len(gallery),
            chance=chance(kind, len(gallery)),
            ceiling=classifier_ceiling(kind, classes, gallery),
            interval=bootstrap_interval(values, scenes, classes, seed=evaluation.seed),
            controls={"classes": len(np.unique(classes)), "micro": float(values.mean())},
        )
    ]


for _kind in ("mAP", *(f"top{k}" for k in TOP)):
    METRICS.register(f"sbir-{_kind}")(functools.partial(_scene_figures, kind=_kind))
    METRICS.register(f"obj-sbir-{_kind}")(functools.partial(_object_figures, kind=_kind))
