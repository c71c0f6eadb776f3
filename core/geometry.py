"""Boxes: [x0, y0, x1, y1] in [0, 1] of the image, x to the right, y downwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

MIN_SIDE = 1 / 64  # of the image: jitter leaves no box thinner than this, unless it was


def areas(boxes: Any) -> Any:
    """Areas (...,) of boxes (..., 4), as shares of the image; numpy or TensorFlow."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (...,) of boxes a and b (..., 4), broadcast; 0 when the union has no
    area. For all pairs: iou(a[:, None], b[None])."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0.0), axis=-1)
    union = areas(a) + areas(b) - common
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def jitter(boxes: tf.Tensor, shifts: tf.Tensor, scales: tf.Tensor, amount: float) -> tf.Tensor:
    """Boxes moved and scaled by a share of their own size, then cut to the image: float32 (O, 4).

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
