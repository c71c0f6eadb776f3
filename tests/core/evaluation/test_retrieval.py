"""Ranks and recall against hand-worked tables, a slow reference and scikit-learn."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from core.evaluation import retrieval


def vectors(n, width=16, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((n, width))).astype(np.float32)


def test_ranks_worked_by_hand():
    gallery = np.array([[0.0], [1.0], [3.0], [7.0]])
    # distances of 0.9: .9 .1 2.1 6.1; of 5.5: 5.5 4.5 2.5 1.5; of 2: 2 1 1 5
    queries = np.array([[0.9], [5.5], [2.0], [2.0]])
    # query 2 and 3 have rows 1 and 2 equally near: the tie counts against the right one
    assert retrieval.ranks(queries, gallery, np.array([0, 2, 1, 2])).tolist() == [2, 2, 2, 2]
    assert retrieval.ranks(queries, gallery, np.array([1, 0, 0, 3])).tolist() == [1, 4, 3, 4]


def test_scores_worked_by_hand():
    rank = np.array([1, 2, 5, 11])
    assert retrieval.scores("top1", rank).tolist() == [1, 0, 0, 0]
    assert retrieval.scores("top5", rank).tolist() == [1, 1, 1, 0]
    assert retrieval.scores("mAP", rank).tolist() == pytest.approx([1, 1 / 2, 1 / 5, 1 / 11])


def test_chance_worked_by_hand():
    assert retrieval.chance("top1", 4) == 0.25
    assert retrieval.chance("top10", 4) == 1.0
    # (1 + 1/2 + 1/3 + 1/4) / 4
    assert retrieval.chance("mAP", 4) == pytest.approx(25 / 48)
    assert retrieval.expected_reciprocal_rank(np.array([1, 2])).tolist() == [1.0, 0.75]


def test_ceiling_worked_by_hand():
    # Queries of classes 7 and 8; the gallery has 2 of class 7, 3 of class 8, 1 nobody asks for.
    classes, gallery = np.array([7, 8, 8]), np.array([7, 7, 8, 8, 8, 9])
    assert retrieval.classifier_ceiling("top1", classes, gallery) == pytest.approx(
        (1 / 2 + 1 / 3) / 2
    )
    assert retrieval.classifier_ceiling("top5", classes, gallery) == 1.0
    # H_2 / 2 = 3/4, H_3 / 3 = 11/18
    assert retrieval.classifier_ceiling("mAP", classes, gallery) == pytest.approx(
        (3 / 4 + 11 / 18) / 2
    )


def test_several_right_answers_worked_by_hand():
    gallery = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [-2.0]])
    keys = np.array(["a", "b", "a", "b", "a", "c"])
    # From 0 the rows lie at 1 2 3 4 5 2: a b a b a c, and b and c are a tie.
    ranks = retrieval.all_ranks(np.zeros((3, 1)), gallery, np.array(["a", "b", "c"]), keys)
    # a: first; then behind b and c; last. b: behind a and c; behind a, c, b, a. c: behind a and b.
    assert [rank.tolist() for rank in ranks] == [[1, 4, 6], [3, 5], [3]]
    precision = [(1 / 1 + 2 / 4 + 3 / 6) / 3, (1 / 3 + 2 / 5) / 2, 1 / 3]
    assert retrieval.average_precision(ranks).tolist() == pytest.approx(precision)
    assert retrieval.scores("top1", ranks).tolist() == [1, 0, 0]
    assert retrieval.scores("top3", ranks).tolist() == [1, 1, 1]
    assert retrieval.first_ranks(ranks).tolist() == [1, 3, 3]


def test_several_right_answers_in_the_worst_of_all_orders():
    """Every order of the rows that their distances allow, tried."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        distances = rng.integers(1, 4, 6)
        right = rng.permutation(np.arange(6) < rng.integers(1, 6))
        worst = min(
            np.mean([
                np.mean(right[list(order[: place + 1])])
                for place, row in enumerate(order) if right[row]
            ])
            for order in itertools.permutations(range(6))
            if np.all(np.diff(distances[list(order)]) >= 0)
        )  # fmt: skip
        ranks = retrieval.all_ranks(
            np.zeros((1, 1)), distances[:, None].astype(float), np.array([1]), right.astype(int)
        )
        assert retrieval.average_precision(ranks)[0] == pytest.approx(worst)


