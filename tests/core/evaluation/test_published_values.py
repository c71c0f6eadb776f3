"""Values that tests and manuals of other retrieval libraries publish, and where a definition
differs."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from core.evaluation import retrieval
from core.evaluation.figures import macro_average
from core.evaluation.graded_relevance import discounted_gain, ranked_gains


def ranks_by_distance(query_keys, gallery_keys, distances):
    queries = np.zeros((len(query_keys), 1))
    gallery = np.array(distances, float)[:, None]
    return retrieval.all_ranks(queries, gallery, np.array(query_keys), np.array(gallery_keys))


def test_three_nearest_of_thirteen():
    """Ten of class 0 and three of class 1; the three nearest are 1, 1, 0 to every query."""
    classes = np.array([1, 1, 1, 0])
    ranks = ranks_by_distance(classes, [1, 1, 0, 1] + [0] * 9, range(1, 14))
    nearest = [[rank in each.tolist() for rank in (1, 2, 3)] for each in ranks]
    assert nearest == [[True, True, False]] * 3 + [[False, False, True]]
    # MAP@3 divides by all right answers; those beyond k add nothing, as at an infinite rank.
    within = [np.where(each <= 3, each, np.inf) for each in ranks]
    assert retrieval.average_precision(within).mean() == pytest.approx(0.50833, abs=1e-5)
    recall = retrieval.scores("top2", ranks)
    assert recall.mean() == 0.75
    assert macro_average(recall, classes) == 0.5
    # No metric of ours is precision@k: the share of the k nearest that are right.
    precision = np.array([(each <= 3).sum() / 3 for each in ranks])
    assert precision.mean() == pytest.approx(0.58333, abs=1e-5)
    assert macro_average(precision, classes) == pytest.approx(0.5)


def test_scores_and_relevance():
    """The highest score is the nearest row."""
    scores = np.array([0.2, 0.3, 0.5])
    ranks = ranks_by_distance([1], [1, 0, 1], 1 - scores)
    assert retrieval.average_precision(ranks)[0] == pytest.approx(0.8333, abs=1e-4)
    # R@2 there: the share of right answers among the two nearest. Ours, as is usual where a sketch
    # is looked for: whether one is among them.
    assert (ranks[0] <= 2).mean() == 0.5
    assert retrieval.scores("top2", ranks)[0] == 1


def test_scores_and_gains():
    scores = np.array([[0.1, 0.2, 0.3, 4, 70]])
    gains = np.array([[10.0, 0, 0, 1, 5]])
    found = discounted_gain(ranked_gains(gains, -scores, 0.0))
    assert found / discounted_gain(-np.sort(-gains)) == pytest.approx(0.6957, abs=1e-4)


def test_ties():
    """Others take the mean over the orders of equal scores, we the worst of them."""
    gains, equal = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    discount = 1 / np.log2(3)
    assert ndcg_score(gains, equal) == pytest.approx((1 + discount) / 2)
    assert discounted_gain(ranked_gains(gains, -equal, 0.0)) == pytest.approx(discount)
