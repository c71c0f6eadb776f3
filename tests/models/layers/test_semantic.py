"""Semantic maps against slow references and hand-drawn maps."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UserError
from models.layers import semantic
from models.layers.semantic import (
    CHANNELS,
    OUTSIDE,
    SemanticMaps,
    check_layout,
    distinct_windows,
    instance_edges,
    semantic_maps,
    surroundings,
)


def _maps(*rows: str):
    return np.array([[int(letter) for letter in row] for row in rows], np.uint8)[None]


def _slow_input(label, instance):
    """One picture, a pixel at a time, from the rules: float32 (H, W, 184)."""
    height, width = label.shape
    out = np.zeros((height, width, 184), np.float32)
    labels, instances = label.tolist(), instance.tolist()
    for y in range(height):
        for x in range(width):
            out[y, x, 182 if labels[y][x] == 255 else labels[y][x]] = 1
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= v < height and 0 <= u < width
                if inside and instances[v][u] != instances[y][x]:
                    out[y, x, 183] = 1
    return out


EDGES = [
    # One pixel of another instance: itself and its four neighbours; not the diagonal ones.
    (("00000", "00000", "00100", "00000", "00000"), ("00000", "00100", "01110", "00100", "00000")),
    # A border between columns 1 and 2: one pixel wide on both sides.
    (("00111", "00111", "00111", "00111", "00111"), ("01100", "01100", "01100", "01100", "01100")),
    # A corner: neighbours inside the picture only.
    (("90000", "00000", "00000", "00000", "00000"), ("11000", "10000", "00000", "00000", "00000")),
    # Nothing differs, not even at the picture's border.
    (("33333", "33333", "33333", "33333", "33333"), ("00000", "00000", "00000", "00000", "00000")),
    # The right column and the bottom row are of instance 7: (4, 4) has only equal neighbours.
    (("22227", "22227", "22227", "22227", "77777"), ("00011", "00011", "00011", "11111", "11110")),
]  # fmt: skip


@pytest.mark.parametrize("instance, edges", EDGES)
def test_edges_by_hand(instance, edges):
    found = instance_edges(tf.constant(_maps(*instance))).numpy()
    np.testing.assert_array_equal(found, _maps(*edges).astype(bool))


def test_channels_by_hand():
    # A person (id 1, label 0) on grass (id 124, label 123), id 182 (label 181), unknown (255).
    label = np.full((1, 5, 5), 123, np.uint8)
    label[0, 0, 0], label[0, 2, 2], label[0, 4, 4] = 0, 181, 255
    found = semantic_maps(tf.constant(label), tf.zeros((1, 5, 5), tf.int32)).one_hot().numpy()
    assert found.shape == (1, 5, 5, 184)
    assert found.dtype == np.float32
    expected = np.full((5, 5), 123)
    expected[0, 0], expected[2, 2], expected[4, 4] = 0, 181, 182
    np.testing.assert_array_equal(found[0].argmax(axis=-1), expected)
    np.testing.assert_array_equal(found.sum(axis=-1), np.ones((1, 5, 5)))  # no edges


def test_real_maps_equal_a_pixel_at_a_time(real_data):
    folder = real_data / "spade_samples" / "coco_stuff"
    files = sorted(folder.glob("*_label/*.png"))
    assert len(files) == 21
    for path in files[::4]:
        instances = path.parent.with_name(path.parent.name.replace("label", "inst")) / path.name
        label, instance = (
            np.asarray(Image.open(each).resize((256, 256), Image.NEAREST))
            for each in (path, instances)
        )
        check_layout(label[None], instance[None], 32)
        found = semantic_maps(tf.constant(label[None]), tf.constant(instance[None])).one_hot()
        np.testing.assert_array_equal(found[0], _slow_input(label, instance), path.name)


def _slow_windows(numbers, outside):
    """int (B, H, W, 9)."""
    padded = np.pad(numbers, [(0, 0), (1, 1), (1, 1)], constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.reshape(*numbers.shape, 9)


@pytest.mark.parametrize("values", [2, 368, 2**21 - 1])
def test_windows_are_distinct_and_those_of_the_map(values):
    numbers = np.random.default_rng(0).integers(0, values, (2, 7, 5)).astype(np.int32)
    numbers[1, :, :3] = 1
    windows, index = (x.numpy() for x in distinct_windows(tf.constant(numbers), values))
    np.testing.assert_array_equal(windows[index], _slow_windows(numbers, values))
    assert len(np.unique(windows, axis=0)) == len(windows)


def test_a_flat_map_has_few_surroundings():
    # 3x3 windows touch the border on one of three sides in each direction: 3 * 3. Those of 5x5 can
    # reach over it by one or by two pixels on either side: 5 * 5.
    maps = SemanticMaps(tf.fill((1, 9, 9), 7), tf.zeros((1, 9, 9), tf.bool))
    near, around, index = surroundings(maps)
    assert near.shape == (9, 9)
    assert around.shape == (25, 9)
    # The middle sees itself everywhere; a corner's first centre lies outside.
    middle = near.numpy()[around.numpy()[index[0, 4, 4]]]
    np.testing.assert_array_equal(middle, np.full((9, 9), 7))
    assert around.numpy()[index[0, 0, 0]][0] == 9
    corner = near.numpy()[around.numpy()[index[0, 0, 0]][4]]
    np.testing.assert_array_equal(corner, [*[OUTSIDE] * 4, 7, 7, OUTSIDE, 7, 7])


def test_codes_tell_class_and_edge_apart():
    every = tf.reshape(tf.range(semantic.CLASSES), (1, 1, -1))
    without, at = (
        SemanticMaps(every, tf.fill(every.shape, edge)).codes().numpy().ravel()
        for edge in (False, True)
    )
    assert sorted([*without, *at]) == list(range(OUTSIDE))
    assert CHANNELS == 184


FLAT = np.zeros((1, 64, 32), np.uint8)


@pytest.mark.parametrize(
    "label, instance, words",
    [
        (np.full_like(FLAT, 182), FLAT, "holds 182"),
        (np.full_like(FLAT, 254), FLAT, "holds 254"),
        (FLAT.astype(np.int32) - 1, FLAT, "holds -1"),
        (FLAT.astype(np.float32), FLAT, "label map is float32"),
        (FLAT, FLAT[0], r"instance map is uint8 \(64, 32\)"),
        (FLAT, FLAT[:, :32], "must be equal"),
        (FLAT[:, :40], FLAT[:, :40], "multiples of 32"),
        (FLAT[:, :0], FLAT[:, :0], "multiples of 32"),
        (FLAT[:0], FLAT[:0], "multiples of 32"),
    ],
)
def test_bad_layouts(label, instance, words):
    check_layout(FLAT + 255, FLAT.astype(np.int64), 32)
    with pytest.raises(UserError, match=words):
        check_layout(label, instance, 32)
