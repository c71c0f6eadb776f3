"""Images as tensors: decoding, resizing and cropping, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

CHUNK = 8  # images decoded side by side where their number is not known beforehand


def decode_images(encoded: tf.Tensor, side: int, channels: int, kind: str) -> tf.Tensor:
    """Decode images: uint8 (n, side, side, channels). encoded: string (n,), of side x side pixels.
    kind: 'jpeg' or 'png'. InvalidArgumentError for one that is broken or of another size."""
    decode = {"jpeg": tf.io.decode_jpeg, "png": tf.io.decode_png}[kind]

    def stack(strings: tf.Tensor) -> tf.Tensor:
        # Unrolled: independent ops run on all cores, and cost no map call each.
        images = [decode(s, channels=channels) for s in tf.unstack(strings)]
        return tf.stack([tf.ensure_shape(i, [side, side, channels]) for i in images])

    if encoded.shape[0] is not None:
        return stack(encoded)
    spec = tf.TensorSpec([CHUNK, side, side, channels], tf.uint8)
    return _in_chunks(stack, encoded, spec)


def read_pictures(paths: tf.Tensor, side: int, channels: int) -> tf.Tensor:
    """Read JPEG files, resized with antialiasing, aspect not kept: uint8 (n, side, side,
    channels). paths: string (n,). InvalidArgumentError for one that is broken."""

    def read(path: tf.Tensor) -> tf.Tensor:
        picture = tf.io.decode_jpeg(tf.io.read_file(path), channels=channels)
        return to_uint8(tf.image.resize(picture, [side, side], antialias=True))

    spec = tf.TensorSpec([side, side, channels], tf.uint8)
    return tf.map_fn(read, paths, fn_output_signature=spec, parallel_iterations=CHUNK)


def resize_images(images: tf.Tensor, side: int) -> tf.Tensor:
    """Resize images with antialiasing: uint8 (n, S, S, c) to (n, side, side, c)."""
    if images.shape[1] == side:
        return images
    return to_uint8(tf.image.resize(images, [side, side], antialias=True))


def crop_images(images: tf.Tensor, boxes: tf.Tensor, obj_to_img: tf.Tensor, side: int) -> tf.Tensor:
    """Cut boxes from images, bilinearly: uint8 (O, side, side, 3). images: uint8 (N, S, S, 3).

    boxes: float32 (O, 4). obj_to_img: int32 (O,). First and last sample of an axis lie on the
    box's borders, pixel centres at 0 and S - 1, no antialiasing: as preparation cuts the crops that
    negatives come from, or a model could tell them apart by their sharpness. (What differs still:
    a negative was stored as a JPEG of its own, a positive within that of its photograph.)
    """
    corners = tf.gather(tf.clip_by_value(boxes, 0.0, 1.0), [1, 0, 3, 2], axis=1)

    def cut(chunk: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return to_uint8(tf.image.crop_and_resize(images, *chunk, [side, side]))

    # In chunks of known size: for an unknown number of boxes TensorFlow 2.15 writes a line about
    # its cost estimate to stderr, past all logging.
    return _in_chunks(cut, (corners, obj_to_img), tf.TensorSpec([CHUNK, side, side, 3], tf.uint8))


def _in_chunks(function: Callable[[Any], tf.Tensor], inputs: Any, spec: tf.TensorSpec) -> tf.Tensor:
    """Apply `function` to CHUNK rows at a time: (n, ...). inputs: tensors (n, ...), n > 0. spec: of
    the function's result, (CHUNK, ...)."""
    count = tf.shape(tf.nest.flatten(inputs)[0])[0]
    chunks = -(-count // CHUNK)
    rows = tf.minimum(tf.range(chunks * CHUNK), count - 1)  # the last chunk repeats the last row

    def chunked(tensor: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.gather(tensor, rows), [chunks, CHUNK, *tensor.shape[1:]])

    results = tf.map_fn(
        function,
        tf.nest.map_structure(chunked, inputs),
        fn_output_signature=spec,
        parallel_iterations=4,
    )
    return tf.reshape(results, [-1, *spec.shape[1:]])[:count]


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Round float32 in [0, 255] to uint8."""
    return tf.cast(images + 0.5, tf.uint8)
