"""Drawings made of photographs alone: their strongest edges as lines on white paper.

They stand for drawings in training where nobody has drawn a photograph. How many edges are kept is
drawn anew each time, as people leave out more or less.
"""

from __future__ import annotations

import math

import tensorflow as tf

from core import replicas

LEAST, MOST = 0.01, 0.06  # of all pixels: the share that thin lines take
FAINTEST = 0.04  # contrast of an edge, of that of black and white: below it lies JPEG's noise
SMOOTHING = PEN = 1 / 80  # of a side: the standard deviation of smoothing, the width of lines


def pseudo_drawings(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return a drawing of each image's strongest edges: uint8 (N, S, S, 1), 255 = paper, 0 = line.

    images: uint8 (N, S, S, 3). seed: int32 (2,), from which the share of pixels that lines may take
    is drawn for each image, evenly over the logarithm of `LEAST` to `MOST`.
    """
    count = replicas.count() * tf.shape(images)[0]  # drawn for the global batch
    exponents = tf.random.stateless_uniform([count], seed, math.log(LEAST), math.log(MOST))
    thin = strongest(edges(images), replicas.replica_rows(tf.exp(exponents)))
    pen = max(1, round(PEN * images.shape[1]))
    broad = tf.nn.max_pool2d(tf.cast(thin, tf.float32), pen, strides=1, padding="SAME")
    return tf.cast(255.0 * (1.0 - broad), tf.uint8)


def edges(images: tf.Tensor) -> tf.Tensor:
    """Return the contrast of each pixel on an edge, 0 elsewhere: float32 (N, S, S, 1), edges one
    pixel thin. A lone step from black to white has about 1.

    Gaussian smoothing, Sobel gradients and, as Canny (1986) has it, only those that are largest
    along their own direction. images: uint8 (N, S, S, 3).
    """
    grey = tf.image.rgb_to_grayscale(tf.cast(images, tf.float32) / 255.0)
    deviation = SMOOTHING * images.shape[1]
    slope = tf.image.sobel_edges(_smooth(grey, deviation))[..., 0, :] / 8.0  # (N, S, S, 2): y, x
    size = tf.norm(slope, axis=-1)
    eighth = tf.round(tf.atan2(slope[..., 0], slope[..., 1]) * (4.0 / math.pi))
    eighth = tf.cast(eighth, tf.int32) % 4  # the two ends of a direction are one
    largest = tf.zeros_like(size, tf.bool)
    for direction, (dy, dx) in enumerate([(0, 1), (1, 1), (1, 0), (1, -1)]):
        # Of two equal neighbours, as at both sides of a sharp step, one remains.
        peak = (size > _neighbours(size, dy, dx)) & (size >= _neighbours(size, -dy, -dx))
        largest |= (eighth == direction) & peak
    contrast = size * (math.sqrt(2.0 * math.pi) * deviation)
    return tf.where(largest, contrast, 0.0)[..., None]


def strongest(contrast: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Return which edges an image keeps: bool (N, S, S, 1). None below `FAINTEST`.

    contrast: of `edges`. shares: float32 (N,) in [0, `MOST`], of all pixels; equal edges are kept
    together.
    """
    pixels = contrast.shape[1] * contrast.shape[2]
    flat = tf.reshape(contrast, [-1, pixels])
    ranked = tf.math.top_k(flat, int(MOST * pixels) + 1).values
    thresholds = tf.gather(ranked, tf.cast(shares * pixels, tf.int32), batch_dims=1)
    return contrast >= tf.maximum(thresholds, FAINTEST)[:, None, None, None]


def _smooth(grey: tf.Tensor, deviation: float) -> tf.Tensor:
    radius = math.ceil(3.0 * deviation)
    taps = tf.exp(-0.5 * (tf.range(-radius, radius + 1, dtype=tf.float32) / deviation) ** 2)
    taps = (taps / tf.reduce_sum(taps))[:, None, None, None]
    # Mirrored at the borders, which are no edges.
    padded = tf.pad(grey, [[0, 0], [radius, radius], [radius, radius], [0, 0]], "SYMMETRIC")
    columns = tf.nn.conv2d(padded, taps, strides=1, padding="VALID")
    return tf.nn.conv2d(columns, tf.transpose(taps, [1, 0, 2, 3]), strides=1, padding="VALID")


def _neighbours(values: tf.Tensor, dy: int, dx: int) -> tf.Tensor:
    """Return for each pixel of (N, S, S) the value `dy` rows below and `dx` columns right of it, 0
    beyond the border."""
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1]])
    side = values.shape[1]
    return padded[:, 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