@pytest.mark.parametrize("classes", [1, 4, 25])
def test_several_right_answers_equal_sklearn_without_ties(classes):
    rng = np.random.default_rng(classes)
    gallery, queries = vectors(60, seed=1), vectors(30, seed=2)
    gallery_keys = np.concatenate([np.arange(classes), rng.integers(0, classes, 60 - classes)])
    keys = rng.integers(0, classes, 30)
    ranks = retrieval.all_ranks(queries, gallery, keys, gallery_keys)
    precision = retrieval.average_precision(ranks)
    for query, key, own, rank in zip(queries, keys, precision, ranks):
        near = -np.linalg.norm(gallery - query, axis=1)
        assert own == pytest.approx(average_precision_score(gallery_keys == key, near))
        order = np.argsort(-near)
        assert rank.tolist() == (1 + np.flatnonzero(gallery_keys[order] == key)).tolist()


@pytest.mark.parametrize("size", [1, 4, 7])
def test_chance_is_the_mean_of_all_orders(size):
    for right in range(1, size + 1):
        orders = [np.array(o) + 1 for o in itertools.combinations(range(size), right)]
        precision = retrieval.average_precision(orders).mean()
        assert retrieval.chance("mAP", size, right) == pytest.approx(precision)
        for kind in ("top1", "top2", "top5", "top10"):
            recall = retrieval.scores(kind, orders).mean()
            assert retrieval.chance(kind, size, right) == pytest.approx(recall)


def test_chance_of_queries_is_the_mean_over_them():
    for kind in ("mAP", "top2"):
        each = [retrieval.chance(kind, 9, right) for right in (1, 4)]
        assert retrieval.chance(kind, 9, np.array([1, 4, 4])) == pytest.approx(
            (each[0] + 2 * each[1]) / 3
        )


@pytest.mark.parametrize("right", [1, 3, 12])
def test_several_right_answers_of_a_collapsed_embedding_are_at_or_below_chance(right):
    keys = np.arange(36) // right
    collapsed = np.ones((36, 8), np.float32) + vectors(36, 8, 1, 1e-7)
    ranks = retrieval.all_ranks(collapsed, collapsed, keys, keys)
    assert [rank.tolist() for rank in ranks] == [list(range(37 - right, 37))] * 36
    assert retrieval.average_precision(ranks).mean() <= retrieval.chance("mAP", 36, right)
    assert retrieval.scores("top5", ranks).mean() <= retrieval.chance("top5", 36, right)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("point", [0.0, 1.0])
def test_a_collapsed_embedding_is_at_or_below_chance(point, noise):
    n = 64
    collapsed = np.full((n, 32), point, np.float32) + vectors(n, 32, 1, noise * max(point, 0.0))
    rank = retrieval.ranks(collapsed, collapsed, np.arange(n))
    assert rank.tolist() == [n] * n
    for kind in ("mAP", "top1", "top5", "top10"):
        assert retrieval.scores(kind, rank).mean() <= retrieval.chance(kind, n)


def test_near_duplicates_are_found_and_never_nan():
    # |a|^2 + |b|^2 - 2ab in float32 would round to about -1e-7 here; the pairs lie 1e-3 apart
    base = np.ones((50, 128), np.float32) / np.sqrt(128)
    gallery = base + vectors(50, 128, 1, 1e-3)
    queries = gallery + vectors(50, 128, 2, 1e-6)
    rank = retrieval.ranks(queries, gallery, np.arange(50))
    assert np.all(rank == 1)
    order, distances = retrieval.nearest(queries, gallery, np.arange(50), 5)
    assert np.isfinite(distances).all()
    assert np.all(order[:, 0] == np.arange(50))


def test_nearest_agrees_with_ranks():
    gallery, queries = vectors(40, seed=1), vectors(40, seed=2)
    gallery[3] = gallery[2]  # a tie with the right answer of query 2
    queries[2] = gallery[2]
    answers = np.arange(40)
    order, distances = retrieval.nearest(queries, gallery, answers, 40)
    place = 1 + np.argmax(order == answers[:, None], axis=1)
    np.testing.assert_array_equal(place, retrieval.ranks(queries, gallery, answers))
    assert order[2, :2].tolist() == [3, 2]
    assert distances[2, :2].tolist() == pytest.approx([0, 0], abs=1e-6)
    others = np.arange(40) != 2
    assert np.all(np.diff(distances[others]) >= 0)


def test_memory_does_not_grow_with_queries_times_gallery():
    # In a process of its own, whose peak is this call's. The whole matrix would take 1,152 MB.
    program = """
import resource, numpy as np
from core.evaluation import retrieval
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 12000, 16)).astype(np.float32)
retrieval.ranks(a[:600], b, np.arange(600))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
retrieval.ranks(a, b, np.arange(12000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) < 200_000  # kB


def test_a_key_that_the_gallery_lacks_is_named():
    keys = np.array(["x", "y", "z"])
    with pytest.raises(ValueError, match="1 queries have no right answer: z is the first"):
        retrieval.all_ranks(vectors(3), vectors(2), keys, keys[:2])
    assert retrieval.all_ranks(vectors(0), vectors(2), keys[:0], keys[:2]) == []
