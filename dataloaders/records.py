"""The records of prepared sets: their keys, how they are written and how they are read. Preparation
encodes with this module and the loaders parse with it; nothing else knows the keys.

Letters: n records, N scenes, O objects of these scenes together, M mask side (meta `mask_size`).
Boxes are `[x0, y0, x1, y1]` in [0, 1] of the image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from core.errors import file_error
from core.files import atomic_file

FRAMING = 16  # bytes of a TFRecord besides its data: 12 before, 4 after


@contextlib.contextmanager
def new_shard(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes a serialized record; the file appears when the block ends
    without an error. UserError when it cannot be written."""
    size = 0

    def write(record: bytes) -> None:
        nonlocal size
        with _disk_errors():
            writer.write(record)
        size += len(record) + FRAMING

    with atomic_file(path) as temporary:
        with _disk_errors():
            writer = tf.io.TFRecordWriter(str(temporary))
        try:
            yield write
        except BaseException:
            with contextlib.suppress(Exception):  # the disk may be full: closing fails again
                writer.close()
            raise
        with _disk_errors():
            writer.close()
        if temporary.stat().st_size != size:  # not every failed write raises
            raise OSError("the file came out too short, as on a full disk")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn TensorFlow's errors of a file into OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(file_error(error)) from error


def _bytes(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _ints(values: Iterable[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _floats(values: Iterable[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _example(**features: tf.train.Feature) -> bytes:
    # Deterministic: protobuf may otherwise order the keys of a map by a hash seed.
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def with_image(serialized: bytes, image: bytes) -> bytes:
    """Return a serialized record with other content of its key `image`."""
    example = tf.train.Example.FromString(serialized)
    example.features.feature["image"].bytes_list.value[:] = [image]
    return example.SerializeToString(deterministic=True)


_SCALAR_INT = tf.io.FixedLenFeature([], tf.int64)
_SCALAR_BYTES = tf.io.FixedLenFeature([], tf.string)


class Sketches(NamedTuple):
    """n sketch records."""

    image: tf.Tensor  # string (n,): PNG, 1 channel, white ground, black line
    coco_class: tf.Tensor  # int64 (n,): index into the set's meta `coco_classes`
    sketch_class: tf.Tensor  # int64 (n,): index into the set's meta `sketch_classes`


class SketchRecord:
    """One drawing of a `quickdraw` or `quickdraw-indexed` set."""

    @staticmethod
    def encode(image: bytes, coco_class: int, sketch_class: int) -> bytes:
        """image: PNG bytes. Returns the serialized example."""
        return _example(
            image=_bytes(image), coco_class=_ints([coco_class]), sketch_class=_ints([sketch_class])
        )

    @staticmethod
    def parse(serialized: tf.Tensor) -> Sketches:
        """serialized: string (n,)."""
        return Sketches(
            **tf.io.parse_example(
                serialized,
                {"image": _SCALAR_BYTES, "coco_class": _SCALAR_INT, "sketch_class": _SCALAR_INT},
            )
        )


class Crops(NamedTuple):
    """n crop records."""

    image: tf.Tensor  # string (n,): JPEG, RGB, crop_size x crop_size
    obj_idx: tf.Tensor  # int64 (n,): vocabulary index
    image_id: tf.Tensor  # int64 (n,): the photograph it was cut from
    annotation_id: tf.Tensor  # int64 (n,)


class CropRecord:
    """One object cut from a photograph, of a `coco-crops` set."""

    @staticmethod
    def encode(image: bytes, obj_idx: int, image_id: int, annotation_id: int) -> bytes:
        """image: JPEG bytes. Returns the serialized example."""
        return _example(
            image=_bytes(image),
            obj_idx=_ints([obj_idx]),
            image_id=_ints([image_id]),
            annotation_id=_ints([annotation_id]),
        )

    @staticmethod
    def parse(serialized: tf.Tensor) -> Crops:
        """serialized: string (n,)."""
        return Crops(
            **tf.io.parse_example(
                serialized,
                {
                    "image": _SCALAR_BYTES,
                    "obj_idx": _SCALAR_INT,
                    "image_id": _SCALAR_INT,
                    "annotation_id": _SCALAR_INT,
                },
            )
        )


class Scenes(NamedTuple):
    """N scene records; the ragged ones have one row a scene (row_splits int64)."""

    image: tf.Tensor  # string (N,): JPEG, RGB, image_size x image_size
    image_id: tf.Tensor  # int64 (N,)
    obj_idx: tf.RaggedTensor  # int64 (N, objects): vocabulary index
    boxes: tf.RaggedTensor  # float32 (N, objects, 4)
    masks: tf.Tensor  # string (N,): packed masks of the scene's objects, for unpack_masks
    annotation_ids: tf.RaggedTensor  # int64 (N, objects)
    stuff_idx: tf.RaggedTensor  # int64 (N, stuffs): vocabulary index of background stuff
    stuff_boxes: tf.RaggedTensor  # float32 (N, stuffs, 4)
    stuff_masks: tf.Tensor  # string (N,): packed
    # string (N, objects): PNG of each object as in Sketches; rows of `coco-scenes` are empty
    sketches: tf.RaggedTensor


class SceneRecord:
    """One photograph of a `coco-scenes` set with its objects and its background stuff; in a
    `sketchycoco-scenes` set with a sketch of each object."""

    @staticmethod
    def encode(
        image: bytes,
        image_id: int,
        obj_idx: Sequence[int],
        boxes: Iterable[float],
        masks: bytes,
        annotation_ids: Sequence[int],
        stuff_idx: Sequence[int],
        stuff_boxes: Iterable[float],
        stuff_masks: bytes,
        sketches: Sequence[bytes] | None = None,
    ) -> bytes:
        """image: JPEG bytes; boxes: 4n floats, object by object; masks: pack_masks of (n, M, M);
        sketches: n PNGs of a paired scene. Returns the serialized example."""
        for what, parts in (("sketches", sketches), ("annotation ids", annotation_ids)):
            if parts is not None and len(parts) != len(obj_idx):
                raise ValueError(f"{len(parts)} {what} of {len(obj_idx)} objects")
        paired = {} if sketches is None else {"sketches": _bytes(*sketches)}
        return _example(
            image=_bytes(image),
            image_id=_ints([image_id]),
            obj_idx=_ints(obj_idx),
            boxes=_floats(boxes),
            masks=_bytes(masks),
            annotation_ids=_ints(annotation_ids),
            stuff_idx=_ints(stuff_idx),
            stuff_boxes=_floats(stuff_boxes),
            stuff_masks=_bytes(stuff_masks),
            **paired,
        )

    @staticmethod
    def parse(serialized: tf.Tensor) -> Scenes:
        """serialized: string (N,)."""

        def ragged(dtype: tf.DType) -> tf.io.RaggedFeature:
            return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)

        fields = tf.io.parse_example(
            serialized,
            {
                "image": _SCALAR_BYTES,
                "image_id": _SCALAR_INT,
                "obj_idx": ragged(tf.int64),
                "boxes": ragged(tf.float32),
                "masks": _SCALAR_BYTES,
                "annotation_ids": ragged(tf.int64),
                "stuff_idx": ragged(tf.int64),
                "stuff_boxes": ragged(tf.float32),
                "stuff_masks": _SCALAR_BYTES,
                "sketches": ragged(tf.string),
            },
        )
        for boxes, rows in (("boxes", "obj_idx"), ("stuff_boxes", "stuff_idx")):
            fields[boxes] = fields[rows].with_flat_values(
                tf.reshape(fields[boxes].flat_values, [-1, 4])
            )
        return Scenes(**fields)


def pack_masks(masks: np.ndarray) -> bytes:
    """masks: uint8 or bool 0/1 (n, M, M), M*M divisible by 8. Returns n*M*M/8 bytes, row-major,
    first pixel in the highest bit."""
    return np.packbits(np.asarray(masks, np.uint8).reshape(-1)).tobytes()


def unpack_masks(packed: tf.Tensor, side: int) -> tf.Tensor:
    """packed: string (N,), of each scene the packed masks of its objects; side: M.
    Returns uint8 0/1 (O, M, M), the scenes' objects one after the other."""
    joined = tf.io.decode_raw(tf.strings.reduce_join(packed), tf.uint8)  # (O*M*M/8,)
    shifts = tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)
    bits = tf.bitwise.right_shift(joined[:, None], shifts) & tf.constant(1, tf.uint8)
    return tf.reshape(bits, [-1, side, side])
