"""Fusion of rankings, worked by hand."""

import numpy as np
import pytest
from scipy.stats import zscore

from core.evaluation import fusion


def test_z_scores():
    scores = np.random.default_rng(0).normal(3, 5, (2, 9))
    np.testing.assert_allclose(fusion.z_scores(scores), zscore(scores, axis=1))
    assert fusion.z_scores(np.full(4, 2.0)).tolist() == [0] * 4
    rounded = np.array([[1, 1 + 1e-7, 1 - 1e-7], [1, 2, 3]])
    assert fusion.z_scores(rounded)[0].tolist() == [0] * 3 != fusion.z_scores(rounded)[1].tolist()


@pytest.mark.parametrize(("rankings", "count"), [(2, 11), (3, 66)])
def test_the_grid_has_every_weight_and_each_ranking_alone(rankings, count):
    grid = fusion.weight_grid(rankings)
    assert grid.shape == (count, rankings) == np.unique(grid, axis=0).shape
    np.testing.assert_allclose(grid.sum(1), 1)
    assert abs(grid[0] - 1 / rankings).max() <= 0.1
    assert {tuple(row) for row in np.eye(rankings)} <= {tuple(row) for row in grid}


def test_ranks_worked_by_hand():
    # Mean 0 and deviation 1 already. Halves: 0, 0, 0, 0: a tie of all.
    scores = np.array([[1.0, -1, 1, -1], [-1.0, 1, -1, 1]])
    weights = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.6, 0.4]])
    assert fusion.ranks_by_weights(scores, weights, 0).tolist() == [2, 4, 4, 2]
    assert fusion.ranks_by_weights(10 + 5 * scores, weights, 1).tolist() == [4, 2, 4, 4]


def test_the_first_of_the_best_weights():
    # mAP of the columns: 3/8, 1/2 + 1/8 = 5/8 each of the next two
    assert fusion.best_weights(np.array([[2, 1, 4], [4, 4, 1]])) == 1
