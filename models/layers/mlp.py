"""Stacks of Dense layers, and residual adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from models.layers.normalization import NORMS


class MLP(tf.keras.layers.Layer):
    """Dense layers, a norm and an activation after each: (..., in) to float32 (..., widths[-1]).

    The activation after the last one is left out with `activate_last=False`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Callable[[tf.Tensor], tf.Tensor] | None,
        activate_last: bool = True,
        norm: str = "none",
        **kwargs,
    ):
        """norm: 'none', or 'batch': batch norm over the rows, before the activation."""
        super().__init__(**kwargs)
        self.dense = [tf.keras.layers.Dense(width, use_bias=norm == "none") for width in widths]
        self.norms = [NORMS[norm]() for _ in widths]
        self.activations = [activation] * (len(widths) - 1)
        self.activations.append(activation if activate_last else None)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        for dense, norm, activation in zip(self.dense, self.norms, self.activations):
            inputs = norm(dense(inputs), training=training)
            if activation is not None:
                inputs = activation(inputs)
        return tf.cast(inputs, tf.float32)


class ResidualAdapter(tf.keras.layers.Layer):
    """Vectors float32 (B, D) plus Dense `size`, ReLU, Dense D of them, which starts at zero: the
    identity at first (Houlsby et al. 2019, section 2.1)."""

    def __init__(self, size: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.down = tf.keras.layers.Dense(size, "relu")

    def build(self, input_shape):
        self.up = tf.keras.layers.Dense(input_shape[-1], kernel_initializer="zeros")
        super().build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        return vectors + tf.cast(self.up(self.down(vectors)), vectors.dtype)
