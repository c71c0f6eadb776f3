"""Graph convolution over scene graphs, as in sg2im (Johnson et al. 2018, section 3)."""

from __future__ import annotations

import functools
from typing import Protocol

import tensorflow as tf

from core.geometry import LOCATION_GRID, SIZE_LEVELS, location_cells, size_levels
from models.layers.mlp import MLP

ACTIVATIONS = {"leakyrelu": functools.partial(tf.nn.leaky_relu, alpha=0.3), "relu": tf.nn.relu}
POOLINGS = ("avg", "sum")


class Graph(Protocol):
    """One side of N scenes, as in a batch: see the shape legend."""

    classes: tf.Tensor
    boxes: tf.Tensor
    obj_to_img: tf.Tensor
    triples: tf.Tensor


def join_graphs(graphs: list[Graph], num_scenes: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return several sides of the same N scenes as one of len(graphs) x N scenes: boxes,
    obj_to_img, triples. Scene n of side i becomes i N + n; objects are concatenated."""
    images, triples = [], []
    objects = 0
    for i, graph in enumerate(graphs):
        images.append(graph.obj_to_img + i * num_scenes)
        triples.append(graph.triples + tf.stack([objects, 0, objects]))
        objects += tf.shape(graph.obj_to_img)[0]
    boxes = tf.concat([graph.boxes for graph in graphs], axis=0)
    return boxes, tf.concat(images, axis=0), tf.concat(triples, axis=0)


def box_attributes(boxes: tf.Tensor) -> tf.Tensor:
    """Return float32 (O, 35) of boxes (O, 4): one-hot size level (10) and location cell (25)."""
    return tf.concat(
        [
            tf.one_hot(size_levels(boxes), SIZE_LEVELS),
            tf.one_hot(location_cells(boxes), LOCATION_GRID**2),
        ],
        axis=1,
    )


class TripleConv(tf.keras.layers.Layer):
    """One layer: every triple sends a message to each of its two objects, which pool theirs."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        pooling: str = "avg",
        activation: str = "leakyrelu",
        norm: str = "none",
        **kwargs,
    ):
        """dim: width of the returned object and predicate vectors. hidden: of the messages.
        pooling: 'avg' or 'sum'. activation, norm: after every Dense, of ACTIVATIONS and as MLP."""
        super().__init__(dtype="float32", **kwargs)  # but for what it is made of
        self.hidden = hidden
        self.pooling = pooling
        mlp = functools.partial(MLP, activation=ACTIVATIONS[activation], norm=norm)
        self.edge_mlp = mlp([hidden, hidden + dim + hidden], name="edge_mlp")
        self.node_mlp = mlp([hidden, dim], name="node_mlp")

    def call(
        self,
        objects: tf.Tensor,
        predicates: tf.Tensor,
        triples: tf.Tensor,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return objects (O, dim) and predicates (T, dim).

        objects: (O, D_in). predicates: (T, P_in). triples: int32 (T, 3), of which columns 0 and 2
        are read; an object may be in any number of them, in none its messages are zeros.
        """
        ends = tf.concat([triples[:, 0], triples[:, 2]], axis=0)  # (2T,)
        # A gather's gradient is a list of rows. The reshape's sums them up, in float32: what comes
        # before, in mixed precision, would do it in less.
        objects = tf.reshape(objects, [-1, objects.shape[1]])
        subjects, others = tf.split(tf.gather(objects, ends), 2)
        edges = self.edge_mlp(tf.concat([subjects, predicates, others], axis=1), training=training)
        to_subject, predicates, to_object = tf.split(
            edges, [self.hidden, edges.shape[1] - 2 * self.hidden, self.hidden], axis=1
        )
        count = tf.shape(objects)[0]
        messages = tf.concat([to_subject, to_object], axis=0)
        pooled = tf.math.unsorted_segment_sum(messages, ends, count)
        if self.pooling == "avg":
            degree = tf.math.unsorted_segment_sum(tf.ones_like(ends, tf.float32), ends, count)
            pooled /= tf.maximum(degree, 1.0)[:, None]
        return self.node_mlp(pooled, training=training), predicates


class GraphConvNet(tf.keras.layers.Layer):
    """Graph convolution of object vectors (O, D_in) along triples (T, 3): float32 (O, dim).

    The predicate of a triple enters as a learned vector of `predicate_dim`; after the first layer
    predicates are `dim` wide.
    """

    def __init__(
        self,
        num_predicates: int,
        predicate_dim: int,
        dim: int,
        hidden: int,
        layers: int,
        pooling: str = "avg",
        activation: str = "leakyrelu",
        norm: str = "none",
        **kwargs,
    ):
        """From `dim` on: of each layer, see TripleConv."""
        super().__init__(dtype="float32", **kwargs)
        self.predicates = tf.keras.layers.Embedding(num_predicates, predicate_dim, dtype="float32")
        self.layers = [
            TripleConv(dim, hidden, pooling, activation, norm, name=f"layer_{i}")
            for i in range(layers)
        ]

    def call(self, objects: tf.Tensor, triples: tf.Tensor, training: bool = False) -> tf.Tensor:
        predicates = self.predicates(triples[:, 1])
        for layer in self.layers:
            objects, predicates = layer(objects, predicates, triples, training=training)
        return objects
