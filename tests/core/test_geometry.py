"""Box helpers against hand-worked cases."""

import numpy as np

from core import geometry


def test_areas_and_iou_by_hand():
    a = np.array([0.0, 0.0, 0.5, 0.5])
    b = np.array([0.25, 0.25, 0.75, 0.75])  # common 1/16, union 1/4 + 1/4 - 1/16 = 7/16
    assert geometry.areas(a) == 0.25
    assert np.isclose(geometry.iou(a, b), 1 / 7)
    assert geometry.iou(a, a) == 1.0
    assert geometry.iou(a, np.array([0.5, 0.5, 1.0, 1.0])) == 0.0


def test_iou_of_boxes_without_area_is_zero():
    point = np.array([0.5, 0.5, 0.5, 0.5])
    assert geometry.iou(point, point) == 0.0


def test_iou_of_all_pairs_is_symmetric():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (5, 2))], 1)
    pairs = geometry.iou(boxes[:, None], boxes[None])
    assert pairs.shape == (5, 5)
    np.testing.assert_allclose(pairs, pairs.T)
    np.testing.assert_allclose(np.diag(pairs), 1.0)


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


def test_no_jitter_changes_nothing():
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]], np.float32)
    ones = np.ones((2, 2), np.float32)
    np.testing.assert_allclose(geometry.jitter(boxes, ones, ones, 0.0), boxes, atol=1e-7)
