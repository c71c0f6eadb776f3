"""The discriminators of photographs."""

import numpy as np
import tensorflow as tf

from models.layers.discriminators import LayoutConv, MultiScaleDiscriminator
from models.layers.semantic import CHANNELS


def _layouts(count: int, side: int) -> tf.Tensor:
    classes = tf.random.stateless_uniform((count, side, side), (count, side), 0, CHANNELS, tf.int32)
    return tf.one_hot(classes, CHANNELS)


def test_layouts_join_every_picture():
    """A plain convolution of picture and layout, the layouts taken round and round."""
    conv = LayoutConv(5, stride=2, kernel_size=4)
    pictures, layouts = tf.random.stateless_normal((4, 8, 8, 3), (0, 1)), _layouts(2, 8)
    found = conv(pictures, layouts)
    conv.bias.assign(tf.range(5.0))
    joined = tf.concat([tf.concat([layouts, layouts], 0), pictures], axis=-1)
    expected = tf.nn.conv2d(joined, conv.normalized_kernel(training=False), 2, "SAME")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(conv(pictures, layouts), expected + tf.range(5.0), atol=1e-5)


def test_scores_of_two_scales():
    discriminator = MultiScaleDiscriminator(2)
    pictures = tf.random.stateless_normal((2, 64, 64, 3), (0, 1))
    found = discriminator(pictures, _layouts(1, 64))
    # 64 -> 32 -> 16 -> 8, then stride 1; from half the size: 4.
    for (scores, features), side in zip(found, (8, 4)):
        assert scores.shape == (2, side, side)
        sizes = [tuple(maps.shape[1:]) for maps in features]
        assert sizes == [(4 * side, 4 * side, 2), (2 * side, 2 * side, 4), (side, side, 8),
                         (side, side, 16)]  # fmt: skip
    other = discriminator(pictures, _layouts(1, 64)[:, ::-1])
    assert all(np.abs(a[0] - b[0]).max() > 1e-4 for a, b in zip(found, other))
    # A picture's scores do not depend on what stands beside it.
    alone = discriminator(pictures[1:], _layouts(1, 64))
    for (scores, _), (own, _) in zip(found, alone):
        np.testing.assert_allclose(scores[1:], own, atol=1e-5)
