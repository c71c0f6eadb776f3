"""Reading prepared sets: splits, blocks of records, and the pools that windows of steps draw from.

Training goes in windows of WINDOW steps. For a window a pool of serialized records is read, whole
blocks at a time, and all steps of the window draw from it. So a resumed run reads one window, not
everything before it, and what is in memory is bounded by a window, not by the set. Everything is
vectorised per batch: a dataset or a map call for each record would cost more than decoding it.

Letters: P records in a pool, Bk blocks, n blocks or records asked for. Which blocks and rows a step
meets are functions of (seed, step).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.errors import EmptySplitError, UserError, file_error
from dataloaders import prepared_sets, random_draws

WINDOW = prepared_sets.BLOCK  # steps of a window: a window reads exactly batch_size blocks
# `reading_errors_explained` knows the error of `window_rows` by this.
_NONE_USABLE = "in a row have no usable class: the set must be in random order"


class PreparedSplit:
    """One split of a prepared set."""

    def __init__(self, folder: Path, split: str) -> None:
        """Read the split's index. UserError when it, or a shard, is missing or cut short."""
        self.folder, self.split = folder, split
        self.index = prepared_sets.read_index(folder, split)
        self.num_blocks = len(self.index.block_records)
        self.num_records = int(self.index.block_records.sum())
        if not self.num_records:
            raise EmptySplitError(
                f"the {split} split of {folder} is empty; prepare it from more data"
            )
        self._files = tf.constant([str(folder / shard) for shard in self.index.shards.tolist()])

    def read(self, blocks: tf.Tensor) -> tf.Tensor:
        """Return the records of some blocks, in the order given: string (P,). blocks: int32 (n,),
        n > 0."""
        index = self.index
        counts = tf.gather(index.block_records.astype(np.int64), blocks)
        columns = (
            tf.gather(tf.gather(self._files, index.block_shard), blocks),
            tf.gather(index.block_offset, blocks),
            counts,
        )
        read = tf.data.Dataset.from_tensor_slices(columns).flat_map(_read_block)
        return read.batch(tf.reduce_sum(counts)).get_single_element()

    def sequential(self) -> tf.data.Dataset:
        """Return all records in file order: (place in the split, record), int64 and string
        scalars."""
        return tf.data.TFRecordDataset(self._files, buffer_size=1 << 20).enumerate()


