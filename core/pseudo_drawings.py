"""Drawings made of photographs alone: their strongest edges as lines on white paper.

They stand for drawings in training where nobody has drawn a photograph. How many edges are kept is
drawn anew each time, as people leave out more or less.
"""

from __future__ import annotations

import math

import numpy as np
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
    grey = tf.image.rgb_to_grayscale(tf.cast(images, tf.float32) / 255.0)[..., 0]
    side = images.shape[1]
    deviation = SMOOTHING * side
    radius = math.ceil(3.0 * deviation)
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    bell = _filter(side, bell / bell.sum())
    along, across = (  # Sobel's
        tf.constant(_filter(side, taps) @ bell, tf.float32)
        for taps in ([-0.5, 0.0, 0.5], [0.25, 0.5, 0.25])
    )
    down = along @ tf.matmul(grey, across, transpose_b=True)  # (N, S, S)
    right = across @ tf.matmul(grey, along, transpose_b=True)
    size = tf.sqrt(down**2 + right**2)
    eighth = tf.round(tf.atan2(down, right) * (4.0 / math.pi))
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


def _filter(side: int, taps: np.ndarray | list[float]) -> np.ndarray:
    """Return the matrix (side, side) that filters a row of pixels, mirrored at the borders, which
    are no edges. Products with them take a seventh of convolutions with one channel."""
    radius = len(taps) // 2
    sources = np.pad(np.arange(side), radius, "symmetric")
    matrix = np.zeros((side, side))
    for i, tap in enumerate(taps):
        np.add.at(matrix, (np.arange(side), sources[i : i + side]), tap)
    return matrix


def _neighbours(values: tf.Tensor, dy: int, dx: int) -> tf.Tensor:
    """Return for each pixel of (N, S, S) the value `dy` rows below and `dx` columns right of it, 0
    beyond the border."""
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1]])
    side = values.shape[1]
    return padded[:, 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
