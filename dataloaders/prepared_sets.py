"""Prepared sets as folders: meta.json and the block index, without TensorFlow. Preparation writes
with this module and with `dataloaders.records`, and the loaders read with them.

    meta.json                                   written last: its presence means complete
    <split>/<name>-00000-of-00005.tfrecord      uncompressed TFRecord
    <split>.index.npz                           where every block of 64 records begins

docs/data_formats.md lists all keys.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from core.dataset import Vocabulary
from core.errors import UserError, file_error
from core.files import open_npz, read_utf8, write_arrays
from dataloaders.scene_graph import PREDICATES

FILES = ("meta.json", "*.index.npz", "*/*.tfrecord")  # patterns of all that a set is made of
SCHEMA = 2  # raised whenever a key or its meaning changes; loaders refuse other schemas
BLOCK = 64  # records of a block: the unit in which loaders read
REMEDY = "delete it and run the preparation again, which makes this part anew"
CACHE = "features-"  # folders of features begin with it (`dataloaders.feature_cache`)
_HEADER = struct.Struct("<QI")  # TFRecord framing: length, its crc, data, crc of the data
_FOOTER_BYTES = 4


def remedy(shard: Path) -> str:
    """Return what to do about a damaged shard."""
    cache = shard.parents[1]
    return f"delete {cache}, and it is made anew" if cache.name.startswith(CACHE) else REMEDY


# ---- meta.json -------------------------------------------------------------------------------


class SketchSetMeta(msgspec.Struct):
    """The keys of a sketch set's meta.json that loaders read; the others are for people."""

    coco_classes: list[str]  # classes that `coco_class` of records indexes
    drawings: dict[str, dict[str, int]]  # split -> COCO class -> number of sketches

    @property
    def vocabulary(self) -> Vocabulary:
        """The set's own classes, all of them objects."""
        return Vocabulary(tuple(self.coco_classes), objects=tuple(range(len(self.coco_classes))))


class PhotoSetMeta(msgspec.Struct):
    """The keys of the meta.json of a set of scenes or crops that loaders read."""

    obj_idx_to_name: list[str]  # K names
    obj_idx_to_id: list[int] = msgspec.field(name="obj_idx_to_ID")  # K category ids of COCO-Stuff
    concrete_objs: list[str]  # names of the classes that can be objects
    mask_size: int  # M, pixels a side
    crop_size: int  # pixels a side

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that labels of the set's records index."""
        names = tuple(self.obj_idx_to_name)
        objects = tuple(k for k, name in enumerate(names) if name in set(self.concrete_objs))
        return Vocabulary(names, PREDICATES, objects, tuple(self.obj_idx_to_id))


class _Heading(msgspec.Struct):
    kind: str
    schema: int


_KINDS = {
    "quickdraw": SketchSetMeta,
    "quickdraw-indexed": SketchSetMeta,
    "coco-scenes": PhotoSetMeta,
    "coco-crops": PhotoSetMeta,
    "sketchycoco-scenes": PhotoSetMeta,
}


def read_meta(folder: str | Path, *kinds: str) -> SketchSetMeta | PhotoSetMeta:
    """Read the `meta.json` of a complete set of one of these kinds.

    UserError when the folder is missing, the set is not complete, of another kind or schema, or
    the file is damaged.
    """
    folder = Path(folder)
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
        content = read_utf8(path)
        heading = msgspec.json.decode(content, type=_Heading)
        if heading.kind not in kinds:
            raise UserError(f"{folder} is a {heading.kind} set where a {wanted} set was expected")
        if heading.schema != SCHEMA:
            raise UserError(
                f"{folder} was prepared with schema {heading.schema}, this version reads schema "
                f"{SCHEMA}: prepare the set again"
            )
        return msgspec.json.decode(content, type=_KINDS[heading.kind])
    except OSError as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the set again") from error


def check_same_vocabulary(metas: Mapping[str, SketchSetMeta | PhotoSetMeta]) -> None:
    """Check that sets that are used together name their classes alike. metas: by folder.

    Sets of photographs need one vocabulary, sets of sketches one list of classes; the two kinds
    are joined by class name and need at least one in common. UserError names both folders.
    """
    names = {folder: meta.vocabulary.names for folder, meta in metas.items()}
    photos = [folder for folder, meta in metas.items() if isinstance(meta, PhotoSetMeta)]
    sketches = [folder for folder in metas if folder not in photos]
    for folders in (photos, sketches):
        for folder in folders[1:]:
            _check_equal(folders[0], names[folders[0]], folder, names[folder])
    if photos and sketches and not set(names[photos[0]]) & set(names[sketches[0]]):
        raise UserError(
            f"the sketches of {sketches[0]} and the photographs of {photos[0]} have no class in "
            "common: prepare both from matching sources"
        )


