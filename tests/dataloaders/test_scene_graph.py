"""Scene graphs against a slow reference that follows the definition with angles."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dataloaders import random_draws, scene_graph

LEFT, RIGHT, ABOVE, BELOW, INSIDE, SURROUNDING = range(1, 7)


def slow_predicate(s, o):
    if s[0] < o[0] and s[1] < o[1] and s[2] > o[2] and s[3] > o[3]:
        return SURROUNDING
    if o[0] < s[0] and o[1] < s[1] and o[2] > s[2] and o[3] > s[3]:
        return INSIDE
    dx = (s[0] + s[2]) / 2 - (o[0] + o[2]) / 2
    dy = (s[1] + s[3]) / 2 - (o[1] + o[3]) / 2
    theta = math.atan2(dy, dx)
    if abs(theta) >= 3 * math.pi / 4:
        return LEFT
    if -3 * math.pi / 4 <= theta < -math.pi / 4:
        return ABOVE
    if -math.pi / 4 <= theta < math.pi / 4:
        return RIGHT
    return BELOW


def slow_canonical(boxes):
    if len(boxes) == 1:
        return [(0, 0, 0)]
    rows = []
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            s, o = (i, j) if tuple(boxes[i]) <= tuple(boxes[j]) else (j, i)
            rows.append((s, slow_predicate(boxes[s], boxes[o]), o))
    return rows


def grid_boxes(rng, count):
    """Boxes on a grid of sixteenths: exact in float32, often equal, aligned or on a diagonal."""
    low = rng.integers(0, 12, (count, 2))
    high = low + rng.integers(1, 5, (count, 2))
    return (np.concatenate([low, high], 1) / 16).astype(np.float32)


def around(dx, dy):
    """A box of side 1/8 whose centre is (dx, dy) sixteenths from (1/2, 1/2)."""
    x, y = 0.5 + dx / 16, 0.5 + dy / 16
    return [x - 1 / 16, y - 1 / 16, x + 1 / 16, y + 1 / 16]


def predicate(subject, target):
    pair = (tf.constant([box], tf.float32) for box in (subject, target))
    return scene_graph.predicates(*pair).numpy().item()


@pytest.mark.parametrize(
    ("dx", "dy", "expected"),
    [
        (-4, 0, LEFT), (4, 0, RIGHT), (0, -4, ABOVE), (0, 4, BELOW),
        (-4, -4, LEFT),  # theta = -3pi/4
        (-4, 4, LEFT),  # theta = 3pi/4
        (4, -4, RIGHT),  # theta = -pi/4
        (4, 4, BELOW),  # theta = pi/4
        (0, 0, RIGHT),  # equal centres
        (-3, -4, ABOVE), (-4, -3, LEFT), (3, 4, BELOW), (4, 3, RIGHT),
    ],
)  # fmt: skip
def test_angles_and_their_borders(dx, dy, expected):
    assert predicate(around(dx, dy), around(0, 0)) == expected


def test_containment_is_strict():
    outer, inner = [0.25, 0.25, 0.75, 0.75], [0.375, 0.375, 0.625, 0.625]
    touching = [0.25, 0.375, 0.5, 0.5]
    pairs = [(outer, inner, SURROUNDING), (inner, outer, INSIDE), (outer, outer, RIGHT)]
    pairs.append((touching, outer, LEFT))  # centre (0.375, 0.4375): dx -0.125, dy -0.0625
    for s, o, expected in pairs:
        assert predicate(s, o) == expected


def batch_of(rng, counts):
    boxes = np.concatenate([grid_boxes(rng, c) for c in counts])
    return boxes, np.repeat(np.arange(len(counts)), counts).astype(np.int32)


def test_batch_equals_scene_after_scene():
    rng = np.random.default_rng(1)
    compiled = tf.function(
        scene_graph.triples,
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)],
    )
    for _ in range(20):
        counts = rng.integers(0, 7, 6)  # a scene may have no object on a side
        boxes, images = batch_of(rng, counts)
        expected, offset = [], 0
        for count in counts:
            for s, p, o in slow_canonical(boxes[offset : offset + count]) if count else []:
                expected.append([s + offset, p, o + offset])
            offset += count
        assert compiled(boxes, images).numpy().tolist() == expected


def test_drawn_directions_are_even_and_independent():
    rng = np.random.default_rng(2)
    boxes, images = batch_of(rng, [8] * 40)
    directions = []
    for t in range(40):
        words = random_draws.bits(7, t, tf.range(len(boxes)))
        rows = scene_graph.triples(boxes, images, words).numpy()
        for s, p, o in rows[:30]:
            assert p == slow_predicate(boxes[s], boxes[o])
        directions.append(rows[:, 0] < rows[:, 2])
    directions = np.array(directions, float)  # (steps, pairs)
    assert directions.shape == (40, 40 * 28)
    assert abs(directions.mean() - 0.5) < 0.01
    # Neighbouring pairs share an object, neighbouring steps a pair: neither tells anything.
    signs = 2 * directions - 1
    assert abs((signs[:, 1:] * signs[:, :-1]).mean()) < 0.03
    assert abs((signs[1:] * signs[:-1]).mean()) < 0.03


def test_canonical_direction_ignores_the_order_of_objects():
    rng = np.random.default_rng(3)
    boxes = np.unique(grid_boxes(rng, 8), axis=0)
    order = rng.permutation(len(boxes))

    def as_set(boxes):
        rows = scene_graph.triples(boxes, tf.zeros(len(boxes), tf.int32)).numpy().tolist()
        return {(tuple(boxes[s]), p, tuple(boxes[o])) for s, p, o in rows}

    assert as_set(boxes) == as_set(boxes[order])
