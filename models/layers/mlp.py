"""Stacks of Dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


class MLP(tf.keras.layers.Layer):
    """float32 (..., in) -> (..., widths[-1]): Dense layers with an activation after each.

    The activation after the last one is left out with `activate_last=False`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Callable[[tf.Tensor], tf.Tensor] | None,
        activate_last: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        last = len(widths) - 1
        self.dense = [
            tf.keras.layers.Dense(
                width, activation=activation if i < last or activate_last else None
            )
            for i, width in enumerate(widths)
        ]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        for dense in self.dense:
            inputs = dense(inputs)
        return inputs
