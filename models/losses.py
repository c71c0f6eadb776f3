"""Losses: pure functions, unweighted, each a float32 scalar. Letters: see models/__init__.py.

Where a step is spread over replicas, each is this replica's part of the loss of the global batch
(core.replicas): a mean divides by the number of rows that all replicas have together.
"""

from __future__ import annotations

import tensorflow as tf

from core import replicas
from models.addons import giou_loss


def mean(values: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
    """Return the mean of values (B, ...). valid: bool (B,), of values (B,), which of them count
    (the mean of none is 0); None: all."""
    if valid is None:
        return tf.reduce_mean(values) * replicas.row_fraction(tf.shape(values)[0])
    weights = tf.cast(valid, values.dtype)
    counted = replicas.global_sum(tf.reduce_sum(weights))
    return tf.reduce_sum(values * weights) / tf.maximum(counted, 1.0)


def squared_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return squared Euclidean distances over the last axis; the others are broadcast."""
    return tf.reduce_sum(tf.math.squared_difference(a, b), axis=-1)


def cross_entropy(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Return the mean cross entropy of logits (B, K) for classes int32 (B,)."""
    return mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits))


def focal_cross_entropy(logits: tf.Tensor, classes: tf.Tensor, gamma: float = 2.0) -> tf.Tensor:
    """Return the mean of (1 - p)^gamma times cross entropy, p the probability of the right class,
    so that easy rows count less (Lin et al. 2017). logits: (B, K). classes: int32 (B,)."""
    rows = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)
    return mean((-tf.math.expm1(-rows)) ** gamma * rows)


