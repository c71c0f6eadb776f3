"""Transformer encoder over the objects of each scene, with a learned scene token.

In mixed precision only products with weights and of attention are computed in it: slots are float32
from layer to layer, where position encodings are added to objects many times their size.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

from core import replicas
from core.geometry import LOCATION_GRID, location_cells
from core.model import Attention

MIN_SLOTS = 9  # the scene token and the 8 objects a prepared scene has at most


def sinusoids(positions: int, width: int) -> np.ndarray:
    """Return position encodings float32 (positions, width): sines in even columns, cosines in odd
    ones (Vaswani et al. 2017, section 3.5)."""
    rates = 10000.0 ** (-2.0 * (np.arange(width) // 2) / width)
    angles = np.arange(positions)[:, None] * rates
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def slot_indices(obj_to_img: tf.Tensor, num_scenes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return each object's [scene, slot] in the (N, S) table of slots, int32 (O, 2), and the mask
    of slots in use, float32 (N, S).

    Slot 0 is the scene token's. S is MIN_SLOTS, more only when a scene has more objects. obj_to_img
    is ascending, so an object's slot follows from the number of objects in all scenes before.
    """
    counts = tf.math.bincount(obj_to_img, minlength=num_scenes, maxlength=num_scenes)  # (N,)
    before = tf.cumsum(counts, exclusive=True)
    slot = 1 + tf.range(tf.shape(obj_to_img)[0]) - tf.gather(before, obj_to_img)
    slots = tf.maximum(MIN_SLOTS, 1 + tf.reduce_max(counts))
    return tf.stack([obj_to_img, slot], axis=1), tf.sequence_mask(1 + counts, slots, tf.float32)


class Dropout:
    """Dropout that is a function of a seed alone: the n-th use in a step draws from (seed, n)."""

    def __init__(self, rate: float, seed: tf.Tensor | None, views: int = 1):
        """seed: int (2,), or None for no dropout (inference). views: how often the inputs hold the
        scenes of the batch, one time after the other, so that a scene gets the same draws however
        the batch is split."""
        self.rate = rate
        self.seed = seed
        self.views = views
        self.uses = 0

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.seed is None or self.rate == 0.0:
            return inputs
        self.uses += 1
        seed = tf.random.experimental.stateless_fold_in(self.seed, self.uses)
        shape = tf.shape(inputs)
        global_shape = tf.concat([shape[:1] * replicas.count(), shape[1:]], axis=0)
        scale = tf.nn.experimental.stateless_dropout(tf.ones(global_shape), self.rate, seed)
        return inputs * replicas.replica_rows(scale, self.views)


