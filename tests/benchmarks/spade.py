"""A picture of the full-size SPADE generator at 256x256, random weights."""

from __future__ import annotations

from unittest import mock

import numpy as np

from tests.benchmarks.harness import Bench, Numbers, Setting, compared, repeat


def _layout(side: int):
    """A scene as COCO-Stuff has them: bands of stuff, some things with round borders before them.
    It has 11 % as many distinct 5x5 surroundings as pixels; COCO-Stuff's own, 9 % on average."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    border = 0.5 + 0.03 * np.cumsum(rng.standard_normal(side)) / np.sqrt(side) * 10
    label = np.where(y < border, 156, 123)
    instance = np.where(y < border, 1, 2)
    for thing in range(12):
        cx, cy, rx, ry = rng.random(4) * (1, 1, 0.15, 0.15)
        wave = 1 + 0.2 * np.sin(9 * np.arctan2(y - cy, x - cx) + thing)
        inside = ((x - cx) / (rx + 0.03)) ** 2 + ((y - cy) / (ry + 0.03)) ** 2 < wave
        label[inside], instance[inside] = rng.integers(0, 90), 10 + thing
    return label[None].astype(np.uint8), instance[None].astype(np.int32)


def _picture(setting: Setting) -> Numbers:
    import tensorflow as tf

    from models.layers.semantic import semantic_maps, surroundings
    from models.layers.spade import SpadeGenerator

    generator = SpadeGenerator(setting.size(64, 2), setting.size(128, 4), spectral_norm=False)
    generator.make_variables()
    label, instance = (tf.constant(each) for each in _layout(setting.size(256, 64)))
    draw = tf.function(lambda label, instance: generator(semantic_maps(label, instance)))
    distinct = surroundings(semantic_maps(label, instance)).around.shape[0] / tf.size(label).numpy()
    return {
        **repeat(lambda: draw(label, instance).numpy(), setting.size(7, 1)),
        "distinct": distinct,
    }


def _picture_naive(setting: Setting) -> Numbers:
    """The norms as one would first write them: convolutions of the one-hot map at every size."""
    import tensorflow as tf

    from models.layers import spade

    class DenseNorm(spade.SpadeNorm):
        def call(self, inputs, around, training=False):
            def conv(maps, name):
                kernel, bias = (getattr(self, f"{name}_{end}") for end in ("kernel", "bias"))
                return tf.nn.bias_add(tf.nn.conv2d(maps, kernel, 1, "SAME"), bias)

            hidden = tf.nn.relu(conv(around, "shared"))
            normalised, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.ones_like(self.mean),
                tf.zeros_like(self.mean),
                self.mean,
                self.variance,
                epsilon=spade.EPSILON,
                is_training=False,
            )
            return normalised * (1.0 + conv(hidden, "gamma")) + conv(hidden, "beta")

    dense = mock.patch.multiple(spade, SpadeNorm=DenseNorm, surroundings=spade.SemanticMaps.one_hot)
    with dense:
        return _picture(setting)


ROWS = compared(("SPADE, a picture of 256x256", "median", ""), ("SPADE peak memory", "peak", ""))
BENCHES = {"spade": Bench({"ours": _picture, "naive": _picture_naive}, ROWS)}
