"""Shapes and behaviour of the mask net and its discriminator."""

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UsageError
from core.model import Numerics
from models.layers.discriminators import ARCHITECTURES, ClassConv, MaskDiscriminator
from models.layers.mask_net import MaskNet


@pytest.mark.parametrize("precision", ["none", "bfloat16"])
def test_mask_net_shape_and_dtypes(precision):
    with Numerics(precision).layers():
        net = MaskNet(64, 4)
    logits = net(tf.random.stateless_normal((3, 8), [0, 1]), training=True)
    assert logits.shape == (3, 64, 64)
    assert logits.dtype == tf.float32
    assert {variable.dtype for variable in net.variables} == {tf.float32}
    assert len(net.convs) == 6


def test_mask_net_refuses_odd_sizes():
    with pytest.raises(UsageError, match="power of two"):
        MaskNet(48, 4)


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("instance", True), ("none", True)])
def test_mask_norms(norm, alone):
    """Only batch norm lets the objects of a batch see each other in training."""
    net = MaskNet(16, 8, norm=norm)
    objects = tf.random.stateless_normal((4, 8), [0, 1])
    together = net(objects, training=True).numpy()
    apart = net(objects[:1], training=True).numpy()
    assert np.allclose(together[:1], apart, rtol=1e-3, atol=1e-4) == alone
    assert all((conv.bias is None) == (norm != "none") for conv in net.convs)
    assert np.std(together) > 0


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_scores_of_a_mask_are_its_own(norm):
    critic = MaskDiscriminator(5, 8, 2, norm=norm)
    masks = tf.random.stateless_uniform((3, 32, 32), [0, 1])
    together, _ = critic(masks, tf.constant([0, 1, 2]))
    apart, _ = critic(masks[1:2], tf.constant([1]))
    np.testing.assert_allclose(together[1:2], apart, rtol=1e-4, atol=1e-5)
    gammas = sum("instance_norm" in v.name for v in critic.trainable_variables)
    biases = sum("bias" in v.name for v in critic.trainable_variables)
    # first, second, joined, scores; a gamma and a beta in place of the bias of two of them
    assert (gammas, biases) == ((4, 2) if norm == "instance" else (0, 4))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_discriminator_shapes(arch):
    filters, strided = ARCHITECTURES[arch]
    critic = MaskDiscriminator(5, filters, strided)
    scores, features = critic(tf.zeros((2, 64, 64)), tf.constant([0, 4]))
    side = 64 // 2**strided
    assert scores.shape == (2, side, side)
    assert side == 8 or arch == "verysmall"
    widths = [filters * 2**i for i in range(strided + 1)]
    assert [maps.shape[-1] for maps in features] == widths
    assert np.all((scores > 0) & (scores < 1))


@pytest.mark.parametrize("use_bias", [False, True])
def test_class_conv_equals_joined_one_hot(use_bias):
    """Looking the class up = convolving the map with the one-hot vector joined to every pixel."""
    maps = tf.random.stateless_normal((3, 4, 5, 2), [0, 1])
    classes = tf.constant([0, 3, 1])
    layer = ClassConv(4, 6, use_bias=use_bias)
    layer(maps, classes)
    bias = np.arange(6, dtype=np.float32)
    if use_bias:
        layer.bias.assign(bias)
    result = layer(maps, classes) - (bias if use_bias else 0)
    tiled = tf.broadcast_to(tf.one_hot(classes, 4)[:, None, None], (3, 4, 5, 4))
    kernel = layer.normalized_kernel(False)
    expected = tf.nn.conv2d(tf.concat([maps, tiled], -1), kernel, 1, "SAME")
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
