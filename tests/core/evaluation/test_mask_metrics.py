"""Mask IoU and the masks that need no model."""

import numpy as np
import pytest

from core.evaluation import mask_metrics
from core.evaluation.embedded_split import class_means


def test_iou_worked_by_hand():
    a = np.zeros((3, 4, 4))
    b = np.zeros((3, 4, 4))
    a[0, :2], b[0, 1:3] = 1, 1  # 8 and 8 pixels, 4 shared: 4 / 12
    a[1, :, :2], b[1] = 0.5, 1  # a half counts as inside: 8 / 16
    # the third pair is empty on both sides: 1 by definition
    np.testing.assert_allclose(
        mask_metrics.mask_iou(mask_metrics.pack(a), mask_metrics.pack(b)), [1 / 3, 1 / 2, 1]
    )
    np.testing.assert_allclose(
        mask_metrics.mask_iou(mask_metrics.pack(np.ones((1, 4, 4))), mask_metrics.pack(b)),
        [8 / 16, 1, 0],
    )


def test_iou_equals_a_plain_one_on_random_masks():
    rng = np.random.default_rng(0)
    a, b = rng.random((20, 64, 64)), rng.random((20, 64, 64)) > 0.3
    plain = [((x >= 0.5) & y).sum() / ((x >= 0.5) | y).sum() for x, y in zip(a, b)]
    np.testing.assert_allclose(
        mask_metrics.mask_iou(mask_metrics.pack(a), mask_metrics.pack(b)), plain
    )
    np.testing.assert_array_equal(mask_metrics.unpack(mask_metrics.pack(b), 64), b)


def test_class_mean_masks_worked_by_hand():
    left, right, full = np.zeros((3, 4, 4), np.uint8)
    left[:, :2], right[:, 2:], full[:] = 1, 1, 1
    # class 0: left in 2 of 3, right in 2 of 3: all pixels 2/3. Class 2: left only.
    sums = np.stack([left + right + full, 0 * full, left])
    means = class_means(sums, np.array([3, 0, 1]))
    np.testing.assert_allclose(means[[0, 2]], [2 * full / 3, left])
    # class 1 was never seen: over all four objects left is 3/4, right is 2/4
    np.testing.assert_allclose(means[1], (3 * left + 2 * right) / 4)


def test_layout_iou_worked_by_hand():
    """First: class 0 has 2 of 3 pixels in common, class 7 is only in one; the background, alike in
    two pixels, does not count: (2/3 + 0) / 2. Second: nothing in either. Third: all alike."""
    a = np.full((3, 2, 3), 255, np.uint8)
    b = a.copy()
    a[0, 0], b[0, 0, :2] = 0, 0
    b[0, 0, 2] = 7
    a[2, 0, 0] = b[2, 0, 0] = 254
    np.testing.assert_allclose(mask_metrics.scene_iou(a, b), [1 / 3, 1, 1])


def test_layout_iou_equals_a_plain_one_on_random_layouts():
    a, b = np.random.default_rng(0).choice([0, 3, 9, 255], (2, 5, 16, 16)).astype(np.uint8)
    for x, y, value in zip(a, b, mask_metrics.scene_iou(a, b)):
        ratios = [((x == k) & (y == k)).sum() / ((x == k) | (y == k)).sum() for k in (0, 3, 9)]
        assert value == pytest.approx(np.mean(ratios))
