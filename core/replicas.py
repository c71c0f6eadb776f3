"""What one replica of a step knows of the others, while a step is spread over devices.

A global batch is split by scene (stage 1: by triplet), so replicas hold equal numbers of scenes and
different numbers of objects. Each computes its PART of every loss: the parts of all replicas sum to
the loss of the global batch, so their gradients sum to its gradient.

Functions for the inside of a step. With one replica they add nothing to its graph. Letter: R
replicas.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def count() -> int:
    """R."""
    context = tf.distribute.get_replica_context()  # None: outside of a step
    return 1 if context is None else context.num_replicas_in_sync


def index() -> int:
    """Which of the R this is."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def total(values: Any) -> Any:
    """The sums over all replicas of a tensor, or of each of a nest of them; with its gradient,
    for a loss that is itself the sum of all replicas' parts."""
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce("sum", values)


def share(rows: tf.Tensor) -> tf.Tensor | float:
    """What share of all replicas' rows are this one's: float32 (). rows: int ()."""
    if count() == 1:
        return 1.0
    rows = tf.cast(rows, tf.float32)
    return rows / total(rows)


def gathered(rows: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas one after the other, with their gradient: (R n, ...).

    rows: floats (n, ...), n equal on all replicas.
    """
    # One sum, with a gradient that is one sum. tf.distribute's own all_gather first asks all
    # workers for their sizes.
    if count() == 1:
        return rows
    size = tf.shape(rows)[0]
    around = [[index() * size, (count() - 1 - index()) * size]]
    return total(tf.pad(rows, [*around, *[[0, 0]] * (rows.shape.rank - 1)]))


def own(rows: tf.Tensor, views: int = 1) -> tf.Tensor:
    """This replica's rows of all replicas': (views R n, ...) -> (views n, ...). views: the rows of
    the global batch so many times, one after the other."""
    if count() == 1:
        return rows
    shape = tf.shape(rows)[1:]
    apart = tf.reshape(rows, tf.concat([[views, count(), -1], shape], axis=0))
    return tf.reshape(apart[:, index()], tf.concat([[-1], shape], axis=0))


def place(rows: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor]:
    """Where this replica's rows begin among those of all replicas, and how many all are: int32 ().
    rows: int32 (), how many are its own."""
    if count() == 1:
        return 0, rows
    # float32, because sums of integers are not computed on every kind of device.
    numbers = tf.cast(gathered(tf.cast(rows, tf.float32)[None]), tf.int32)
    return tf.reduce_sum(numbers[: index()]), tf.reduce_sum(numbers)
