"""What lies in a prepared set: records, block index, meta.json. Preparation writes with this
module and the loaders read with it; nothing else knows the keys.

A set is a folder (see docs/data_formats.md):

    meta.json                                   written last: its presence means complete
    <split>/<name>-00000-of-00005.tfrecord      uncompressed TFRecord
    <split>.index.npz                           where every block of 64 records begins

Letters: n records, N scenes, O objects of these scenes together, M mask side (meta `mask_size`).
Boxes are `[x0, y0, x1, y1]` in [0, 1] of the image.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.errors import UserError
from core.files import write_arrays

SCHEMA = 2  # raised whenever a key or its meaning changes; loaders refuse other schemas
BLOCK = 64  # records of a block: the unit in which loaders read
SPLITS = ("train", "valid", "test")
KINDS = ("quickdraw", "quickdraw-indexed", "coco-scenes", "coco-crops", "sketchycoco-scenes")

REMEDY = "delete it and run the preparation again, which makes this part anew"
_HEADER = struct.Struct("<QI")  # TFRecord framing: length, its crc, data, crc of the data
_FOOTER_BYTES = 4


# ---- records ---------------------------------------------------------------------------------


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


# ---- block index -----------------------------------------------------------------------------


class BlockIndex(NamedTuple):
    """Where the blocks of one split lie: S shards, C classes, Bk blocks. A block is a run of at
    most BLOCK consecutive records of one shard; all shards' blocks follow in shard order."""

    shards: np.ndarray  # unicode (S,): paths relative to the set's folder
    shard_bytes: np.ndarray  # int64 (S,)
    classes: np.ndarray  # unicode (C,): class names of a grouped set, C = 0 otherwise
    block_shard: np.ndarray  # int32 (Bk,): index into shards
    block_offset: np.ndarray  # int64 (Bk,): byte offset of the block's first record in its shard
    block_records: np.ndarray  # int32 (Bk,): 1..BLOCK
    block_class: np.ndarray  # int32 (Bk,): index into classes, -1 in an ungrouped set


def record_offsets(shard: Path) -> Iterator[int]:
    """Byte offset of every record of a shard, from the framing alone (checksums not looked at).

    Raises UserError when the shard ends within a record.
    """
    size = shard.stat().st_size
    # Read, not mapped: a mapping counts as this process's memory, up to the size of a shard.
    with shard.open("rb", buffering=0) as file:
        offset = 0
        while offset < size:
            whole = offset + _HEADER.size + _FOOTER_BYTES <= size
            end = offset + _HEADER.size + _FOOTER_BYTES
            if whole:
                end += _HEADER.unpack(os.pread(file.fileno(), _HEADER.size, offset))[0]
            if not whole or end > size:
                raise UserError(
                    f"{shard} ends within a record (byte {offset} of {size}): it is truncated or "
                    f"damaged: {REMEDY}"
                )
            yield offset
            offset = end


def write_index(
    folder: Path,
    split: str,
    shards: Sequence[str],
    classes: Sequence[str] = (),
    shard_classes: Sequence[int] | None = None,
) -> BlockIndex:
    """Walks the finished shards (paths relative to `folder`) and writes `<split>.index.npz`.

    classes: class names of a grouped set; shard_classes: for every shard its index into them.
    """
    block_shard, block_offset, block_records, block_class = [], [], [], []
    for s, shard in enumerate(shards):
        for i, offset in enumerate(record_offsets(folder / shard)):
            if i % BLOCK == 0:
                block_shard.append(s)
                block_offset.append(offset)
                block_records.append(0)
                block_class.append(-1 if shard_classes is None else shard_classes[s])
            block_records[-1] += 1
    index = BlockIndex(
        shards=np.array(list(shards), dtype=np.str_),
        shard_bytes=np.array([(folder / s).stat().st_size for s in shards], np.int64),
        classes=np.array(list(classes), dtype=np.str_),
        block_shard=np.array(block_shard, np.int32),
        block_offset=np.array(block_offset, np.int64),
        block_records=np.array(block_records, np.int32),
        block_class=np.array(block_class, np.int32),
    )
    write_arrays(folder / f"{split}.index.npz", index._asdict())
    return index


