"""Losses: pure functions, unweighted, each a float32 scalar. Letters: see models/__init__.py.

Where a step is spread over replicas, each is this replica's part of the loss of the global batch
(core.replicas): a mean divides by the number of rows that all replicas have together.
"""

from __future__ import annotations

import tensorflow as tf

from core import replicas
from models.addons import giou_loss


def mean(values: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
    """Mean of values (B, ...). valid: bool (B,), of values (B,) that count, 0 when none is; None:
    all."""
    if valid is None:
        return tf.reduce_mean(values) * replicas.share(tf.shape(values)[0])
    weights = tf.cast(valid, values.dtype)
    counted = replicas.total(tf.reduce_sum(weights))
    return tf.reduce_sum(values * weights) / tf.maximum(counted, 1.0)


def squared_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Squared Euclidean distance over the last axis, with broadcasting of the others."""
    return tf.reduce_sum(tf.math.squared_difference(a, b), axis=-1)


def cross_entropy(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Mean cross entropy of logits (B, K) for classes int32 (B,)."""
    return mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits))


def focal_cross_entropy(logits: tf.Tensor, classes: tf.Tensor, gamma: float = 2.0) -> tf.Tensor:
    """Mean of (1 - p)^gamma times cross entropy, p the probability of the right class: what is
    easy counts less (Lin et al. 2017). logits (B, K), classes int32 (B,)."""
    rows = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)
    return mean((-tf.math.expm1(-rows)) ** gamma * rows)


def triplet(
    anchor: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    margin: float = 0.5,
    valid: tf.Tensor | None = None,
) -> tf.Tensor:
    """Mean of max(0, d(anchor, positive) - d(anchor, negative) + margin), d squared Euclidean.

    All (B, E). valid: bool (B,), rows that count; None: all (paper section 3.1).
    """
    gap = squared_distance(anchor, positive) - squared_distance(anchor, negative)
    rows = tf.nn.relu(gap + margin)
    return mean(rows, valid)


def scene_contrastive(sketch: tf.Tensor, photo: tf.Tensor, negative: tf.Tensor | None) -> tf.Tensor:
    """Contrastive loss over a batch of scenes, all (N, D) (paper section 3.5).

    Mean d(a_i, p_i) + mean_ij max(0, 1[i != j] - d(a_i, p_j)) + mean_ij max(0, 0.5 - d(a_i, n_j)):
    a sketched scene is drawn to its photograph, pushed a distance of 1 from every other one and of
    0.5 from every synthetic negative, i = j included. negative: None leaves that term out.
    """
    photos = replicas.gathered(photo)  # of the global batch: all N
    same = replicas.own(tf.eye(tf.shape(photos)[0]))  # (N, N)
    to_photo = squared_distance(sketch[:, None], photos[None])  # (N, N)
    loss = mean(tf.reduce_sum(same * to_photo, axis=1))
    loss += mean(tf.nn.relu(1.0 - same - to_photo))
    if negative is not None:
        to_negative = squared_distance(sketch[:, None], replicas.gathered(negative)[None])
        loss += mean(tf.nn.relu(0.5 - to_negative))  # (N, N)
    return loss


def box_regression(true: tf.Tensor, predicted: tf.Tensor, use_giou: bool = True) -> tf.Tensor:
    """Mean squared error of boxes (O, 4), plus 0.1 x the mean of 1 - GIoU with `use_giou`."""
    loss = mean(tf.math.squared_difference(true, predicted))
    if use_giou:
        y_first = [1, 0, 3, 2]  # the order the library wants: y0, x0, y1, x1
        true, predicted = (tf.gather(boxes, y_first, axis=1) for boxes in (true, predicted))
        rows = tf.reshape(giou_loss(true, predicted), [-1])  # it gives a scalar for one box
        loss += 0.1 * mean(rows)
    return loss


def mask_cross_entropy(true: tf.Tensor, logits: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Mean binary cross entropy over the pixels of the valid masks.

    true: float32 (O, M, M), 0 or 1. logits: (O, M, M). valid: bool (O,).
    """
    pixels = tf.nn.sigmoid_cross_entropy_with_logits(labels=true, logits=logits)
    return mean(tf.reduce_mean(pixels, axis=[1, 2]), valid)


def least_squares_gan(scores: tf.Tensor, target: tf.Tensor | float) -> tf.Tensor:
    """Mean squared difference of scores and their target (Mao et al. 2017)."""
    return mean(tf.math.squared_difference(scores, target))


def feature_matching(
    real: list[tf.Tensor], fake: list[tf.Tensor], valid: tf.Tensor | None = None
) -> tf.Tensor:
    """The sum over a discriminator's inner layers of the mean absolute difference (Wang et al.
    2018, section 3.2).

    real, fake: maps (O, h, w, c) a layer; no gradient reaches the real side. valid: bool (O,).
    """
    total = 0.0
    for true, made in zip(real, fake):
        rows = tf.reduce_mean(tf.abs(tf.stop_gradient(true) - made), axis=[1, 2, 3])
        total += mean(rows, valid)
    return total


def hinge_discriminator(real: tf.Tensor, made: tf.Tensor) -> tf.Tensor:
    """Mean of max(0, 1 - score) of what is real and of max(0, 1 + score) of what is made."""
    return mean(tf.nn.relu(1.0 - real)) + mean(tf.nn.relu(1.0 + made))


def hinge_generator(made: tf.Tensor) -> tf.Tensor:
    """What the maker's side of the hinge loss is: higher scores for what it made."""
    return -mean(made)


def relative_difference(real: list[tf.Tensor], made: list[tf.Tensor]) -> tf.Tensor:
    """Mean over layers of mean |real - made| / mean |real|; no gradient reaches the real side."""
    shares = []
    for true, found in zip(map(tf.stop_gradient, real), made):
        size = replicas.total(mean(tf.abs(true)))
        shares.append(mean(tf.abs(true - found)) / tf.maximum(size, 1e-6))
    return tf.add_n(shares) / len(shares)
