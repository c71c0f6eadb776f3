"""Queries: what they show under a query protocol, and how they are changed in training.

An evaluation encodes every sketch once; a protocol only says which objects a query shows, whose
sketch stands in each box, and where the boxes are. Letters: N scenes, Q objects of their queries.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from core import geometry
from core.dataset import SceneDataset
from core.errors import UsageError
from core.evaluation.query_protocols import (
    DrawnScenes,
    QueryObjects,
    QueryProtocol,
    standard_protocols,
)
from dataloaders import random_draws
from dataloaders.random_draws import Stream
from dataloaders.scene_graph import places_in_scene

BLANK = -1  # in place of the row of a sketch: white paper


def query_objects(
    dataset: SceneDataset, protocol: QueryProtocol, drawn: DrawnScenes
) -> QueryObjects:
    """Return the objects that queries show under a protocol; the method `queries` of loaders."""
    allowed = {each.boxes for each in standard_protocols(dataset.own_boxes, dataset.has_objects)}
    if protocol.boxes not in allowed:
        raise UsageError(
            f"queries of {dataset.name} cannot have {protocol.boxes} boxes: boxes="
            f"{' or '.join(sorted(allowed))}"
        )
    return apply_protocol(protocol, drawn, dataset.seed)


def apply_protocol(protocol: QueryProtocol, drawn: DrawnScenes, seed: int) -> QueryObjects:
    """Return the objects that queries show under a protocol.

    What is drawn for an object depends on the seed, its photograph and its place in the scene
    alone; with shuffled sketches also on which scenes there are. So two protocols differ in nothing
    but what they name.
    """
    scenes, objects = len(drawn.image_ids), len(drawn.obj_to_img)
    coordinates = drawn.image_ids[drawn.obj_to_img], places_in_scene(drawn.obj_to_img)
    boxes = drawn.boxes
    if protocol.boxes in ("shared", "jittered"):
        # An object that is not in the photograph keeps its own: there is no other.
        depicts = drawn.query_to_photo[:, None] >= 0
        boxes = np.where(depicts, drawn.photo_boxes[drawn.query_to_photo], boxes)
    if protocol.boxes == "jittered":
        boxes = jitter_boxes(boxes, protocol.jitter, seed, *coordinates).numpy()
    rows = sketches = np.arange(objects, dtype=np.int32)
    if protocol.sketches == "blank":
        sketches = np.full(objects, BLANK, np.int32)
    elif protocol.sketches == "shuffled":
        sketches = _shuffled(drawn.obj_to_img, scenes, seed)
    if protocol.dropped:
        shown = choose_shown(drawn.obj_to_img, protocol.dropped, seed, *coordinates)
        rows = rows[shown.numpy()]
    return QueryObjects(rows, sketches[rows], boxes[rows])


def jitter_boxes(
    boxes: tf.Tensor, amount: float, seed: int, positions: tf.Tensor, places: tf.Tensor
) -> tf.Tensor:
    """Move and scale boxes as `core.geometry.jitter` says, each by its own draw: float32 (Q, 4).
    positions int64, places int32 (Q,): what names an object."""
    words = random_draws.bits(seed, Stream.JITTER, positions[:, None], places[:, None], tf.range(4))
    shares = 2.0 * random_draws.unit(words) - 1.0
    return geometry.jitter(boxes, shares[:, :2], shares[:, 2:], amount)


def choose_shown(
    obj_to_img: tf.Tensor, dropped: float, seed: int, positions: tf.Tensor, places: tf.Tensor
) -> tf.Tensor:
    """Draw which objects a query still shows when each is left out with the probability `dropped`:
    bool (Q,). Of every scene the object with the largest draw stays."""
    luck = random_draws.unit(random_draws.bits(seed, Stream.DROPPED, positions, places))
    best = tf.gather(tf.math.segment_max(luck, obj_to_img), obj_to_img)
    return (luck >= dropped) | (luck == best)


def _shuffled(obj_to_img: np.ndarray, scenes: int, seed: int) -> np.ndarray:
    """Return the row of the sketch each object shows when every scene shows those of another:
    int32 (Q,).

    All scenes stand in one random ring, and each takes from its neighbour: object i the sketch of
    the neighbour's object i, from the first again where the neighbour has fewer."""
    ring = np.random.default_rng(seed).permutation(scenes)
    donor = np.empty(scenes, np.int64)
    donor[ring] = np.roll(ring, 1)
    start = np.searchsorted(obj_to_img, np.arange(scenes))
    count = np.bincount(obj_to_img, minlength=scenes)
    other = donor[obj_to_img]
    return (start[other] + places_in_scene(obj_to_img) % count[other]).astype(np.int32)
