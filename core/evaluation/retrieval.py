"""Sketch-based image retrieval: exact ranks, recall, and what to compare it with.

Scenes and objects have one right answer a query, features of other systems any number. Ties count
against the query, so that an embedding collapsed to a point ranks every answer last, not first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from core.evaluation import ranking
from core.evaluation.figures import Figure, bootstrap_intervals, difference
from core.evaluation.query_protocols import QueryProtocol

TOP = (1, 5, 10)

# Distances closer than this share of the longest vector are a tie: about a hundred times the
# rounding of the float32 network that made the vectors, which must not decide a rank.
TOLERANCE = 1e-5


# ---------------------------------------------------------------- ranks


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    answers: np.ndarray,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """Return the rank of each query's right answer by Euclidean distance: int64 (Q,), 1 = nearest.

    It is 1 + the number of other rows not farther than the right one: ties count against the query.
    queries: float (Q, D). gallery: float (G, D). answers: int (Q,), the gallery row that is right.
    Memory does not grow with Q * G. ValueError for vectors that are not finite.
    """
    owners = np.arange(len(queries))
    return ranking.count_not_farther(queries, gallery, owners, answers, tolerance)[0]


def all_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_keys: np.ndarray,
    gallery_keys: np.ndarray,
    tolerance: float = TOLERANCE,
) -> list[np.ndarray]:
    """Return the ranks of all right answers of each query, the gallery rows that share its key: a
    list of Q arrays int64 (R,), ascending, R >= 1.

    Of all orders of rows that are closer than the tolerance it is the worst: right answers stand
    behind every wrong row not farther than they. With one right answer it equals `ranks`.
    queries: float (Q, D). gallery: float (G, D). query_keys (Q,), gallery_keys (G,): integers or
    texts. ValueError as `ranks`, and for a query without a right answer.
    """
    owners, rows = right_rows(query_keys, gallery_keys)
    ends = np.searchsorted(owners, np.arange(1, len(queries)))
    counts, distances, slack = ranking.count_not_farther(queries, gallery, owners, rows, tolerance)
    found = []
    for count, distance in zip(np.split(counts, ends), np.split(distances, ends)):
        # Of the rows counted these are right: they stand before or behind, but not in the way.
        right = np.searchsorted(distance, distance + slack, side="right")
        found.append(np.arange(1, len(count) + 1) + count - right)
    return found[: len(queries)]


def right_rows(query_keys: np.ndarray, gallery_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every pair of a query and a gallery row of its key: query and row, int64 (P,) each,
    queries ascending. query_keys: (Q,). gallery_keys: (G,). ValueError naming a key that the
    gallery lacks."""
    order = np.argsort(gallery_keys, kind="stable")
    ordered = gallery_keys[order]
    first = np.searchsorted(ordered, query_keys, "left")
    right = np.searchsorted(ordered, query_keys, "right") - first
    if not right.all():
        missing = query_keys[right == 0]
        raise ValueError(f"{len(missing)} queries have no right answer: {missing[0]} is the first")
    owners = np.repeat(np.arange(len(query_keys)), right)
    before = np.cumsum(right) - right
    return owners, order[np.arange(len(owners)) + (first - before)[owners]]


def nearest(
    queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest gallery rows int64 (Q, k) and their distances, for few queries.

    The order is that of `ranks`: the right answer stands behind the rows it ties with.
    """
    norms = [ranking.squared_norms(queries, "queries"), ranking.squared_norms(gallery, "gallery")]
    slack = TOLERANCE * np.sqrt(np.concatenate(norms).max())
    distances = cdist(queries, gallery)
    rows = np.arange(len(queries))
    keys = distances.copy()
    keys[rows, answers] += slack
    right = np.zeros(keys.shape, bool)
    right[rows, answers] = True
    order = np.lexsort((right, keys), axis=1)[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


# ---------------------------------------------------------------- scores


def scores(kind: str, rank: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Return the score of each query: float64 (Q,).

    kind: 'mAP', or 'top<k>' for recall at k: 1.0 where a right answer is among the k nearest. rank:
    int (Q,), of the one right answer; or a list of int (R,), ascending, of all right answers."""
    if kind == "mAP":
        return average_precision(rank)
    return (first_ranks(rank) <= _k(kind)).astype(np.float64)


def average_precision(rank: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Return the average precision of each query: float64 (Q,), 1 / rank of one right answer; of
    several the mean over i = 1 .. R of i / rank_i, the precision down to each of them."""
    if isinstance(rank, list):
        return np.array([np.mean(np.arange(1, len(each) + 1) / each) for each in rank])
    return 1.0 / np.asarray(rank, np.float64)


def first_ranks(rank: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Return the rank of the nearest right answer of each query: int (Q,)."""
    return np.array([each[0] for each in rank]) if isinstance(rank, list) else rank


def chance(kind: str, n: int, right: int | np.ndarray = 1) -> float:
    """Return the expected score of a random order of a gallery of n. right: how many are right
    answers; or int (Q,), of each query, for the mean over queries."""
    if kind == "mAP":
        # AP = 1/R sum_k [row k is right] / k * (right rows down to k). Row k is right with
        # probability R/n, rows j < k and k both are with R(R-1) / (n(n-1)), so that
        # E[AP] = 1/n sum_k (1 + (k-1)(R-1)/(n-1)) / k = H_n/n + (1 - H_n/n) (R-1)/(n-1).
        alone = expected_reciprocal_rank(n)
        return float(np.mean(alone + (1 - alone) * (np.asarray(right) - 1) / max(n - 1, 1)))
    # Of all sets of k rows, those that hold a right one.
    k = min(_k(kind), n)
    sets = math.comb(n, k)
    values, queries = np.unique(right, return_counts=True)
    hit = [(sets - math.comb(n - each, k)) / sets for each in values.tolist()]
    return float(np.average(hit, weights=queries))


def classifier_ceiling(kind: str, classes: np.ndarray, gallery_classes: np.ndarray) -> float:
    """Return the expected macro score of a perfect classifier that cannot tell objects of a class
    apart. classes: int (Q,). gallery_classes: int (G,).

    It ranks the n_c gallery objects of the query's class first, in random order, so a query of
    class c expects min(k, n_c) / n_c, or H_{n_c} / n_c for mAP; then the mean over the classes
    that occur among the queries.
    """
    names, counts = np.unique(gallery_classes, return_counts=True)
    size = counts[np.isin(names, np.unique(classes))]
    if kind == "mAP":
        return float(np.mean(expected_reciprocal_rank(size)))
    return float(np.mean(np.minimum(_k(kind), size) / size))


def expected_reciprocal_rank(n: np.ndarray | int) -> np.ndarray:
    """Return the expected reciprocal rank in a random order of n, H_n / n: float64. n: int."""
    n = np.asarray(n, np.int64)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, max(1, n.max()) + 1))])
    return harmonic[n] / np.maximum(n, 1)


