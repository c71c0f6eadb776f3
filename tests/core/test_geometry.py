"""Box helpers against hand-worked cases."""

import numpy as np

from core import geometry


def test_location_cells_by_hand():
    boxes = [
        [0.125, 0.375, 0.625, 0.875],  # centre (0.375, 0.625): 4 cx = 1.5 -> 2, 4 cy = 2.5 -> 2
        [0.0, 0.0, 1.0, 1.0],  # the middle
        [0.0, 0.0, 0.5, 1.0],  # 4 cx = 1, 4 cy = 2
        [0.99, 0.99, 1.02, 1.02],  # out of the image: the nearest cell
        [-0.2, -0.2, 0.0, 0.0],
    ]
    cells = geometry.location_cells(np.array(boxes, np.float32))
    assert cells.numpy().tolist() == [2 + 5 * 2, 2 + 5 * 2, 1 + 5 * 2, 4 + 5 * 4, 0]


def test_size_levels_by_hand():
    boxes = [
        [0.0, 0.5, 1.0, 1.0],  # 9 x 1/2 = 4.5 -> 4, half to even
        [0.25, 0.25, 0.5, 0.5],  # 9/16 -> 1
        [0.0, 0.0, 1.0, 1.0],  # 9
        [0.4, 0.4, 0.4, 0.9],  # no width: 0
        [0.0, 0.0, 2.0, 2.0],  # out of the image: the last level
    ]
    levels = geometry.size_levels(np.array(boxes, np.float32))
    assert levels.numpy().tolist() == [4, 1, 9, 0, 9]


def test_jitter_by_hand():
    # Size 0.4 x 0.2, centre (0.5, 0.5); shift +1 and -1 of 20 % moves it by 0.08 and -0.04;
    # scale +1 makes the width 0.48, scale -1 the height 0.16.
    box = np.array([[0.3, 0.4, 0.7, 0.6]], np.float32)
    one = np.array([[1.0, -1.0]], np.float32)
    moved = geometry.jitter(box, one, one, 0.2).numpy()
    np.testing.assert_allclose(moved, [[0.58 - 0.24, 0.46 - 0.08, 0.58 + 0.24, 0.46 + 0.08]], 1e-5)


def test_jitter_stays_in_the_image_and_keeps_a_least_side():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.9, (500, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.001, 1, (500, 2)) * (1 - low)], 1)
    boxes = boxes.astype(np.float32)
    shifts, scales = rng.uniform(-1, 1, (2, 500, 2)).astype(np.float32)
    moved = geometry.jitter(boxes, shifts, scales, 0.95).numpy()
    assert (moved >= 0).all() and (moved <= 1).all()
    least = np.minimum(boxes[:, 2:] - boxes[:, :2], geometry.MIN_SIDE)
    assert (moved[:, 2:] - moved[:, :2] >= least - 1e-6).all()
