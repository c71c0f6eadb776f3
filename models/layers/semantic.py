"""Semantic maps, the input of SPADE: the class of every pixel and the edges of instances.

A layout is a label map and an instance map, both of the whole picture:

    label     uint8 (B, H, W): COCO-Stuff id - 1 (0 person .. 181), 255 = unknown
    instance  integers (B, H, W): equal in the pixels of one thing or one piece of stuff
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from core.errors import UserError

UNKNOWN_LABEL = 255
UNKNOWN = 182  # its channel, after those of COCO-Stuff's ids 1..182
CLASSES = UNKNOWN + 1
CHANNELS = CLASSES + 1  # the last one: edges
OUTSIDE = 2 * CLASSES  # the code of what lies beyond the picture
MOST = 2**21  # three numbers below it make one of 63 bits


class SemanticMaps(NamedTuple):
    """A layout as a network reads it. classes: int32 (B, H, W), 0..182. edges: bool (B, H, W)."""

    classes: tf.Tensor
    edges: tf.Tensor

    def every(self, step: int) -> SemanticMaps:
        """Return every step-th pixel from the first: as PyTorch's 'nearest' resizes."""
        return SemanticMaps(*(x[:, ::step, ::step] for x in self))

    def codes(self) -> tf.Tensor:
        """Return class and edge as one number: int32 (B, H, W), below OUTSIDE."""
        return self.classes + CLASSES * tf.cast(self.edges, tf.int32)

    def one_hot(self) -> tf.Tensor:
        """Return the paper's one-hot map: float32 (B, H, W, CHANNELS)."""
        edges = tf.cast(self.edges, tf.float32)[..., None]
        return tf.concat([tf.one_hot(self.classes, CLASSES), edges], axis=-1)


def check_layout(label: np.ndarray, instance: np.ndarray, divisor: int) -> None:
    """Raise UserError unless both are integer maps (B, H, W) of one shape, H and W multiples of
    `divisor`, and labels are COCO-Stuff's or unknown."""
    for name, values in (("label", label), ("instance", instance)):
        if values.dtype.kind not in "iu" or values.ndim != 3:
            raise UserError(
                f"the {name} map is {values.dtype} {values.shape}, expected integers (B, H, W)"
            )
    if label.shape != instance.shape:
        raise UserError(
            f"the label map is {label.shape}, the instance map {instance.shape}: they must be equal"
        )
    if 0 in label.shape or label.shape[1] % divisor or label.shape[2] % divisor:
        raise UserError(
            f"the label map is {label.shape}: height and width must be multiples of {divisor}"
        )
    wrong = label[(label != UNKNOWN_LABEL) & ((label < 0) | (label >= UNKNOWN))]
    if wrong.size:
        raise UserError(
            f"the label map holds {wrong[0]}: labels are COCO-Stuff ids less one, "
            f"0..{UNKNOWN - 1}, or {UNKNOWN_LABEL} for unknown"
        )


def semantic_maps(label: tf.Tensor, instance: tf.Tensor) -> SemanticMaps:
    """Return the semantic maps of a layout that check_layout accepts."""
    classes = tf.cast(label, tf.int32)
    classes = tf.where(classes == UNKNOWN_LABEL, UNKNOWN, classes)
    return SemanticMaps(classes, instance_edges(instance))


def instance_edges(instance: tf.Tensor) -> tf.Tensor:
    """Return which pixels differ from one of their 4 neighbours in the picture: bool (B, H, W)."""
    rows = instance[:, 1:] != instance[:, :-1]
    columns = instance[:, :, 1:] != instance[:, :, :-1]
    above, below = (tf.pad(rows, [[0, 0], pad, [0, 0]]) for pad in ([1, 0], [0, 1]))
    left, right = (tf.pad(columns, [[0, 0], [0, 0], pad]) for pad in ([1, 0], [0, 1]))
    return above | below | left | right


class Windows(NamedTuple):
    """The distinct 3x3 windows of a map, each read row by row.

    windows: int32 (U, 9), the map's numbers; index: int32 (B, H, W), the row of the window round
    each pixel.
    """

    windows: tf.Tensor
    index: tf.Tensor


class Surroundings(NamedTuple):
    """The distinct surroundings of a semantic map's pixels, as two 3x3 convolutions see them.

    near: int32 (U, 9), codes of the distinct 3x3 windows; around: int32 (V, 9), the distinct
    windows of such windows as rows of `near`, U where the centre lies outside the picture; index:
    int32 (B, H, W), rows of `around`.
    """

    near: tf.Tensor
    around: tf.Tensor
    index: tf.Tensor


def surroundings(maps: SemanticMaps) -> Surroundings:
    """Return the distinct surroundings of semantic maps.

    A layout is mostly flat: 21 of COCO-Stuff's maps at 256x256 have on average 9 % as many distinct
    surroundings (5x5) as pixels (0.3 to 20 %), and 3 % as many windows of 3x3."""
    near = distinct_windows(maps.codes(), OUTSIDE)
    around = distinct_windows(near.index, tf.shape(near.windows)[0])
    return Surroundings(near.windows, around.windows, around.index)


def distinct_windows(numbers: tf.Tensor, outside: int | tf.Tensor) -> Windows:
    """Return the distinct 3x3 windows of a map. numbers: int32 (B, H, W) in [0, MOST). outside: the
    number beyond the border."""
    triples, index = _distinct_triples(numbers, outside, axis=2)
    # A row of three beyond the border is one more triple.
    beyond = tf.shape(triples)[0]
    triples = tf.concat([triples, tf.fill([1, 3], outside)], axis=0)
    columns, index = _distinct_triples(index, beyond, axis=1)
    return Windows(tf.reshape(tf.gather(triples, columns), [-1, 9]), index)


def _distinct_triples(numbers: tf.Tensor, outside: int | tf.Tensor, axis: int) -> Windows:
    """Return the distinct (before, at, after) of all pixels along an axis, int32 (U, 3), and each
    pixel's row of them."""
    pad = [[0, 0], [0, 0], [0, 0]]
    pad[axis] = [1, 1]
    padded = tf.cast(tf.pad(numbers, pad, constant_values=outside), tf.int64)
    length = tf.shape(numbers)[axis]
    before, at, after = (tf.gather(padded, tf.range(i, i + length), axis=axis) for i in range(3))
    keys, index = tf.unique(tf.reshape((before * MOST + at) * MOST + after, [-1]))
    triples = tf.stack([keys // MOST**2, keys // MOST % MOST, keys % MOST], axis=1)
    return Windows(tf.cast(triples, tf.int32), tf.reshape(index, tf.shape(numbers)))
