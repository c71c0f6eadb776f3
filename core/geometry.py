"""Boxes [x0, y0, x1, y1] in [0, 1] of the image, x to the right, y downwards."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LOCATION_GRID = 5  # cells a side
SIZE_LEVELS = 10
MIN_SIDE = 1 / 64  # of the image: jitter leaves no box thinner than this, unless it was


def location_cells(boxes: tf.Tensor) -> tf.Tensor:
    """Return the cell of each box's centre, 0 = top left, row by row: int32 (O,).

    boxes: float32 (O, 4). On each axis the nearest of the cell centres 0, 1/4, .. 1; a tie goes to
    the even one.
    """
    steps = tf.round((boxes[:, :2] + boxes[:, 2:]) * ((LOCATION_GRID - 1) / 2))  # (O, 2)
    cells = tf.cast(tf.clip_by_value(steps, 0, LOCATION_GRID - 1), tf.int32)
    return cells[:, 0] + LOCATION_GRID * cells[:, 1]


def size_levels(boxes: tf.Tensor) -> tf.Tensor:
    """Return the level of each box's area: int32 (O,), 9 times the area, rounded half to even.
    boxes: float32 (O, 4)."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    levels = tf.round((SIZE_LEVELS - 1) * areas)
    return tf.cast(tf.clip_by_value(levels, 0, SIZE_LEVELS - 1), tf.int32)


def jitter(boxes: tf.Tensor, shifts: tf.Tensor, scales: tf.Tensor, amount: float) -> tf.Tensor:
    """Move and scale boxes by a share of their own size and cut them to the image: float32 (O, 4).

    boxes: float32 (O, 4). shifts, scales: float32 (O, 2) in [-1, 1), for x and y: the centre moves
    by amount * shift * size, each side becomes (1 + amount * scale) * size. Sides stay at least
    MIN_SIDE, or what they were when that is less.
    """
    lower, upper = boxes[:, :2], boxes[:, 2:]
    size = upper - lower
    centre = (lower + upper) / 2 + amount * shifts * size
    half = size * (1 + amount * scales) / 2
    low = tf.clip_by_value(centre - half, 0.0, 1.0)
    high = tf.clip_by_value(centre + half, 0.0, 1.0)
    least = tf.minimum(size, MIN_SIDE)
    middle = tf.clip_by_value((low + high) / 2, least / 2, 1 - least / 2)
    thin = high - low < least
    return tf.concat(
        [tf.where(thin, middle - least / 2, low), tf.where(thin, middle + least / 2, high)], 1
    )


def mirrored(boxes: np.ndarray) -> np.ndarray:
    """Return the boxes of an image turned left to right: float32 (O, 4). boxes: float32 (O, 4)."""
    return np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
