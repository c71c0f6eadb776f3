"""Mask network: masks of object vectors."""

from __future__ import annotations

import tensorflow as tf

from core.errors import UsageError
from models.layers.normalization import NORMS
from models.layers.upsample_conv import UpsampleConv


class MaskNet(tf.keras.layers.Layer):
    """Mask logits (O, M, M) of object vectors float32 (O, D).

    From 1x1 to MxM by log2(M) times [nearest upsample x2, conv 3x3, batch norm, ReLU], then a 1x1
    convolution (paper section 3.4, sg2im).
    """

    def __init__(self, mask_size: int, width: int, norm: str = "batch", **kwargs):
        """norm: 'batch', 'instance' or 'none'."""
        super().__init__(**kwargs)
        doublings = mask_size.bit_length() - 1
        if mask_size != 2**doublings or doublings == 0:
            raise UsageError(
                f"masks of side {mask_size} cannot be generated: the mask net doubles from 1, so "
                "prepare the data with mask_size a power of two (64)"
            )
        self.convs = [UpsampleConv(width, use_bias=norm == "none") for _ in range(doublings)]
        self.norms = [NORMS[norm]() for _ in range(doublings)]
        # The 1x1 convolution, as a product of matrices: faster for a single channel out.
        self.last = tf.keras.layers.Dense(1)

    def call(self, objects: tf.Tensor, training: bool = False) -> tf.Tensor:
        maps = objects[:, None, None, :]  # (O, 1, 1, D)
        for conv, norm in zip(self.convs, self.norms):
            maps = tf.nn.relu(norm(conv(maps), training=training))
        return tf.cast(self.last(maps)[..., 0], tf.float32)