def triplet(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    margin: float = 0.5,
    valid: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the mean of max(0, d(anchor, positive) - d(anchor, negative) + margin), d squared
    Euclidean (paper section 3.1). All (B, E). valid: bool (B,), rows that count; None: all.
    """
    gap = squared_distance(anchor, positive) - squared_distance(anchor, negative)
    rows = tf.nn.relu(gap + margin)
    return mean(rows, valid)


def info_nce(
    anchors: tf.Tensor,
    candidates: tf.Tensor,
    anchor_classes: tf.Tensor,
    candidate_classes: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Return InfoNCE (van den Oord et al. 2018) with all candidates of an anchor's class as its
    positives: mean over anchors and positives of -log softmax over candidates (Khosla et al. 2020,
    L_out). Anchors without positives do not count.

    anchors: (B, E), candidates: (M, E), of length 1; their classes: int32 (B,), (M,).
    """
    candidates = replicas.all_gather(candidates)  # of the global batch
    candidate_classes = replicas.all_gather(tf.cast(candidate_classes, tf.float32))
    positive = tf.cast(anchor_classes, tf.float32)[:, None] == candidate_classes
    weights = tf.cast(positive, tf.float32)  # (B, M)
    count = tf.reduce_sum(weights, axis=1)
    log_softmax = tf.nn.log_softmax(tf.matmul(anchors, candidates, transpose_b=True) / temperature)
    rows = -tf.reduce_sum(weights * log_softmax, axis=1) / tf.maximum(count, 1.0)
    return mean(rows, count > 0)


def scene_contrastive(sketch: tf.Tensor, photo: tf.Tensor, negative: tf.Tensor | None) -> tf.Tensor:
    """Return the contrastive loss of a batch of scenes, all (N, D) (paper section 3.5).

    Mean d(a_i, p_i) + mean_ij max(0, 1[i != j] - d(a_i, p_j)) + mean_ij max(0, 0.5 - d(a_i, n_j)):
    a sketched scene is drawn to its photograph, pushed a distance of 1 from every other one and of
    0.5 from every synthetic negative, i = j included. negative: None leaves that term out.
    """
    photos = replicas.all_gather(photo)  # of the global batch: all N
    same = replicas.replica_rows(tf.eye(tf.shape(photos)[0]))  # (N, N)
    to_photo = squared_distance(sketch[:, None], photos[None])  # (N, N)
    loss = mean(tf.reduce_sum(same * to_photo, axis=1))
    loss += mean(tf.nn.relu(1.0 - same - to_photo))
    if negative is not None:
        to_negative = squared_distance(sketch[:, None], replicas.all_gather(negative)[None])
        loss += mean(tf.nn.relu(0.5 - to_negative))  # (N, N)
    return loss


def icon(drawings: tf.Tensor, photos: tf.Tensor, temperature: float, smoothing: float) -> tf.Tensor:
    """Return the contrastive loss of pairs (N, E), vectors of length 1, in both directions alike.

    Mean of KL(target || softmax of similarities / temperature) over each row, which holds the
    similarities of one vector to all N of the other side. Its target has 1 - smoothing at the pair
    and smoothing / N everywhere, so that a pair is not wanted infinitely far ahead of others that
    fit nearly as well. smoothing: in [0, 1); 0 is InfoNCE (van den Oord et al. 2018).
    """
    loss = 0.0
    for rows, others in ((drawings, photos), (photos, drawings)):
        others = replicas.all_gather(others)  # of the global batch: all N
        count = tf.shape(others)[0]
        pairs = replicas.replica_rows(tf.eye(count))  # (N, N)
        target = (1.0 - smoothing) * pairs + smoothing / tf.cast(count, tf.float32)
        logits = tf.matmul(rows, others, transpose_b=True) / temperature
        entropy = -tf.reduce_sum(tf.math.xlogy(target, target), axis=1)
        loss += 0.5 * mean(tf.nn.softmax_cross_entropy_with_logits(target, logits) - entropy)
    return loss


def box_regression(true: tf.Tensor, predicted: tf.Tensor, use_giou: bool = True) -> tf.Tensor:
    """Return the mean squared error of boxes (O, 4), with `use_giou` plus 0.1 x mean(1 - GIoU)."""
    loss = mean(tf.math.squared_difference(true, predicted))
    if use_giou:
        y_first = [1, 0, 3, 2]  # the order the library wants: y0, x0, y1, x1
        true, predicted = (tf.gather(boxes, y_first, axis=1) for boxes in (true, predicted))
        rows = tf.reshape(giou_loss(true, predicted), [-1])  # it gives a scalar for one box
        loss += 0.1 * mean(rows)
    return loss


def mask_cross_entropy(true: tf.Tensor, logits: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Return the mean binary cross entropy over the pixels of the valid masks.

    true: float32 (O, M, M), 0 or 1. logits: (O, M, M). valid: bool (O,).
    """
    pixels = tf.nn.sigmoid_cross_entropy_with_logits(labels=true, logits=logits)
    return mean(tf.reduce_mean(pixels, axis=[1, 2]), valid)


def least_squares_gan(scores: tf.Tensor, target: tf.Tensor | float) -> tf.Tensor:
    """Return the mean squared difference of scores and their target (Mao et al. 2017)."""
    return mean(tf.math.squared_difference(scores, target))


def feature_matching(
    real: list[tf.Tensor], generated: list[tf.Tensor], valid: tf.Tensor | None = None
) -> tf.Tensor:
    """Return the sum over a discriminator's inner layers of the mean absolute difference (Wang et
    al. 2018, section 3.2).

    real, generated: maps (O, h, w, c) of each layer; no gradient reaches the real side. valid: bool
    (O,).
    """
    total = 0.0
    for target, maps in zip(real, generated):
        rows = tf.reduce_mean(tf.abs(tf.stop_gradient(target) - maps), axis=[1, 2, 3])
        total += mean(rows, valid)
    return total


def hinge_discriminator(real: tf.Tensor, generated: tf.Tensor) -> tf.Tensor:
    """Return mean(max(0, 1 - real)) + mean(max(0, 1 + generated)) of scores."""
    return mean(tf.nn.relu(1.0 - real)) + mean(tf.nn.relu(1.0 + generated))


def hinge_generator(generated: tf.Tensor) -> tf.Tensor:
    """Return the generator's side of the hinge loss: minus the mean score."""
    return -mean(generated)


def relative_difference(real: list[tf.Tensor], generated: list[tf.Tensor]) -> tf.Tensor:
    """Return the mean over layers of mean |real - generated| / mean |real|; no gradient reaches
    the real side."""
    differences = []
    for target, maps in zip(map(tf.stop_gradient, real), generated):
        size = replicas.global_sum(mean(tf.abs(target)))
        differences.append(mean(tf.abs(target - maps)) / tf.maximum(size, 1e-6))
    return tf.add_n(differences) / len(differences)