def read_index(folder: str | Path, split: str) -> BlockIndex:
    """Read `<split>.index.npz` and check that every shard is there with its recorded size.

    UserError naming the file that is missing, unreadable or of another size.
    """
    folder = Path(folder)
    path = folder / f"{split}.index.npz"
    if not path.is_file():
        raise UserError(f"{path} is missing: the set has no split {split!r}; prepare it again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = BlockIndex(*(arrays[name] for name in BlockIndex._fields))
    except Exception as error:  # a damaged zip shows as any of half a dozen types
        raise UserError(f"{path} cannot be read ({error}): {REMEDY}") from error
    for shard, expected in zip(index.shards.tolist(), index.shard_bytes.tolist()):
        file = folder / shard
        if not file.is_file():
            raise UserError(f"{file} is missing: run the preparation again, which makes it anew")
        size = file.stat().st_size
        if size != expected:
            raise UserError(f"{file} has {size} bytes where its index says {expected}: {REMEDY}")
    return index


# ---- meta.json -------------------------------------------------------------------------------


# What loaders read of meta.json: lists of names and numbers. The other keys are for people.
_COCO_NAMES = ("obj_idx_to_name", "concrete_objs")
_READ_NAMES = {
    "quickdraw": ("coco_classes",),
    "quickdraw-indexed": ("coco_classes",),
    "coco-scenes": _COCO_NAMES,
    "coco-crops": _COCO_NAMES,
    "sketchycoco-scenes": _COCO_NAMES,
}
_MOST_PIXELS = 4096  # a side
_READ_NUMBERS = {
    "coco-scenes": ("mask_size",),
    "coco-crops": ("mask_size",),
    "sketchycoco-scenes": ("mask_size", "crop_size"),
}


def read_meta(folder: str | Path, kind: str | Sequence[str]) -> dict[str, Any]:
    """Reads and checks the `meta.json` of a complete set.

    kind: the kind(s) the caller can read, of KINDS.
    Raises UserError when the folder is missing, the set is not complete, of another kind or of
    another schema, or a key that loaders read is missing or ill-typed.
    """
    folder = Path(folder)
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    wanted = " or ".join(kinds)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: a prepared {wanted} set was expected there")
    path = folder / "meta.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no meta.json: it is not a prepared {wanted} set, or its preparation "
            "was not finished (run the same prep_data command again)"
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the set again") from error
    if not isinstance(meta, dict) or "kind" not in meta or "schema" not in meta:
        raise UserError(f"{path} does not describe a prepared set; prepare the set again")
    if meta["kind"] not in kinds:
        kind = meta["kind"] if meta["kind"] in KINDS else repr(meta["kind"])[:40]
        raise UserError(f"{folder} is a {kind} set where a {wanted} set was expected")
    if meta["schema"] != SCHEMA:
        raise UserError(
            f"{folder} was prepared with schema {meta['schema']!r:.40}, this version reads schema "
            f"{SCHEMA}: prepare the set again"
        )
    bad = [key for key in _READ_NAMES[meta["kind"]] if not _is_names(meta.get(key))]
    bad += [
        key
        for key in _READ_NUMBERS.get(meta["kind"], ())
        if type(meta.get(key)) is not int or not 0 < meta[key] <= _MOST_PIXELS
    ]
    if not bad and _is_coco(meta) and not _are_ids(meta.get("obj_idx_to_ID"), meta):
        bad.append("obj_idx_to_ID")
    if meta["kind"] == "quickdraw" and not _are_drawings(meta.get("drawings")):
        bad.append("drawings")
    if bad:
        raise UserError(
            f"{path} was edited or damaged: {bad[0]!r} is missing or of another type; "
            "prepare the set again"
        )
    return meta


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_ids(value: Any, meta: Mapping[str, Any]) -> bool:
    ids = isinstance(value, list) and all(type(each) is int and 0 <= each < 2**31 for each in value)
    return ids and len(value) == len(meta["obj_idx_to_name"])


def _are_drawings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(each), dict) for each in SPLITS)


def check_same_vocabulary(metas: Mapping[str | Path, Mapping[str, Any]]) -> None:
    """metas: folder -> meta.json of the sets that are to be used together.

    COCO sets must have one vocabulary (`obj_idx_to_name`), sketch sets one `coco_classes`; they
    are joined by name, so a sketch set and a COCO set need at least one class in common.
    Raises UserError naming the first difference and both folders.
    """
    coco = [(folder, meta["obj_idx_to_name"]) for folder, meta in metas.items() if _is_coco(meta)]
    sketch = [
        (folder, meta["coco_classes"]) for folder, meta in metas.items() if not _is_coco(meta)
    ]
    for group in (coco, sketch):
        for folder, names in group[1:]:
            _check_equal(group[0][0], group[0][1], folder, names)
    if coco and sketch and not set(coco[0][1]) & set(sketch[0][1]):
        raise UserError(
            f"the sketches of {sketch[0][0]} and the photographs of {coco[0][0]} have no class in "
            "common: prepare both from matching sources"
        )


def _is_coco(meta: Mapping[str, Any]) -> bool:
    return not meta["kind"].startswith("quickdraw")


def _check_equal(
    folder_a: str | Path,
    names_a: Sequence[str],
    folder_b: str | Path,
    names_b: Sequence[str],
) -> None:
    if list(names_a) == list(names_b):
        return
    shorter = min(len(names_a), len(names_b))
    first = next((i for i in range(shorter) if names_a[i] != names_b[i]), shorter)
    at_a, at_b = (
        repr(names[first]) if first < len(names) else "nothing" for names in (names_a, names_b)
    )
    raise UserError(
        f"the vocabularies of {folder_a} ({len(names_a)} names) and {folder_b} ({len(names_b)} "
        f"names) differ: index {first} is {at_a} in the first and {at_b} in the second; prepare "
        "both from the same annotation files"
    )
