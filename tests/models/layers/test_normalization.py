"""Folded batch norm against Keras' layers, spectral norm against the SVD."""

import numpy as np
import pytest
import tensorflow as tf

from models.layers.normalization import ConvBatchNorm, InstanceNorm, SpectralConv


def randomised(layer, inputs):
    layer(inputs)
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer


@pytest.mark.parametrize("filters", [5, None])
def test_folding_is_exact_with_its_gradients(filters):
    """Folded = convolution, then Keras' batch norm with its statistics, for values and for the
    gradients of kernel, gamma and beta."""
    inputs = tf.random.stateless_normal((2, 7, 7, 4), [0, 1])
    layer = randomised(ConvBatchNorm(4, filters, stride=2, freeze_statistics=True), inputs)
    variables = layer.trainable_variables
    assert len(variables) == 3

    def plain():
        if filters is None:
            maps = tf.nn.depthwise_conv2d(inputs, layer.kernel, [1, 2, 2, 1], "SAME")
        else:
            maps = tf.nn.conv2d(inputs, layer.kernel, 2, "SAME")
        return layer.norm(maps, training=False)

    with tf.GradientTape(persistent=True) as tape:
        folded, expected = layer(inputs, training=True), plain()
        sums = [tf.reduce_sum(outputs**2) for outputs in (folded, expected)]
    np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(tape.gradient(sums[0], variables), tape.gradient(sums[1], variables)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2)


def test_one_channel_reads_as_three_alike():
    sketch = tf.random.stateless_uniform((2, 6, 6, 1), [0, 1])
    layer = randomised(ConvBatchNorm(3, 4), tf.tile(sketch, [1, 1, 1, 3]))
    expected = layer(tf.tile(sketch, [1, 1, 1, 3]))
    np.testing.assert_allclose(layer(sketch), expected, rtol=1e-5, atol=1e-5)


def test_trained_statistics_normalise_the_batch():
    inputs = tf.random.stateless_normal((8, 9, 9, 2), [0, 1]) * 5 + 3
    layer = ConvBatchNorm(2, 3)
    outputs = layer(inputs, training=True).numpy()
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.var((0, 1, 2)), 1, atol=1e-2)
    for _ in range(60):  # momentum 0.9: the statistics arrive, inference sees what training saw
        layer(inputs, training=True)
    np.testing.assert_allclose(layer(inputs), outputs, atol=0.05)


def test_spectral_norm_is_one_and_survives_a_checkpoint(tmp_path):
    inputs = tf.random.stateless_normal((1, 5, 5, 3), [0, 1])
    layer = SpectralConv(4)
    layer(inputs)
    kernel = layer.kernel.numpy()
    for _ in range(100):
        layer(inputs, training=True)
    np.testing.assert_array_equal(layer.kernel, kernel)  # the trained variable stays as it is
    matrix = layer.normalized_kernel(False).numpy().reshape(-1, 4)
    assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)

    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "ckpt"))
    other = SpectralConv(4)
    other(inputs)
    tf.train.Checkpoint(layer=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other(inputs), layer(inputs))


def test_spectral_norm_moves_only_in_training():
    layer = SpectralConv(4)
    layer(tf.ones((1, 5, 5, 3)))
    before = layer.u.numpy()
    layer(tf.ones((1, 5, 5, 3)))
    np.testing.assert_array_equal(layer.u, before)
    layer(tf.ones((1, 5, 5, 3)), training=True)
    assert np.any(layer.u.numpy() != before)


def test_instance_norm_by_sample_and_channel():
    maps = tf.random.stateless_normal((2, 8, 8, 3), [0, 1]) * [1.0, 5.0, 9.0] + 4.0
    outputs = InstanceNorm()(maps).numpy()
    np.testing.assert_allclose(outputs.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.var((1, 2)), 1, atol=1e-3)
