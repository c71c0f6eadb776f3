"""PatchGAN discriminators (Isola et al. 2017) with spectral norm."""

from __future__ import annotations

import functools

import tensorflow as tf

from models.layers.normalization import SpectralConv, instance_norm

_leaky_relu = functools.partial(tf.nn.leaky_relu, alpha=0.2)

ARCHITECTURES = {"big": (64, 3), "small": (32, 3), "verysmall": (16, 2)}  # filters, stride-2 layers


class MaskDiscriminator(tf.keras.layers.Layer):
    """Masks (O, M, M) and their classes -> a score in (0, 1) for each patch: 1 = a real mask.

    Convolutions of stride 2, doubling in width from `filters`; the class joins as a one-hot vector
    at every pixel; one more doubling and the scores at stride 1. M = 64 gives 8 x 8 scores for
    three stride-2 layers.
    """

    def __init__(
        self, num_classes: int, filters: int, strided: int, spectral_norm: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        # No bias where a norm follows: it would take any constant out again.
        conv = functools.partial(SpectralConv, normalize=spectral_norm)
        self.convs = [
            conv(filters * 2**i, stride=2, use_bias=i == 0, name=f"conv_{i}")
            for i in range(strided)
        ]
        self.joined = conv(filters * 2**strided, use_bias=False, name="joined")
        self.norms = [instance_norm() for _ in range(strided)]
        self.scores = conv(1, name="scores")

    def call(
        self, masks: tf.Tensor, classes: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """masks (O, M, M) in [0, 1], classes int32 (O,). Returns scores (O, h, w) and the maps
        after each inner layer, for feature matching."""
        maps = self.convs[0](masks[..., None], training=training)
        features = [_leaky_relu(maps)]
        for conv, norm in zip(self.convs[1:], self.norms):
            features.append(_leaky_relu(norm(conv(features[-1], training=training))))
        maps = features[-1]
        one_hot = tf.one_hot(classes, self.num_classes)[:, None, None, :]
        tiled = tf.broadcast_to(one_hot, tf.concat([tf.shape(maps)[:3], [self.num_classes]], 0))
        maps = self.joined(tf.concat([maps, tiled], axis=-1), training=training)
        features.append(_leaky_relu(self.norms[-1](maps)))
        scores = self.scores(features[-1], training=training)
        return tf.nn.sigmoid(scores[..., 0]), features
