"""What of a prepared set can still be read: every record against its checksums.

A record is left out alone, wherever its length can be trusted; else with the rest of its block,
since only the block index knows where the next one begins. Damage is looked for where it was met,
or where a user asks for it (`on_corrupt=skip`): reading it all takes as long as the disk takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dataloaders import records

_BUFFER = 1 << 18  # bytes


class Damage(NamedTuple):
    """Records of a shard that cannot be trusted."""

    shard: str  # path relative to the set's folder
    record: int  # number within the shard, from 0
    count: int  # how many in a row
    problem: str

    def __str__(self) -> str:
        last = f"-{self.record + self.count - 1}" if self.count > 1 else ""
        return f"{self.shard} record{'s' * bool(last)} {self.record}{last} ({self.problem})"


class Runs(NamedTuple):
    """R runs of consecutive records that can be read, none across a block's end, in file order."""

    block: np.ndarray  # int64 (R,)
    place: np.ndarray  # int64 (R,): of its first record in the split, damaged ones counted
    offset: np.ndarray  # int64 (R,): byte offset of its first record in the block's shard
    records: np.ndarray  # int64 (R,), never 0


def whole(index: records.BlockIndex) -> Runs:
    """Every block as one run."""
    sizes = index.block_records.astype(np.int64)
    return Runs(np.arange(len(sizes)), np.cumsum(sizes) - sizes, index.block_offset, sizes)


def intact(folder: str | Path, index: records.BlockIndex) -> tuple[Runs, list[Damage]]:
    """Reads all of a split: (what can be read, what cannot, [] if all can)."""
    runs = whole(index)
    readable = _readable(Path(folder), index)
    damages: list[Damage] = []
    rows: list[tuple[int, int, int, int]] = []
    for block in np.flatnonzero(readable != runs.records).tolist():
        shard = int(index.block_shard[block])
        name = str(index.shards[shard])
        # A shard's blocks follow each other: its first record's place is that of its first block.
        in_split = int(runs.place[block])
        in_shard = in_split - int(runs.place[np.argmax(index.block_shard == shard)])
        scan = _scan(Path(folder) / name, int(runs.offset[block]), int(runs.records[block]))
        for number, count, offset, problem in scan:
            if problem is None:
                rows.append((block, in_split + number, offset, count))
            else:
                damages.append(Damage(name, in_shard + number, count, problem))
    good = readable == runs.records
    parts = np.array(rows, np.int64).reshape(-1, 4).T
    columns = [np.concatenate([column[good], part]) for column, part in zip(runs, parts)]
    order = np.argsort(columns[1])
    return Runs(*(column[order] for column in columns)), damages


def verify(folder: str | Path, split: str) -> list[Damage]:
    """What of a split is damaged, [] if nothing. Raises UserError as records.read_index."""
    return intact(folder, records.read_index(folder, split))[1]


def read_run(file: tf.Tensor, offset: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """`count` records of a shard from a byte offset on. Only within a `flat_map`: TF 2.15 cannot
    make an iterator of this op itself."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=file[None], compression_type="", buffer_size=_BUFFER, byte_offsets=offset[None]
    )
    element = tf.TensorSpec([], tf.string)
    return tf.data.experimental.from_variant(variant, element).take(count)


def _count(file: tf.Tensor, offset: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """How many records from there on can be read, up to the first that cannot: int64 scalar."""
    run = tf.data.Dataset.from_tensors((file, offset, most)).flat_map(read_run)
    return run.ignore_errors().reduce(np.int64(0), lambda count, _: count + 1)


def _readable(folder: Path, index: records.BlockIndex) -> np.ndarray:
    """int64 (Bk,): how many records of each block come before the first that cannot be read."""
    files = tf.constant([str(folder / shard) for shard in index.shards.tolist()])
    columns = (
        np.arange(len(index.block_records)),
        tf.gather(files, index.block_shard),
        index.block_offset,
        index.block_records.astype(np.int64),
    )

    def numbers(block: tf.Tensor, *place: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(block).repeat(), read_run(*place)))

    # One stream: a dataset for each block would cost more than reading it. After an error the
    # stream goes on with the next block.
    blocks = tf.data.Dataset.from_tensor_slices(columns)
    read = blocks.flat_map(numbers).ignore_errors().map(lambda block, _: block).batch(1 << 14)
    counts = np.zeros(len(index.block_records), np.int64)
    for chunk in read.as_numpy_iterator():
        counts += np.bincount(chunk, minlength=len(counts))
    return counts


def _scan(path: Path, offset: int, total: int) -> Iterator[tuple[int, int, int, str | None]]:
    """The `total` records of a block at byte `offset` as runs of readable and of damaged ones:
    (number in the block of the run's first, how many, its offset, what is wrong or None)."""
    number = 0
    while number < total:
        start, count = offset, 0
        remaining = tf.constant(total - number, tf.int64)
        count = int(_count(tf.constant(str(path)), tf.constant(offset, tf.int64), remaining))
        if count:
            yield number, count, start, None
            number += count
            for _ in range(count):
                offset = records.next_offset(path, offset)
        if number == total:
            return
        following = records.next_offset(path, offset)
        if following is None:
            yield (
                number,
                total - number,
                offset,
                "the file ends, or a length is wrong, at byte " + (str(offset)),
            )
            return
        yield number, 1, offset, f"wrong checksum at byte {offset}"
        number, offset = number + 1, following
