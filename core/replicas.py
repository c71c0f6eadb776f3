"""Sums and rows over the replicas of one training step.

A global batch is split by scene (stage 1: by triplet), so replicas hold equal numbers of scenes and
different numbers of objects. Each computes its PART of every loss: the parts of all replicas sum to
the loss of the global batch, so their gradients sum to its gradient.

These functions are called within a step. With one replica they add nothing to its graph. R is the
number of replicas.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def count() -> int:
    """Return R, which is 1 outside of a step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def index() -> int:
    """Return which of the R replicas this is, from 0."""
    if count() == 1:
        return 0
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def global_sum(values: Any) -> Any:
    """Return the sum over all replicas of a tensor, or of each of a nest of them, with its
    gradient, for a loss that is itself the sum of all replicas' parts."""
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce("sum", values)


def row_fraction(rows: tf.Tensor) -> tf.Tensor | float:
    """Return this replica's fraction of all replicas' rows: float32 (). rows: int (), its own."""
    if count() == 1:
        return 1.0
    rows = tf.cast(rows, tf.float32)
    return rows / global_sum(rows)


def all_gather(rows: tf.Tensor) -> tf.Tensor:
    """Return the rows of all replicas one after the other, with their gradient: (R n, ...).

    rows: floats (n, ...), n equal on all replicas.
    """
    # One sum, with a gradient that is one sum. tf.distribute's own all_gather first asks all
    # workers for their sizes.
    if count() == 1:
        return rows
    size = tf.shape(rows)[0]
    padding = [[index() * size, (count() - 1 - index()) * size]]
    return global_sum(tf.pad(rows, [*padding, *[[0, 0]] * (rows.shape.rank - 1)]))


def replica_rows(rows: tf.Tensor, views: int = 1) -> tf.Tensor:
    """Return this replica's rows of those of all: (views R n, ...) -> (views n, ...). views: how
    often `rows` holds the rows of the global batch, one time after the other."""
    if count() == 1:
        return rows
    shape = tf.shape(rows)[1:]
    by_replica = tf.reshape(rows, tf.concat([[views, count(), -1], shape], axis=0))
    return tf.reshape(by_replica[:, index()], tf.concat([[-1], shape], axis=0))


def row_offset(rows: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor]:
    """Return the index of this replica's first row among the rows of all, and how many all are:
    int32 (). rows: int32 (), its own."""
    if count() == 1:
        return 0, rows
    # float32, because sums of integers are not computed on every kind of device.
    numbers = tf.cast(all_gather(tf.cast(rows, tf.float32)[None]), tf.int32)
    return tf.reduce_sum(numbers[: index()]), tf.reduce_sum(numbers)
