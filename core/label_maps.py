"""Label maps: the masks of a scene's objects and stuff put together into one map of classes.

A mask (M, M) is thresholded, scaled bilinearly into its box, and thresholded at one half: the
pixels that the object covers. Of the objects that cover a pixel, the smallest is in front. Stuff
lies behind all objects, and pixels without any take the nearest pixel's stuff.

Letters: N scenes, O objects, U pieces of stuff, M side of a mask, S side of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from scipy import ndimage

SIDE = 256
SOLID = 0.6  # a mask's probability from which it is solid
COVERED = 0.5  # share of a pixel, between solid and not, from which the object covers it
BACKGROUND = 255  # label of a pixel that nothing covers
FIRST_STUFF = 91  # label; those below are things
COCO_LABELS = 182  # ids of things (1-90) and stuff (92-182); 183 is "other"


def label_maps(
    masks: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    obj_to_img: tf.Tensor,
    num_scenes: int,
    side: int = SIDE,
    stuff: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the labels and instances of N scenes, both uint8 (N, S, S).

    masks: (O, M, M), probabilities or 0/1, within the box. boxes: float32 (O, 4), drawn or
    predicted. classes: int (O,), any numbers up to 255. obj_to_img: int32 (O,), ascending; a scene
    may have no object. stuff: masks, boxes, classes and scenes of the U pieces of background stuff,
    as those of objects; pieces of the class BACKGROUND are left out. A scene has at most 255
    objects and pieces.

    A label is the class of the object in front; where there is none, of the stuff in front; where
    a scene with stuff has none either, of the nearest pixel of stuff; else BACKGROUND. Instances
    are the objects of a scene, counted from 1, then its pieces of stuff; 0 is the empty map.

    A pixel belongs to a box when its centre does. In front is what covers fewest pixels, so that
    none hides a smaller one; of equals the first.
    """
    # Paper (its code): holes take the last stuff in raster order; here: the nearest, because that
    # one goes on over the edges of rows. COCO-Stuff's "other" is all that is no stuff, the outlines
    # of all objects too: as a class of its own it would give away where they were.
    labels, instances = _layer(masks, boxes, classes, obj_to_img, num_scenes, side)
    if stuff is None:
        return labels, instances
    masks, boxes, classes, stuff_to_img = stuff
    known = tf.cast(tf.cast(classes, tf.int32) != BACKGROUND, tf.float32)[:, None, None]
    masks = tf.cast(masks, tf.float32) * known
    ground = _layer(masks, boxes, classes, stuff_to_img, num_scenes, side)
    nearest = tf.numpy_function(_nearest, [ground[1] > 0], tf.int32)
    nearest = tf.ensure_shape(nearest, labels.shape)
    behind_labels, behind = (tf.gather(tf.reshape(each, [-1]), nearest) for each in ground)
    count = tf.math.unsorted_segment_sum(tf.ones_like(obj_to_img), obj_to_img, num_scenes)
    behind = tf.where(behind > 0, behind + tf.cast(count, tf.uint8)[:, None, None], behind)
    bare = instances == 0
    return tf.where(bare, behind_labels, labels), tf.where(bare, behind, instances)


def _layer(
    masks: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    to_img: tf.Tensor,
    num_scenes: int,
    side: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the labels and instances of objects alone, or of stuff alone."""
    solid = tf.cast(tf.cast(masks, tf.float32) >= SOLID, tf.float32)
    columns = _weights(boxes[:, 0], boxes[:, 2], solid.shape[1], side)
    rows = _weights(boxes[:, 1], boxes[:, 3], solid.shape[1], side)
    # Bilinear interpolation is linear along each axis: two products do all pixels of all objects.
    covers = tf.matmul(rows @ solid, columns, transpose_b=True) >= COVERED  # (O, S, S)

    pixels = tf.reduce_sum(tf.cast(covers, tf.int32), axis=[1, 2])
    order = tf.argsort(pixels, stable=True)  # front to back
    places = tf.math.invert_permutation(order)
    none = tf.size(order)
    front = tf.math.unsorted_segment_min(
        tf.where(covers, places[:, None, None], none), to_img, num_scenes
    )  # (N, S, S)
    front = tf.minimum(front, none)
    slots = tf.range(none) - tf.searchsorted(to_img, to_img)

    def shown(values: tf.Tensor, otherwise: int) -> tf.Tensor:
        ordered = tf.gather(tf.cast(values, tf.uint8), order)
        return tf.gather(tf.concat([ordered, tf.constant([otherwise], tf.uint8)], 0), front)

    return shown(classes, BACKGROUND), shown(1 + slots, 0)


def _nearest(covered: np.ndarray) -> np.ndarray:
    """Return for each pixel the nearest covered one of its scene: int32 (N, S, S), flat index.

    In a scene without any it is the pixel itself. covered: bool (N, S, S).
    """
    places = np.arange(covered.size, dtype=np.int32).reshape(covered.shape)
    for known, nearest in zip(covered, places):
        if known.any() and not known.all():
            index = ndimage.distance_transform_edt(
                ~known, return_distances=False, return_indices=True
            )
            nearest[:] = nearest[tuple(index)]
    return places


def coco_labels(ids: Sequence[int]) -> np.ndarray:
    """Return the label of each class in maps for SPADE: uint8 (K,), its COCO-Stuff id - 1.

    ids: of the vocabulary's classes. What is no COCO-Stuff category id becomes BACKGROUND.
    """
    ids = np.array(ids, np.int64)
    return np.where((ids >= 1) & (ids <= COCO_LABELS), ids - 1, BACKGROUND).astype(np.uint8)


def _weights(low: tf.Tensor, high: tf.Tensor, mask_side: int, side: int) -> tf.Tensor:
    """Return the weight of each mask cell in each pixel along one axis: float32 (O, S, M).

    low, high: float32 (O,), the ends of the boxes. Zero for pixels outside the box.
    """
    centres = (tf.range(side, dtype=tf.float32) + 0.5) / side
    low, high = low[:, None], high[:, None]
    share = tf.math.divide_no_nan(centres - low, high - low)
    # Cells too are at their centres; beyond the outermost, those go on.
    cell = tf.clip_by_value(share * mask_side - 0.5, 0.0, mask_side - 1.0)  # (O, S)
    distance = tf.abs(cell[..., None] - tf.range(mask_side, dtype=tf.float32))
    inside = (centres >= low) & (centres < high)
    return tf.nn.relu(1.0 - distance) * tf.cast(inside, tf.float32)[..., None]
