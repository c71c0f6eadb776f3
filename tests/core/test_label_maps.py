"""Layouts out of masks and boxes."""

import math

import numpy as np

from core.label_maps import BACKGROUND, coco_labels, label_maps


def things(masks, boxes, classes, to_img):
    """Objects or stuff, as label_maps takes them."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return np.asarray(masks), boxes, np.asarray(classes), np.asarray(to_img, np.int32)


def layouts(masks, boxes, classes, obj_to_img, scenes, side, stuff=None):
    objects = things(masks, boxes, classes, obj_to_img)
    maps = label_maps(*objects, scenes, side, stuff and things(*stuff))
    return tuple(each.numpy() for each in maps)


NOTHING = (np.ones((0, 4, 4)), [], np.zeros(0, int), [])


def test_drawn_by_hand():
    """A sea (class 4) in the lower three of 5 x 5 pixels, in front of it a boat (class 2). Its
    columns 1 to 3 are the columns of its mask of 3 x 3. Its box begins at row 1 and is 6 rows high,
    2 for each row of the mask: pixel rows 1 to 4 have their centres at -1/4 (so 0), 1/4, 3/4 and
    5/4 of the mask's. Solid, the mask's rows are 010, 111, 000, so that the pixels are
    0 1 0,  1/4 1 1/4,  3/4 1 3/4,  3/4 3/4 3/4."""
    masks = np.ones((2, 3, 3))
    masks[0] = [[0.0, 0.7, 0.59], [1.0, 1.0, 0.6], [0.0, 0.3, 0.0]]
    boxes = [[0.2, 0.2, 0.8, 1.4], [0.0, 0.4, 1.0, 1.0]]
    labels, instances = layouts(masks, boxes, [2, 4], [0, 0], 1, 5)
    x, s, b = BACKGROUND, 4, 2
    assert labels[0].tolist() == [
        [x, x, x, x, x],
        [x, x, b, x, x],
        [s, s, b, s, s],
        [s, b, b, b, s],
        [s, b, b, b, s],
    ]
    assert instances[0].tolist() == [
        [{x: 0, s: 2, b: 1}[label] for label in row] for row in labels[0].tolist()
    ]
    assert labels.dtype == instances.dtype == np.uint8


def test_drawn_by_hand_over_stuff():
    """A hill (class 30) of 3 x 2 pixels at the lower left and sky (class 20) in the upper row but
    its last pixel, and a ball (class 1) over two pixels of the sky. The last column and all between
    are holes. From row 1, columns 0 to 3, the sky is 1 away (below the ball it goes on), the hill
    at least 2; from row 2, columns 0 to 2, the hill 1. From (row 2, column 3) the hill is
    sqrt(1 + 1), the sky 2; from (1, 4) the sky sqrt(2), the hill sqrt(8); from (2, 4) the hill
    sqrt(1 + 4), the sky sqrt(4 + 1): either."""
    full = np.ones((1, 4, 4))
    stuff = (
        np.concatenate([full, full]),
        [[0, 0, 0.8, 0.2], [0, 0.6, 0.6, 1.0]],
        [20, 30],
        [0, 0],
    )
    labels, instances = layouts(full, [[0.2, 0, 0.6, 0.2]], [1], [0], 1, 5, stuff)
    b, s, h = 1, 20, 30
    either = labels[0, 2, 4]
    assert either in (s, h)
    assert labels[0].tolist() == [
        [s, b, b, s, s],
        [s, s, s, s, s],
        [h, h, h, h, either],
        [h, h, h, h, h],
        [h, h, h, h, h],
    ]
    # The ball is number 1, the stuff goes on from there.
    np.testing.assert_array_equal(
        instances, np.select([labels == b, labels == s, labels == h], [1, 2, 3])
    )
    assert labels.dtype == instances.dtype == np.uint8


def slow(masks, boxes, classes, obj_to_img, scenes, side):
    """A pixel at a time, the larger objects first."""
    covers = np.zeros((len(masks), side, side), bool)
    for o, (mask, box) in enumerate(zip(masks >= 0.6, boxes.astype(float))):
        size = len(mask)
        for i in range(side):
            for j in range(side):
                px, py = (j + 0.5) / side, (i + 0.5) / side
                if not (box[0] <= px < box[2] and box[1] <= py < box[3]):
                    continue
                u = (px - box[0]) / (box[2] - box[0]) * size - 0.5
                v = (py - box[1]) / (box[3] - box[1]) * size - 0.5
                u, v = (min(max(place, 0), size - 1) for place in (u, v))
                left, top = math.floor(u), math.floor(v)
                total = 0.0
                for row, down in ((top, 1 - (v - top)), (top + 1, v - top)):
                    for column, across in ((left, 1 - (u - left)), (left + 1, u - left)):
                        if row < size and column < size:
                            total += down * across * mask[row, column]
                covers[o, i, j] = total >= 0.5
    labels = np.full((scenes, side, side), BACKGROUND, np.uint8)
    instances = np.zeros((scenes, side, side), np.uint8)
    for o in sorted(range(len(masks)), key=lambda o: (-covers[o].sum(), -o)):
        n = obj_to_img[o]
        labels[n][covers[o]] = classes[o]
        instances[n][covers[o]] = o - list(obj_to_img).index(n) + 1
    return labels, instances


def test_equals_a_slow_one():
    """Scenes of 2, no and 3 objects with 3, 2 and no pieces of stuff, some over the border of the
    image. Of equally near pixels of stuff the layout may take any."""
    rng, side = np.random.default_rng(1), 17

    def some(to_img, first_class):
        masks = rng.random((len(to_img), 5, 5)) ** 0.5
        low = rng.uniform(-0.1, 0.7, (len(to_img), 2))
        size = rng.uniform(0.02, 0.5, (len(to_img), 2))
        boxes = np.concatenate([low, low + size], 1).astype(np.float32)
        return masks, boxes, first_class + np.arange(len(to_img)), np.array(to_img)

    objects, stuff = some([0, 0, 2, 2, 2], 0), some([0, 0, 0, 1, 1], 100)
    labels, instances = layouts(*objects, 3, side, stuff)
    over, under = slow(*objects, 3, side), slow(*stuff, 3, side)
    holes = 0
    for n, i, j in np.ndindex(labels.shape):
        found = (labels[n, i, j], instances[n, i, j])
        before = list(objects[3]).count(n)  # objects, which the numbers of stuff come after
        known = np.argwhere(under[1][n] > 0)
        if over[1][n, i, j]:
            assert found == (over[0][n, i, j], over[1][n, i, j])
        elif len(known) == 0:
            assert found == (BACKGROUND, 0)
        else:
            distances = ((known - (i, j)) ** 2).sum(axis=1)
            nearest = known[distances == distances.min()]
            holes += distances.min() > 0
            assert found in {
                (under[0][n][tuple(at)], before + under[1][n][tuple(at)]) for at in nearest
            }
    assert holes > 100


def test_stuff_of_one_class_in_two_pieces_is_told_apart_and_unknown_stuff_is_none():
    """Two pieces of class 7 that touch, and below them one of no known class."""
    full = np.ones((3, 4, 4))
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 1, 1]]
    labels, instances = layouts(*NOTHING, 1, 4, (full, boxes, [7, 7, BACKGROUND], [0, 0, 0]))
    assert labels[0].tolist() == [[7] * 4] * 4
    assert instances[0].tolist() == [[1, 1, 2, 2]] * 4
    unknown = layouts(*NOTHING, 1, 4, (full[:1], boxes[:1], [BACKGROUND], [0]))
    assert (unknown[0] == BACKGROUND).all() and not unknown[1].any()


def test_scenes_without_stuff_and_without_anything():
    ball = (np.ones((1, 4, 4)), [[0.25, 0.25, 0.75, 0.75]], [3], [0])
    with_none = layouts(*ball, 2, 4, NOTHING)
    for found, expected in zip(with_none, layouts(*ball, 2, 4)):
        np.testing.assert_array_equal(found, expected)
    labels, instances = with_none
    assert (labels[1] == BACKGROUND).all() and not instances[1].any()
    assert labels[0, 0, 0] == BACKGROUND and instances[0, 0, 0] == 0


def test_many_in_a_scene():
    """200 objects and 55 pieces of stuff, each with a column of its own: numbers up to 255."""

    def columns(first, count):
        left = (first + np.arange(count)) / 255
        boxes = np.stack([left, 0 * left, left + 1 / 255, 0 * left + 1], axis=1)
        return np.ones((count, 4, 4)), boxes, np.full(count, 9), np.zeros(count)

    labels, instances = layouts(*columns(0, 200), 1, 255, columns(200, 55))
    assert (labels == 9).all()
    np.testing.assert_array_equal(instances[0], np.tile(np.arange(1, 256), (255, 1)))


def test_none_hides_a_smaller_one_and_the_first_of_equals_is_in_front():
    full = np.ones((3, 4, 4))
    boxes = [[0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.75]]
    labels, instances = layouts(full, boxes, [7, 8, 9], [0, 0, 0], 1, 8)
    expected = np.full((8, 8), 1)
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(instances[0], expected)
    assert set(np.unique(labels)) == {7, 8}


def test_labels_are_ids_less_one():
    ids = (1, 90, 92, 182, 183, 0, 500)
    assert coco_labels(ids).tolist() == [0, 89, 91, 181, 255, 255, 255]
    assert coco_labels(()).shape == (0,)
