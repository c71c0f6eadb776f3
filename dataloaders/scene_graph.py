"""The graph of a scene from its boxes alone. Pure functions.

Paper: section 3.2, after sg2im (Johnson et al. 2018). Letters: O objects of all scenes together,
T triples. Boxes are float32 (O, 4), [x0, y0, x1, y1] in [0, 1], y downwards. Objects of a scene
stand together: obj_to_img is ascending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

    from core.dataset import SceneDataset

PREDICATES = (
    "__in_image__",
    "left of",
    "right of",
    "above",
    "below",
    "inside",
    "surrounding",
)
IN_IMAGE, LEFT_OF, RIGHT_OF, ABOVE, BELOW, INSIDE, SURROUNDING = range(len(PREDICATES))


def relations(
    dataset: SceneDataset,
    boxes: np.ndarray,
    obj_to_img: np.ndarray,
    image_ids: np.ndarray,
    directions: str,
    side: str,
) -> tf.Tensor:
    """Return the triples of some scenes, int32 (T, 3); the method `relations` of loaders, which
    says what the arguments are."""
    import tensorflow as tf

    from dataloaders.random_draws import Stream, bits

    words = None
    if directions == "random":
        stream = Stream.PHOTO_DIRECTION if side == "photo" else Stream.QUERY_DIRECTION
        words = bits(dataset.seed, stream, image_ids[obj_to_img], places_in_scene(obj_to_img))
    return triples(tf.constant(boxes), tf.constant(obj_to_img), words)


def places_in_scene(obj_to_img: np.ndarray) -> np.ndarray:
    """Return the place of each object in its scene, from 0: int32 (O,). obj_to_img: int (O,),
    ascending."""
    first = np.searchsorted(obj_to_img, obj_to_img)
    return (np.arange(len(obj_to_img)) - first).astype(np.int32)


def triples(
    boxes: tf.Tensor, obj_to_img: tf.Tensor, flip_bits: tf.Tensor | None = None
) -> tf.Tensor:
    """Return the triples of all scenes of a batch: int32 (T, 3), subject, predicate, object.

    One for every pair of objects i < j of a scene, ordered by scene, then (i, j); a scene of one
    object has the triple (0, IN_IMAGE, 0) of that object.

    boxes: float32 (O, 4). obj_to_img: int32 (O,), ascending. flip_bits: uint64 (O,), one random
    word an object (dataloaders.random_draws), from which a coin is drawn for every pair. Without it
    directions are canonical, a function of the boxes only: the box that comes first when ordered
    by x0, y0, x1, y1 is the subject (of two equal boxes the one given first).
    """
    import tensorflow as tf  # here, so that preparation workers do not pay for it

    from dataloaders import random_draws

    count = tf.shape(obj_to_img)[0]
    place = tf.range(count)
    end = tf.searchsorted(obj_to_img, obj_to_img, side="right")
    start = tf.searchsorted(obj_to_img, obj_to_img, side="left")
    # Object i meets the later objects of its scene; one that is alone meets itself.
    begin = tf.where(end - start == 1, place, place + 1)
    first = tf.repeat(place, end - begin)
    second = tf.ragged.range(begin, end).flat_values
    a, b = tf.gather(boxes, first), tf.gather(boxes, second)
    if flip_bits is None:
        flips = _comes_before(b, a)
    else:
        ours, theirs = tf.gather(flip_bits, first), tf.gather(flip_bits, second)
        flips = random_draws.coin(
            random_draws.mix(tf.bitwise.bitwise_xor(ours, random_draws.mix(theirs)))
        )
    subject, target = tf.where(flips, second, first), tf.where(flips, first, second)
    s, o = tf.where(flips[:, None], b, a), tf.where(flips[:, None], a, b)
    relation = tf.where(first == second, IN_IMAGE, predicates(s, o))
    return tf.stack([subject, relation, target], 1)


def predicates(subjects: tf.Tensor, objects: tf.Tensor) -> tf.Tensor:
    """Return what each subject box (T, 4) is to its object box (T, 4): int32 (T,), 1 to 6.

    Containment is strict on all four sides. Otherwise the angle theta of subject centre minus
    object centre decides: |theta| >= 3pi/4 left of, [-3pi/4, -pi/4) above, [-pi/4, pi/4) right
    of, [pi/4, 3pi/4) below; equal centres are right of.
    """
    import tensorflow as tf

    s, o = subjects, objects
    contains = tf.reduce_all((s[:, :2] < o[:, :2]) & (s[:, 2:] > o[:, 2:]), 1)
    contained = tf.reduce_all((o[:, :2] < s[:, :2]) & (o[:, 2:] > s[:, 2:]), 1)
    # The borders of the angles are diagonals: comparing dx with dy is exact where atan2 rounds.
    dx, dy = tf.unstack((s[:, :2] + s[:, 2:]) - (o[:, :2] + o[:, 2:]), axis=1)
    relation = tf.fill(tf.shape(dx), RIGHT_OF)
    relation = tf.where((dy > 0) & (-dy < dx) & (dx <= dy), BELOW, relation)
    relation = tf.where((dy < 0) & (tf.abs(dx) < -dy), ABOVE, relation)
    relation = tf.where((dx < 0) & (tf.abs(dy) <= -dx), LEFT_OF, relation)
    relation = tf.where(contained, INSIDE, relation)
    return tf.where(contains, SURROUNDING, relation)


def _comes_before(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return where box a (T, 4) stands strictly before box b (T, 4) in the order of x0, y0, x1, y1:
    bool (T,)."""
    import tensorflow as tf

    before = tf.zeros(tf.shape(a)[:1], tf.bool)
    for k in reversed(range(4)):
        before = (a[:, k] < b[:, k]) | ((a[:, k] == b[:, k]) & before)
    return before
