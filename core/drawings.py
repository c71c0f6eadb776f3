"""Whole drawings, as a set has them or composed of the sketches of their objects."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

INK = 192  # darker pixels belong to a line


def scene_drawings(batch: Any, side: int) -> tf.Tensor:
    """Return the whole drawing of each query of a `SceneBatch`: uint8 (N, side, side, 1), 255 =
    white paper. Of a set without objects it is `drawings`, resized; otherwise it shows every sketch
    in its box, as `compose_drawings` does."""
    if batch.drawings is not None:
        return resize_pictures(batch.drawings, side)
    query, count = batch.query, tf.size(batch.image_ids)
    return compose_drawings(batch.sketches, query.boxes, query.obj_to_img, count, side)


def resize_pictures(pictures: tf.Tensor, side: int) -> tf.Tensor:
    """Resize pictures with antialiasing: uint8 (N, S, S, c) to (N, side, side, c)."""
    if pictures.shape[1] == side:
        return pictures
    resized = tf.image.resize(pictures, [side, side], antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)


def compose_drawings(
    sketches: tf.Tensor, boxes: tf.Tensor, obj_to_img: tf.Tensor, num_scenes: int, side: int
) -> tf.Tensor:
    """Return the drawing of each scene: uint8 (N, side, side, 1), 255 = white paper.

    The lines of a sketch fill its box, without the margins of its canvas; where boxes overlap the
    darkest pixel wins. Boxes are rounded outwards to whole pixels. White paper leaves nothing.

    sketches: uint8 (Q, H, W, 1), 255 = white paper. boxes: float32 (Q, 4). obj_to_img: int32 (Q,).
    num_scenes: N. side: in pixels. Takes 4 * Q * side^2 bytes.
    """
    grey = tf.convert_to_tensor(sketches)[..., 0]
    boxes, lines = tf.convert_to_tensor(boxes), grey < INK
    rows = _resize_weights(tf.reduce_any(lines, axis=2), boxes[:, 1], boxes[:, 3], side)
    columns = _resize_weights(tf.reduce_any(lines, axis=1), boxes[:, 0], boxes[:, 2], side)
    ink = 255.0 - tf.cast(grey, tf.float32)
    ink = rows @ tf.matmul(ink, columns, transpose_b=True)  # (Q, side, side), 0 outside the box
    darkest = tf.math.unsorted_segment_max(ink, obj_to_img, num_scenes)
    # A scene without objects has the lowest float.
    return tf.cast(255.0 - tf.round(tf.maximum(darkest, 0.0)), tf.uint8)[..., None]


def _resize_weights(lines: tf.Tensor, low: tf.Tensor, high: tf.Tensor, side: int) -> tf.Tensor:
    """Return, for one axis, how much each source pixel counts in each pixel of the drawing: float32
    (Q, side, S), rows of sum 1 within the box and 0 outside. Bilinear, with a filter as wide as a
    pixel of the drawing where that covers several of the source.

    lines: bool (Q, S), source rows (or columns) that have lines. low, high: float32 (Q,), the ends
    of the box."""
    size = tf.shape(lines)[1]
    first = tf.argmax(lines, axis=1, output_type=tf.int32)  # 0 without lines
    end = size - tf.argmax(lines[:, ::-1], axis=1, output_type=tf.int32)
    start = tf.clip_by_value(tf.cast(tf.floor(low * side), tf.int32), 0, side - 1)
    stop = tf.clip_by_value(tf.cast(tf.math.ceil(high * side), tf.int32), start + 1, side)

    scale = tf.cast(end - first, tf.float32) / tf.cast(stop - start, tf.float32)
    target, source = tf.range(side), tf.range(size)
    place = tf.cast(target - start[:, None], tf.float32) + 0.5  # within the box
    centre = tf.cast(first, tf.float32)[:, None] + place * scale[:, None]  # in source pixels
    distance = tf.abs(tf.cast(source, tf.float32) + 0.5 - centre[:, :, None])
    weights = tf.nn.relu(1.0 - distance / tf.maximum(scale, 1.0)[:, None, None])

    within = (source >= first[:, None]) & (source < end[:, None])  # (Q, S)
    inside = (target >= start[:, None]) & (target < stop[:, None])  # (Q, side)
    weights = tf.where(inside[:, :, None] & within[:, None], weights, 0.0)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=2, keepdims=True))
