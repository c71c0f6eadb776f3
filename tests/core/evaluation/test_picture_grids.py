"""The map of an embedding. Pictures of a whole evaluation are tested in test_embedded_split.py."""

import numpy as np
import pytest

from core.evaluation.picture_grids import tsne


def test_groups_stay_together_and_the_seed_decides():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 16))
    group = np.repeat(np.arange(3), 20)
    vectors = (centres[group] + 0.05 * rng.standard_normal((60, 16))).astype(np.float32)
    points = tsne(vectors, 0)
    assert points.shape == (60, 2)
    middles = np.stack([points[group == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, group)
    np.testing.assert_array_equal(tsne(vectors, 0), points)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_a_collapsed_embedding_is_a_point(count):
    points = tsne(np.ones((count, 8), np.float32), 0)
    np.testing.assert_array_equal(points, np.zeros((count, 2)))


@pytest.mark.parametrize(("count", "width"), [(2, 8), (5, 1)])
def test_few_points_and_narrow_vectors(count, width):
    vectors = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    assert np.isfinite(tsne(vectors, 0)).all()
