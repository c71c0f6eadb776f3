"""UpsampleConv against nearest upsampling followed by Keras' own convolution."""

import numpy as np
import pytest
import tensorflow as tf

from models.layers.upsample_conv import UpsampleConv


@pytest.mark.parametrize("side", [1, 3, 8])
def test_equals_upsampling_then_convolution(side):
    x = tf.random.stateless_normal([2, side, side, 5], [1, side])
    layer = UpsampleConv(7)
    layer.build(x.shape)
    layer.bias.assign(tf.range(7, dtype=tf.float32))

    def naive():
        up = tf.keras.layers.UpSampling2D(interpolation="nearest")(x)
        return tf.nn.conv2d(up, layer.kernel, 1, "SAME") + layer.bias

    weights = tf.random.stateless_normal([2, 2 * side, 2 * side, 7], [3, 4])
    results = []
    for function in (naive, lambda: layer(x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function()
            loss = tf.reduce_sum(y * weights)
        results.append((y, *tape.gradient(loss, [x, layer.kernel, layer.bias])))
    for expected, got in zip(*results):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
