"""Box head: boxes of object vectors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.layers.mlp import MLP


class BoxHead(tf.keras.layers.Layer):
    """Boxes (O, 4) of object vectors float32 (O, D), in the image and with x0 <= x1, y0 <= y1."""

    def __init__(self, hidden: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.net = MLP([hidden, 4], tf.nn.relu, activate_last=False)

    def call(self, objects: tf.Tensor) -> tf.Tensor:
        # Paper: ReLU on the four outputs; here: a near corner in (0, 1) and a far corner at a
        # share of what is left, because a ReLU unit can die, and a box can end before it starts.
        near, share = tf.split(tf.nn.sigmoid(self.net(objects)), 2, axis=1)  # (O, 2) each
        return tf.concat([near, near + (1.0 - near) * share], axis=1)
