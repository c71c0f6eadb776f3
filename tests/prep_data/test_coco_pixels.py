"""Masks, crops and photographs against hand-worked cases and slow references."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask
from tiny_coco import rectangle

from prep_data import coco_pixels
from prep_data.coco_selection import Region


@pytest.fixture
def region_mask(tmp_path):
    """A function that gives the mask of a segmentation as it lies in an annotation file."""

    def mask(segmentation, width: int, height: int) -> np.ndarray:
        path = Path(tmp_path / "annotation.json")
        path.write_text(json.dumps({"id": 1, "segmentation": segmentation}))
        region = Region(1, 0, (0, 0, width, height), path, 0, path.stat().st_size)
        return coco_pixels.region_mask(region, width, height)

    return mask


def slow_resize(part: np.ndarray, side: int) -> np.ndarray:
    """Triangle-filter resampling in float64, written out: each output pixel is the weighted mean
    of the inputs, weights falling linearly to 0 at one output pixel's (or one input pixel's, when
    enlarging) distance from its centre."""

    def matrix(size: int) -> np.ndarray:
        scale = size / side
        reach = max(scale, 1.0)
        weights = np.zeros((side, size))
        for i in range(side):
            centre = (i + 0.5) * scale
            for j in range(size):
                weights[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / reach)
        return weights / weights.sum(1, keepdims=True)

    return matrix(part.shape[0]) @ part.astype(float) @ matrix(part.shape[1]).T


def slow_runs(mask: np.ndarray) -> list:
    """COCO's uncompressed runs: column by column, starting with zeros."""
    counts, value, run = [], 0, 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


def test_mask_of_a_half_filled_box_by_hand(region_mask):
    # Box columns 2..9 and rows 2..9, of which the polygon fills columns 2..5.
    whole = region_mask(rectangle(2, 2, 4, 8), 20, 20)
    assert whole.shape == (20, 20) and whole.sum() == 4 * 8
    mask = coco_pixels.mask_in_box(whole, (2, 2, 10, 10), 4)
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0]] * 4)


def test_exactly_one_half_counts_as_inside():
    # One row of two pixels seen as a single pixel: the mean is one half.
    assert coco_pixels.mask_in_box(np.array([[1, 0]], np.uint8), (0, 0, 2, 1), 1) == 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.4, 1.6, 5.4, 5.6), (1, 2, 5, 6)),
        ((0.5, 1.5, 2.5, 3.5), (0, 2, 2, 4)),  # halves go to the even neighbour
        ((3.1, 3.1, 3.3, 3.3), (3, 3, 4, 4)),  # at least one pixel
        ((9.8, 7.9, 10.0, 8.0), (9, 7, 10, 8)),  # also at the image's border
    ],
)
def test_rounded_box_by_hand(box, expected):
    assert coco_pixels.rounded_box(box, 10, 8) == expected


def test_masks_against_a_slow_reference(region_mask):
    rng = np.random.default_rng(3)
    for width, height, side in ((70, 50, 16), (33, 90, 8), (20, 24, 64), (64, 64, 64)):
        coarse = rng.random((6, 6)) > 0.5
        rows, columns = np.arange(height) * 6 // height, np.arange(width) * 6 // width
        whole = coarse[rows][:, columns].astype(np.uint8)
        segmentation = {"size": [height, width], "counts": slow_runs(whole)}
        x0, x1 = sorted(rng.choice(width, 2, replace=False).tolist())
        y0, y1 = sorted(rng.choice(height, 2, replace=False).tolist())
        decoded = region_mask(segmentation, width, height)
        np.testing.assert_array_equal(decoded, whole)
        mask = coco_pixels.mask_in_box(decoded, (x0, y0, x1, y1), side)
        exact = slow_resize(whole[y0:y1, x0:x1], side)
        clear = abs(exact - 0.5) > 1 / 255  # Pillow rounds to 8 bits after each direction
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(mask[clear], (exact >= 0.5)[clear])


def test_polygons_against_point_in_polygon(region_mask):
    triangle = [5.0, 4.0, 55.0, 20.0, 15.0, 44.0]
    square = [60.0, 30.0, 70.0, 30.0, 70.0, 40.0, 60.0, 40.0]
    mask = region_mask([triangle, square, [1, 2, 3]], 80, 50)

    def inside(x: float, y: float, points: list) -> float:
        corners = list(zip(points[::2], points[1::2]))
        sides = []
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
            sides.append(((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / np.hypot(bx - ax, by - ay))
        return min(sides)

    for row in range(50):
        for column in range(80):
            centre = (column + 0.5, row + 0.5)
            signed = [inside(*centre, polygon) for polygon in (triangle, square)]
            if max(signed) > 1:
                assert mask[row, column] == 1
            elif max(signed) < -1:
                assert mask[row, column] == 0


def test_compressed_and_uncompressed_runs_agree(region_mask):
    rng = np.random.default_rng(1)
    for height, width, share in ((31, 17, 0.3), (300, 400, 0.001), (5, 5, 1.0)):
        whole = (rng.random((height, width)) < share).astype(np.uint8)
        packed = coco_mask.encode(np.asfortranarray(whole))
        text = {"size": [height, width], "counts": packed["counts"].decode("ascii")}
        np.testing.assert_array_equal(region_mask(text, width, height), whole)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2, 3, 4, 5]],
        [[1, 1, 5, 1, float("nan"), 5]],
        [[1, 1, 5, 1, 1e12, 5]],
        {"size": [30, 20], "counts": [600]},  # the other way round
        {"size": [20, 30], "counts": [10, 20]},  # too few pixels
        {"size": [20, 30], "counts": [700, -100]},
        {"size": [20, 30], "counts": [2**62] * 4 + [600]},  # the sum wraps to the right number
        {"size": [20, 30], "counts": "ooooo"},  # every character says: more follow
        {"size": [20, 30], "counts": "é"},
        {"size": [20, 30], "counts": "0123"},  # fewer pixels than the size
    ],
)
def test_degenerate_segmentations_are_skipped(region_mask, segmentation):
    with pytest.raises(coco_pixels.Skip, match="segmentation"):
        region_mask(segmentation, 30, 20)


def test_crops_are_those_of_the_loaders():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    boxes = [(0.0, 0.0, 1.0, 1.0), (0.13, 0.4, 0.61, 0.97), (0.5, 0.5, 0.51, 0.52)]
    for x0, y0, x1, y1 in boxes:
        expected = tf.image.crop_and_resize(
            pixels[None].astype(np.float32), [[y0, x0, y1, x1]], [0], [24, 24]
        )[0]
        crop = coco_pixels.bilinear_crop(pixels, (x0, y0, x1, y1), 24)
        assert crop.dtype == np.uint8
        assert abs(crop - expected.numpy()).max() <= 0.51
