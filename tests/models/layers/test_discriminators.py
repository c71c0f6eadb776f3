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
    # With two pixels of padding: 64 -> 33 -> 17 -> 9, then 10 and 11; from half the size 17, 9, 5.
    for (scores, features), sides in zip(found, ((33, 17, 9, 10, 11), (17, 9, 5, 6, 7))):
        shapes = [(side, side, 2**i) for i, side in enumerate(sides[:4], start=1)]
        assert [tuple(maps.shape[1:]) for maps in features] == shapes
        assert scores.shape == (2, sides[4], sides[4])
    other = discriminator(pictures, _layouts(1, 64)[:, ::-1])
    assert all(np.abs(a[0] - b[0]).max() > 1e-4 for a, b in zip(found, other))
    # A picture's scores do not depend on what stands beside it.
    alone = discriminator(pictures[1:], _layouts(1, 64))
    for (scores, _), (own, _) in zip(found, alone):
        np.testing.assert_allclose(scores[1:], own, atol=1e-5)


def test_parameters_are_those_of_the_published_code():
    """Norms have none. No spectral norm divides the first and the last layer: they grow with their
    kernels."""
    scale = MultiScaleDiscriminator(2).scales[0]
    pictures, layouts = tf.random.stateless_normal((1, 32, 32, 3), (0, 1)), _layouts(1, 32)
    scores, features = scale(pictures, layouts)
    assert len(scale.trainable_variables) == 5 + 2  # kernels; biases of the first and the last
    for conv, factor in ((scale.scores, 3), (scale.convs[2], 1)):
        conv.kernel.assign(3 * conv.kernel)
        scores = factor * scores
        np.testing.assert_allclose(scale(pictures, layouts)[0], scores, rtol=1e-3, atol=1e-5)
    scale.joined.kernel.assign(3 * scale.joined.kernel)
    found = scale(pictures, layouts)[1][0]
    np.testing.assert_allclose(found, 3 * features[0], rtol=1e-3, atol=1e-6)