def _check_equal(
    folder_a: str, names_a: Sequence[str], folder_b: str, names_b: Sequence[str]
) -> None:
    if names_a == names_b:
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


# ---- block index -----------------------------------------------------------------------------


class BlockIndex(NamedTuple):
    """The places of one split's blocks: S shards, C classes, Bk blocks. A block is a run of at most
    BLOCK consecutive records of one shard. Blocks are in the order of the shards."""

    shards: np.ndarray  # unicode (S,): paths relative to the set's folder
    shard_bytes: np.ndarray  # int64 (S,)
    classes: np.ndarray  # unicode (C,): class names of a grouped set, C = 0 otherwise
    block_shard: np.ndarray  # int32 (Bk,): index into shards
    block_offset: np.ndarray  # int64 (Bk,): byte offset of the block's first record in its shard
    block_records: np.ndarray  # int32 (Bk,): 1..BLOCK
    block_class: np.ndarray  # int32 (Bk,): index into classes, -1 in an ungrouped set


def record_offsets(shard: Path) -> Iterator[int]:
    """Yield the byte offset of every record of a shard, from the framing alone (checksums are not
    looked at). UserError when the shard ends within a record."""
    size = shard.stat().st_size
    # Read, not mapped: a mapping counts as this process's memory, up to the size of a shard.
    with shard.open("rb", buffering=0) as file:
        offset = 0
        while offset < size:
            header = os.pread(file.fileno(), _HEADER.size, offset)
            end = offset + _HEADER.size + _FOOTER_BYTES
            if len(header) == _HEADER.size:
                end += _HEADER.unpack(header)[0]
            if end > size:
                raise UserError(f"{shard} ends within a record (byte {offset} of {size}): {REMEDY}")
            yield offset
            offset = end


def read_record(shard: Path, offset: int, size: int | None = None) -> bytes:
    """Return the record that begins at a byte of a shard (checksums are not looked at). ValueError
    when it has not the size that it should have, in bytes."""
    with shard.open("rb", buffering=0) as file:
        found = int.from_bytes(os.pread(file.fileno(), 8, offset), "little")
        if size not in (None, found):
            raise ValueError(f"{shard} has no record of {size} bytes at {offset}")
        return os.pread(file.fileno(), found, offset + _HEADER.size)


def write_index(
    folder: Path,
    split: str,
    shards: Sequence[str],
    classes: Sequence[str] = (),
    shard_classes: Sequence[int] | None = None,
) -> BlockIndex:
    """Walk the finished shards (paths relative to `folder`) and write `<split>.index.npz`.

    classes: class names of a grouped set; shard_classes: for every shard its index into them.
    """
    blocks: list[list[int]] = []  # of each its shard, offset, records and class
    for s, name in enumerate(shards):
        for i, offset in enumerate(record_offsets(folder / name)):
            if i % BLOCK == 0:
                blocks.append([s, offset, 0, shard_classes[s] if shard_classes else -1])
            blocks[-1][2] += 1
    shard, offset, count, class_ = np.array(blocks, np.int64).reshape(-1, 4).T
    index = BlockIndex(
        shards=np.array(list(shards), dtype=np.str_),
        shard_bytes=np.array([(folder / s).stat().st_size for s in shards], np.int64),
        classes=np.array(list(classes), dtype=np.str_),
        block_shard=shard.astype(np.int32),
        block_offset=offset.copy(),
        block_records=count.astype(np.int32),
        block_class=class_.astype(np.int32),
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
    with open_npz(path, "an index", REMEDY) as file:
        index = BlockIndex(*(file.array(name) for name in BlockIndex._fields))
    for shard, expected in zip(index.shards.tolist(), index.shard_bytes.tolist()):
        file = folder / shard
        if not file.is_file():
            raise UserError(f"{file} is missing: run the preparation again, which makes it anew")
        size = file.stat().st_size
        if size != expected:
            raise UserError(f"{file} has {size} bytes where its index says {expected}: {REMEDY}")
    return index