class EncoderBlock(tf.keras.layers.Layer):
    """Self-attention and a two-layer net, each with dropout, residual and layer norm after it."""

    def __init__(self, dim: int, heads: int, hidden: int, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.heads = heads
        self.query = tf.keras.layers.Dense(dim)
        # No bias: a constant added to every key shifts all scores of a query alike, and the
        # softmax takes it out again.
        self.key = tf.keras.layers.Dense(dim, use_bias=False)
        self.value = tf.keras.layers.Dense(dim)
        self.join = tf.keras.layers.Dense(dim)
        norm = functools.partial(tf.keras.layers.LayerNormalization, epsilon=1e-6, dtype="float32")
        self.norm_attention = norm()
        self.widen = tf.keras.layers.Dense(hidden, activation="relu")
        self.narrow = tf.keras.layers.Dense(dim)
        self.norm_net = norm()

    def call(
        self, slots: tf.Tensor, in_use: tf.Tensor, dropout: Dropout
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return new slots (N, S, D) and the attention (N, heads, S, S) of slot i (third) to slot
        j (last).

        slots: (N, S, D). in_use: (N, S), 1 for slots that others may attend to."""
        attended, attention = self._attend(slots, in_use)
        joined = tf.cast(self.join(attended), tf.float32)
        slots = self.norm_attention(slots + dropout(joined))
        narrowed = tf.cast(self.narrow(self.widen(slots)), tf.float32)
        return self.norm_net(slots + dropout(narrowed)), attention

    def _attend(self, slots: tf.Tensor, in_use: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        query, key, value = (
            self._split_heads(dense(slots)) for dense in (self.query, self.key, self.value)
        )  # (N, heads, S, D / heads)
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        scores /= math.sqrt(query.shape[-1])
        scores += (in_use[:, None, None, :] - 1.0) * 1e9
        attention = tf.nn.softmax(scores)
        attended = tf.matmul(tf.cast(attention, value.dtype), value)
        joined = tf.transpose(attended, [0, 2, 1, 3])
        return tf.reshape(joined, tf.shape(slots)), attention

    def _split_heads(self, inputs: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(inputs)
        depth = inputs.shape[-1] // self.heads
        split = tf.reshape(inputs, [shape[0], shape[1], self.heads, depth])
        return tf.transpose(split, [0, 2, 1, 3])


def rollout(layers: list[tf.Tensor]) -> tf.Tensor:
    """Return the attention through all layers to the inputs of the first: float32 (N, S, S).

    layers: first to last, (N, S, S), means over the heads. Attention rollout (Abnar and Zuidema
    2020, section 3): the product of (A + I) / 2, of which I is the residual connection. Rows go on
    summing to 1.
    """
    through = tf.eye(tf.shape(layers[0])[-1])
    for attention in layers:
        through = (tf.matmul(attention, through) + through) / 2
    return through


class SceneSum(tf.keras.layers.Layer):
    """In place of a SceneTransformer: a scene is a learned vector plus the sum of its objects,
    which stay as they are."""

    def __init__(self, **kwargs):
        super().__init__(dtype="float32", **kwargs)

    def build(self, input_shape):
        self.token = self.add_weight("token", input_shape[-1:], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        objects: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        num_scenes: tf.Tensor,
        seed: tf.Tensor | None = None,
        views: int = 1,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return scene tokens and the objects; arguments as of SceneTransformer, of which boxes,
        seed and views are not read."""
        return self.token + tf.math.unsorted_segment_sum(objects, obj_to_img, num_scenes), objects


class SceneTransformer(tf.keras.layers.Layer):
    """Transformer encoder of the objects of N scenes, with a learned token for each scene."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float,
        use_positions: bool = True,
        **kwargs,
    ):
        """use_positions: add the sinusoidal encoding of each box's cell to its object."""
        super().__init__(dtype="float32", **kwargs)
        self.dim = dim
        self.rate = dropout
        self.positions = sinusoids(LOCATION_GRID**2, dim) if use_positions else None
        self.blocks = [EncoderBlock(dim, heads, hidden, name=f"block_{i}") for i in range(layers)]

    def build(self, input_shape):
        self.token = self.add_weight("token", (self.dim,), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        objects: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        num_scenes: tf.Tensor,
        seed: tf.Tensor | None = None,
        views: int = 1,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return scene tokens (N, D) and contextual objects (O, D), both float32.

        objects: (O, D). boxes: (O, 4). obj_to_img: (O,). num_scenes: int32 (). seed: int (2,) for
        dropout in training, None in inference. views: as of Dropout.
        """
        slots, indices, _ = self._encode(objects, boxes, obj_to_img, num_scenes, seed, views)
        return slots[:, 0], tf.gather_nd(slots, indices)

    def attention(
        self, objects: tf.Tensor, boxes: tf.Tensor, obj_to_img: tf.Tensor, num_scenes: tf.Tensor
    ) -> Attention:
        """Return the scene tokens' attention in inference; arguments as of `call`."""
        _, indices, layers = self._encode(objects, boxes, obj_to_img, num_scenes)
        means = [tf.reduce_mean(attention, axis=1) for attention in layers]
        return Attention(
            *(tf.gather_nd(table[:, 0], indices) for table in (means[-1], rollout(means)))
        )

    def _encode(
        self,
        objects: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        num_scenes: tf.Tensor,
        seed: tf.Tensor | None = None,
        views: int = 1,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return slots (N, S, D), each object's [scene, slot] int32 (O, 2), and the attention of
        each layer (N, heads, S, S)."""
        inputs = objects * math.sqrt(self.dim)
        if self.positions is not None:
            inputs += tf.gather(self.positions, location_cells(boxes))
        indices, in_use = slot_indices(obj_to_img, num_scenes)
        shape = tf.concat([tf.shape(in_use), [self.dim]], axis=0)
        slots = tf.scatter_nd(indices, inputs, shape)  # (N, S, D)
        token = tf.broadcast_to(self.token, tf.concat([shape[:1], [1, self.dim]], axis=0))
        slots = tf.concat([token, slots[:, 1:]], axis=1)

        dropout = Dropout(self.rate, seed, views)
        slots = dropout(slots)
        layers = []
        for block in self.blocks:
            slots, attention = block(slots, in_use, dropout)
            layers.append(attention)
        return slots, indices, layers