def _k(kind: str) -> int:
    return int(kind.removeprefix("top"))


# ---------------------------------------------------------------- metrics


def scene_figures(
    ranks: Mapping[QueryProtocol, np.ndarray],
    metrics: Mapping[str, str],
    gallery: int,
    split: str,
    seed: int,
    **labels: str,
) -> list[Figure]:
    """Return scene recall, a figure for each metric and protocol. Real sketches have the paired
    difference to blank ones as a control, because boxes alone can answer a query that carries the
    photograph's own. ranks: int (Q,). labels: further ones. The rest as of `rank_figures`."""
    controls = {each: {"blank": each.control} for each in ranks if each.sketches == "real"}
    all_labels = {protocol: {**protocol.labels, **labels} for protocol in ranks}
    return rank_figures(ranks, all_labels, controls, metrics, gallery, split, seed)


def rank_figures(
    ranks: Mapping[Any, np.ndarray | list[np.ndarray]],
    labels: Mapping[Any, dict[str, str]],
    controls: Mapping[Any, Mapping[str, Any]],
    metrics: Mapping[str, str],
    gallery: int,
    split: str,
    seed: int,
    groups: np.ndarray | None = None,
) -> list[Figure]:
    """Return a figure for each metric and each kind of the same queries.

    ranks: kind of query -> ranks, as of `scores`. labels: of each kind. controls: kind -> name of a
    control -> its kind. metrics: name -> kind of score. gallery: candidates that each query chose
    from. seed: of the bootstrap. groups (Q,): queries of one group are redrawn together; there is
    no interval when all are of one."""
    first, right = next(iter(ranks.values())), 1
    if isinstance(first, list):
        right = np.array([len(each) for each in first])
    values, chances, numbers = {}, {}, {}
    for metric, score in metrics.items():
        values[metric] = {kind: scores(score, rank) for kind, rank in ranks.items()}
        chances[metric] = chance(score, gallery, right)
        for kind, rank in ranks.items() if score == "mAP" else ():
            numbers[metric, kind] = {"median_rank": float(np.median(first_ranks(rank)))}
            if isinstance(rank, list):
                numbers[metric, kind]["right_answers"] = float(right.mean())
    more = {"gallery": gallery, "groups": groups, "numbers": numbers}
    return score_figures(values, chances, labels, controls, split, seed, **more)


def score_figures(
    values: Mapping[str, Mapping[Any, np.ndarray]],
    chances: Mapping[str, float],
    labels: Mapping[Any, dict[str, str]],
    controls: Mapping[Any, Mapping[str, Any]],
    split: str,
    seed: int,
    gallery: int,
    groups: np.ndarray | None = None,
    numbers: Mapping[tuple[str, Any], dict[str, float]] = {},
) -> list[Figure]:
    """Return a figure for each metric and each kind of the same queries.

    values: metric -> kind of query -> score of each query, float (Q,). chances: of each metric.
    numbers: of a metric and kind, what else stands beside it. The rest as of `rank_figures`."""
    columns = {(metric, kind): each for metric in values for kind, each in values[metric].items()}
    shown = list(columns)
    for metric, kind in shown:
        for name, control in controls.get(kind, {}).items():
            columns[metric, kind, name] = columns[metric, kind] - columns[metric, control]
    table = np.stack(list(columns.values()), axis=1)
    means = dict(zip(columns, table.mean(axis=0).tolist()))
    intervals = dict.fromkeys(columns)
    if groups is None or len(np.unique(groups)) > 1:
        ends = bootstrap_intervals(table, groups, seed=seed).tolist()
        intervals = dict(zip(columns, map(tuple, ends)))

    figures = []
    for metric, kind in shown:
        beside = {}
        for name in controls.get(kind, ()):
            gap = (metric, kind, name)
            beside |= difference(name, means[gap], intervals[gap])
        figure = Figure(
            metric=metric,
            split=split,
            value=means[metric, kind],
            n=len(table),
            labels=labels[kind],
            gallery=gallery,
            chance=chances[metric],
            interval=intervals[metric, kind],
            controls=beside | numbers.get((metric, kind), {}),
        )
        figures.append(figure)
    return figures
