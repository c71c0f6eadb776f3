"""Decoding, cropping and resizing of batches."""

import numpy as np
import pytest
import tensorflow as tf

from dataloaders import image_ops
from tests.dataloaders import tiny_sets


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_decoding_any_number_of_images(count):
    images = np.stack([tiny_sets.marked(96, i, 2 * i) for i in range(count)])
    encoded = tf.constant([tiny_sets.encode(i, "PNG") for i in images])
    for shape in ([None], [count]):
        decode = tf.function(
            lambda e: image_ops.decode_images(e, 96, 1, "png"),
            input_signature=[tf.TensorSpec(shape, tf.string)],
        )
        assert (decode(encoded).numpy()[..., 0] == images).all()


def slow_crop(image, box, side):
    """Bilinear samples from border to border of the box, one pixel at a time."""
    size = image.shape[0]
    out = np.zeros((side, side, 3))
    for i in range(side):
        y = (box[1] + (box[3] - box[1]) * i / (side - 1)) * (size - 1)
        for j in range(side):
            x = (box[0] + (box[2] - box[0]) * j / (side - 1)) * (size - 1)
            top, left = min(int(y), size - 2), min(int(x), size - 2)
            v, u = y - top, x - left
            part = image[top : top + 2, left : left + 2].astype(float)
            out[i, j] = (part[0, 0] * (1 - u) + part[0, 1] * u) * (1 - v) + (
                part[1, 0] * (1 - u) + part[1, 1] * u
            ) * v
    return out


def test_crops_equal_the_slow_reference():
    rng = np.random.default_rng(0)
    images = np.stack([tiny_sets.scene_image(rng, 64) for _ in range(2)])
    boxes = np.concatenate([tiny_sets.scene_boxes(rng, 3), [[0, 0, 1, 1]]]).astype(np.float32)
    owners = np.array([0, 0, 1, 1], np.int32)
    crops = image_ops.crop_images(images, boxes, owners, 24).numpy().astype(float)
    for crop, box, owner in zip(crops, boxes, owners):
        assert abs(crop - slow_crop(images[owner], box, 24)).max() <= 1


def test_resizing_is_skipped_when_there_is_nothing_to_do():
    images = tf.zeros([2, 8, 8, 1], tf.uint8)
    assert image_ops.resize_images(images, 8) is images
    grey = tf.fill([1, 8, 8, 3], tf.constant(77, tf.uint8))
    smaller = image_ops.resize_images(grey, 4)
    assert smaller.dtype == tf.uint8 and (smaller.numpy() == 77).all()
    assert smaller.shape == (1, 4, 4, 3)
