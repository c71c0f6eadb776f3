"""Stacks of Dense layers."""

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