def _read_block(file: tf.Tensor, offset: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """Read `count` records of a shard from a byte offset on. Only within a `flat_map`: TF 2.15
    cannot make an iterator of this op itself."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=file[None], compression_type="", buffer_size=1 << 18, byte_offsets=offset[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(count)


class PreparedSplits:
    """The splits of a prepared set, each opened when it is first asked for."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._opened: dict[str, PreparedSplit] = {}

    def split(self, name: str) -> PreparedSplit:
        """Return a split. UserError when it is missing, empty or cut short."""
        if name not in self._opened:
            self._opened[name] = PreparedSplit(self.folder, name)
        return self._opened[name]

    @functools.cached_property
    def image_side(self) -> int:
        """Side in pixels of the set's images, from the first training record."""
        first = self.split("train").read(tf.constant([0]))[:1]
        feature = {"image": tf.io.FixedLenFeature([], tf.string)}
        image = tf.io.parse_example(first, feature)["image"][0]
        return int(tf.io.decode_image(image).shape[0])


class RecordPools:
    """The pools of an ungrouped split, window after window.

    Every pass over the split ('epoch') takes its blocks in another seeded order, each once. A
    split no larger than a window's worth is the pool of every window and is read once.
    """

    def __init__(self, split: Any, blocks_per_window: int, *coordinates: int) -> None:
        """split: a `PreparedSplit` or `dataloaders.samples.MemorySplit`. coordinates: of the draws,
        by habit seed and stream."""
        self._split, self._coordinates = split, coordinates
        self._take = min(blocks_per_window, split.num_blocks)
        everything = self._take == split.num_blocks
        self.whole = split.read(tf.range(split.num_blocks)) if everything else None

    def block_numbers(self, window: tf.Tensor) -> tf.Tensor:
        """Return the blocks of a window: int32 (blocks_per_window,). window: int64 scalar."""
        total = self._split.num_blocks
        start = window * self._take
        epoch = start // total
        # A window may begin in one epoch and end in the next, no further: _take <= total.
        orders = [
            random_draws.permutations(total, 1, *self._coordinates, e) for e in (epoch, epoch + 1)
        ]
        first = tf.cast(start - epoch * total, tf.int32)
        return tf.concat(orders, 0)[first : first + self._take]

    def pool(self, window: tf.Tensor) -> tf.Tensor:
        """Return the serialized records of a window: string (P,)."""
        return self._split.read(self.block_numbers(window)) if self.whole is None else self.whole


def steps_with_pools(load: Callable[[tf.Tensor], Any], start_step: int) -> tf.data.Dataset:
    """Return endless (step, pools) from step `start_step` on; step: int64 scalar, pools: whatever
    `load` returns for the step's window (int64 scalar). The next window loads while this one is
    used."""
    end = np.iinfo(np.int64).max // WINDOW
    windows = tf.data.Dataset.range(start_step // WINDOW, end)
    load = tf.autograph.experimental.do_not_convert(load)
    windows = windows.map(lambda w: (w, load(w)), num_parallel_calls=1).prefetch(1)

    def steps(window: tf.Tensor, pools: Any) -> tf.data.Dataset:
        first = tf.maximum(window * WINDOW, start_step)
        return tf.data.Dataset.range(first, (window + 1) * WINDOW).map(lambda t: (t, pools))

    return windows.flat_map(steps)


def window_rows(usable: tf.Tensor, batch_size: int, what: str, *coordinates: Any) -> tf.Tensor:
    """Return the rows of a pool for all steps of a window: int32 (WINDOW, batch_size).

    usable: bool (P,). Every usable row comes once before any comes again; each pass is shuffled
    anew. what: names the records, for the error when a window holds no usable one.
    """
    rows = tf.cast(tf.where(usable)[:, 0], tf.int32)
    count = tf.size(rows)
    message = f"{WINDOW * batch_size} {what} {_NONE_USABLE}"
    with tf.control_dependencies([tf.debugging.assert_positive(count, message)]):
        passes = -(-WINDOW * batch_size // count)
    order = random_draws.permutations(count, passes, *coordinates)[: WINDOW * batch_size]
    return tf.reshape(tf.gather(rows, order), [WINDOW, batch_size])


@contextlib.contextmanager
def reading_errors_explained(folders: Iterable[str | Path]) -> Iterator[None]:
    """Turn what TensorFlow raises about the sets in `folders` into a UserError that names the file;
    other errors pass unchanged."""
    try:
        yield
    except tf.errors.DataLossError:
        # TensorFlow does not name the file, so every shard is read once more.
        for folder in folders:
            for shard in sorted(Path(folder).glob("**/[!.]*.tfrecord")):  # and of caches
                if not _is_readable(shard):
                    reason = f"{shard} is damaged: {prepared_sets.remedy(shard)}"
                    raise UserError(reason) from None
        raise UserError(
            "a record could not be read, but all shards read well now: start again, and look at "
            "the disk if it happens again"
        ) from None
    except tf.errors.InvalidArgumentError as error:
        if re.search("Invalid JPEG|Unknown image file", error.message):  # nor that file
            for folder in folders:
                for picture in sorted(Path(folder).glob("*/*/[!.]*.jpg")):
                    if not _is_decodable(picture):
                        raise UserError(
                            f"{picture} is damaged: put it there anew, or take it away"
                        ) from None
        if _NONE_USABLE not in error.message:
            raise
        raise UserError(re.search(rf"\d+ [^\n]* {_NONE_USABLE}", error.message)[0]) from None
    except (
        tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError,
        tf.errors.UnknownError,
    ) as error:  # fmt: skip
        remedy = "look at its permissions and at the disk, or prepare the set again"
        reason = file_error(error, remedy)
        if ".tfrecord" not in reason and ".jpg" not in reason:
            raise
        what = "shard" if ".tfrecord" in reason else "picture"
        raise UserError(f"a {what} cannot be read: {reason}") from None


def _is_decodable(picture: Path) -> bool:
    try:
        tf.io.decode_jpeg(picture.read_bytes())
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _is_readable(shard: Path) -> bool:
    """Read all records of a shard; False when one fails its checksum."""
    try:
        for _ in tf.data.TFRecordDataset(str(shard)).batch(1024):
            pass
    except tf.errors.DataLossError:
        return False
    return True
