"""What queries show: the one place that carries out a query protocol, and the changes to queries
in training that prepare for it.

An evaluation encodes every sketch once; a protocol only says which objects a query shows, whose
sketch stands in each box, and where the boxes are. Letters: N scenes, Q objects of their queries.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from core import geometry
from core.evaluation.query_protocols import DrawnScenes, QueryObjects, QueryProtocol
from dataloaders import random_draws, sources

BLANK = -1  # in place of the row of a sketch: white paper


def under(protocol: QueryProtocol, drawn: DrawnScenes, seed: int) -> QueryObjects:
    """The queries under a protocol. What is drawn for an object depends on the seed, its
    photograph and its place in the scene alone; with shuffled sketches also on which scenes there
    are. So two protocols differ in nothing but what they name."""
    scenes, objects = len(drawn.image_ids), len(drawn.obj_to_img)
    coordinates = drawn.image_ids[drawn.obj_to_img], slots(drawn.obj_to_img)
    boxes = drawn.boxes
    if protocol.boxes != "own":
        # An object that is not in the photograph keeps its own: there is no other.
        depicts = drawn.query_to_photo[:, None] >= 0
        boxes = np.where(depicts, drawn.photo_boxes[drawn.query_to_photo], boxes)
    if protocol.boxes == "jittered":
        boxes = jittered(boxes, protocol.jitter, seed, *coordinates).numpy()
    sketches = np.arange(objects, dtype=np.int32)
    if protocol.sketches == "blank":
        sketches[:] = BLANK
    elif protocol.sketches == "shuffled":
        sketches = _shuffled(drawn.obj_to_img, scenes, seed)
    rows = np.arange(objects, dtype=np.int32)
    if protocol.dropped:
        rows = np.flatnonzero(
            kept(drawn.obj_to_img, protocol.dropped, seed, *coordinates).numpy()
        ).astype(np.int32)
    return QueryObjects(rows, sketches[rows], boxes[rows])


def slots(obj_to_img: np.ndarray) -> np.ndarray:
    """The place of each object in its scene: int32 (Q,). obj_to_img: int (Q,), ascending."""
    first = np.searchsorted(obj_to_img, obj_to_img)
    return (np.arange(len(obj_to_img)) - first).astype(np.int32)


def jittered(
    boxes: tf.Tensor, amount: float, seed: int, positions: tf.Tensor, slots: tf.Tensor
) -> tf.Tensor:
    """Boxes float32 (Q, 4) moved and scaled as `core.geometry.jitter` says, each by its own draw.
    positions int64, slots int32 (Q,): what names an object."""
    words = random_draws.bits(seed, sources.JITTER, positions[:, None], slots[:, None], tf.range(4))
    shares = 2.0 * random_draws.unit(words) - 1.0
    return geometry.jitter(boxes, shares[:, :2], shares[:, 2:], amount)


def kept(
    obj_to_img: tf.Tensor, dropped: float, seed: int, positions: tf.Tensor, slots: tf.Tensor
) -> tf.Tensor:
    """Which objects a query still shows when each is left out with the probability `dropped`:
    bool (Q,). Of every scene the object with the largest draw stays."""
    luck = random_draws.unit(random_draws.bits(seed, sources.DROPPED, positions, slots))
    best = tf.gather(tf.math.segment_max(luck, obj_to_img), obj_to_img)
    return (luck >= dropped) | (luck == best)


def direction_words(
    image_ids: np.ndarray, obj_to_img: np.ndarray, seed: int, stream: int
) -> tf.Tensor:
    """Words for random directions of the pairs of a side: uint64 (O,)."""
    return random_draws.bits(seed, stream, image_ids[obj_to_img], slots(obj_to_img))


def _shuffled(obj_to_img: np.ndarray, scenes: int, seed: int) -> np.ndarray:
    """Row of the sketch each object shows when every scene shows those of another: int32 (Q,).

    All scenes stand in one random ring, and each takes from its neighbour: object i the sketch of
    the neighbour's object i, from the first again where the neighbour has fewer."""
    ring = np.random.default_rng(seed).permutation(scenes)
    donor = np.empty(scenes, np.int64)
    donor[ring] = np.roll(ring, 1)
    start = np.searchsorted(obj_to_img, np.arange(scenes))
    count = np.bincount(obj_to_img, minlength=scenes)
    other = donor[obj_to_img]
    return (start[other] + slots(obj_to_img) % count[other]).astype(np.int32)
