"""Reading prepared sets: blocks of records into pools, pools into steps, bytes into images.

Training goes in windows of WINDOW steps. For a window a POOL of serialized records is read, whole
blocks at a time, and all steps of the window draw from it. So a resumed run reads one window, not
everything before it, and what is in memory is bounded by a window, not by the set. Everything is
vectorised per batch: a dataset or a map call for each record would cost more than decoding it.

Letters: P records in a pool, C classes of a grouped set, Bk blocks, K classes of the vocabulary,
n images. Which blocks, rows and partners a step meets are functions of (seed, step).
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.errors import EmptySplitError, UserError, first_line
from dataloaders import prepared_sets, random_draws

WINDOW = prepared_sets.BLOCK  # steps of a window: a window reads exactly batch_size blocks
EVAL_BLOCKS = 4  # blocks of each class that evaluation draws sketches and negatives from
CHUNK = 8  # images decoded side by side where their number is not known beforehand

log = logging.getLogger(__name__)


class Split:
    """One split of a prepared set."""

    def __init__(self, folder: str, split: str) -> None:
        """Read the split's index. UserError when it, or a shard, is missing or cut short."""
        self.folder, self.split = Path(folder), split
        self.index = index = prepared_sets.read_index(folder, split)
        self.num_records = int(index.block_records.sum())
        if not self.num_records:
            raise EmptySplitError(
                f"the {split} split of {folder} is empty; prepare it from more data"
            )
        self._files = tf.constant([str(self.folder / s) for s in index.shards.tolist()])

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
        """All records in file order: (place in the split, record), int64 and string scalars."""
        return tf.data.TFRecordDataset(self._files, buffer_size=1 << 20).enumerate()


def _read_block(file: tf.Tensor, offset: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """Read `count` records of a shard from a byte offset on. Only within a `flat_map`: TF 2.15
    cannot make an iterator of this op itself."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=file[None], compression_type="", buffer_size=1 << 18, byte_offsets=offset[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(count)


class Ring:
    """The pool of an ungrouped split, window after window.

    Every pass over the split ('epoch') takes its blocks in another seeded order, each once. A
    split no larger than a window's worth is the pool of every window and is read once.
    """

    def __init__(self, split: Split, blocks_a_window: int, *coordinates: int) -> None:
        """coordinates: of the draws, by habit seed and stream."""
        self._split, self._coordinates = split, coordinates
        self._blocks = len(split.index.block_records)
        self._take = min(blocks_a_window, self._blocks)
        self.whole = split.read(tf.range(self._blocks)) if self._take == self._blocks else None

    def block_numbers(self, window: tf.Tensor) -> tf.Tensor:
        """Blocks of a window: int32 (blocks_a_window,). window: int64 scalar."""
        start = window * self._take
        epoch = start // self._blocks
        # A window may begin in one epoch and end in the next, no further: _take <= _blocks.
        orders = [
            random_draws.permutations(self._blocks, 1, *self._coordinates, e)
            for e in (epoch, epoch + 1)
        ]
        first = tf.cast(start - epoch * self._blocks, tf.int32)
        return tf.concat(orders, 0)[first : first + self._take]

    def pool(self, window: tf.Tensor) -> tf.Tensor:
        """Serialized records of a window: string (P,)."""
        return self._split.read(self.block_numbers(window)) if self.whole is None else self.whole


class Pool(NamedTuple):
    """Records of a grouped split, class after class; row c is class c of its ClassPools."""

    records: tf.Tensor  # string (P,), serialized
    starts: tf.Tensor  # int32 (C,), where the records of class c begin
    counts: tf.Tensor  # int32 (C,), how many they are, never 0


class ClassPools:
    """Pools of a grouped split: of each class that has records, one block a window."""

    def __init__(self, split: Split, vocabulary: Sequence[str]) -> None:
        """vocabulary: the K names that labels index; other classes of the split are ignored.
        Raises UserError when none is left."""
        index = split.index
        known = {name: k for k, name in enumerate(vocabulary)}
        blocks: dict[int, list[int]] = {}
        for block, c in enumerate(index.block_class.tolist()):
            name = str(index.classes[c])
            if name in known:
                blocks.setdefault(known[name], []).append(block)
        if not blocks:
            raise UserError(
                f"{split.folder} has no records of any known class in its {split.split} split; "
                "prepare it again from sources that match the photographs"
            )
        self._split = split
        self.classes = np.array(sorted(blocks), np.int32)  # (C,), vocabulary indices
        self._class_blocks = [blocks[k] for k in self.classes.tolist()]
        self.row_of_class = np.full(len(vocabulary), -1, np.int32)  # (K,), -1 = no records
        self.row_of_class[self.classes] = np.arange(len(self.classes))
        single = all(len(b) == 1 for b in self._class_blocks)
        self._whole = self._read(np.concatenate(self._class_blocks), [1]) if single else None

    def _read(self, blocks: tf.Tensor, blocks_a_class: Any) -> Pool:
        """blocks: int (n,), grouped by class. blocks_a_class: int (C,), or (1,) when all equal."""
        sizes = tf.gather(self._split.index.block_records, blocks)
        rows = tf.repeat(tf.range(len(self.classes)), blocks_a_class)
        counts = tf.math.segment_sum(sizes, rows)
        return Pool(self._split.read(blocks), tf.cumsum(counts, exclusive=True), counts)

    def window(self, window: tf.Tensor) -> Pool:
        """The pool of a training window (int64 scalar)."""
        if self._whole is not None:
            return self._whole
        starts = np.cumsum([0] + [len(b) for b in self._class_blocks])
        lengths = starts[1:] - starts[:-1]
        return self._read(
            tf.gather(np.concatenate(self._class_blocks), starts[:-1] + window % lengths), [1]
        )

    def evaluation(self) -> Pool:
        """One pool for a whole evaluation: EVAL_BLOCKS blocks of each class, spread evenly over
        its records, because drawings of one class may be of several kinds, one after the other."""
        if self._whole is not None:
            return self._whole
        chosen = [
            np.array(b)[np.unique(np.linspace(0, len(b) - 1, EVAL_BLOCKS).round().astype(int))]
            for b in self._class_blocks
        ]
        return self._read(np.concatenate(chosen), [len(c) for c in chosen])


def pick(pool: Pool, rows: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """One record of each asked class: string (n,). rows: int32 (n,), rows of the pool. words:
    uint64 (n,), the draws."""
    place = random_draws.below(words, tf.gather(pool.counts, rows))
    return tf.gather(pool.records, tf.gather(pool.starts, rows) + place)


def windowed(
    load: Callable[[tf.Tensor], Any], start_step: int, parallel: int | None = 1
) -> tf.data.Dataset:
    """Endless (step, pools) from step `start_step` on; step: int64 scalar, pools: whatever `load`
    returns for the step's window (int64 scalar). The next window loads while this one is used."""
    end = np.iinfo(np.int64).max // WINDOW
    windows = tf.data.Dataset.range(start_step // WINDOW, end)
    load = tf.autograph.experimental.do_not_convert(load)
    windows = windows.map(lambda w: (w, load(w)), num_parallel_calls=parallel).prefetch(1)

    def steps(window: tf.Tensor, pools: Any) -> tf.data.Dataset:
        first = tf.maximum(window * WINDOW, start_step)
        return tf.data.Dataset.range(first, (window + 1) * WINDOW).map(lambda t: (t, pools))

    return windows.flat_map(steps)


# `reading_errors_explained` knows the error of `window_rows` by this.
_NONE_USABLE = "in a row have no usable class: the set must be in random order"


def window_rows(usable: tf.Tensor, batch_size: int, what: str, *coordinates: Any) -> tf.Tensor:
    """Rows of a pool for all steps of a window: int32 (WINDOW, batch_size).

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


def decode_images(encoded: tf.Tensor, side: int, channels: int, kind: str) -> tf.Tensor:
    """encoded: string (n,), images of side x side pixels; kind: 'jpeg' | 'png'. -> uint8
    (n, side, side, channels). An image that is broken or of another size raises
    InvalidArgumentError."""
    decode = {"jpeg": tf.io.decode_jpeg, "png": tf.io.decode_png}[kind]

    def stack(strings: tf.Tensor) -> tf.Tensor:
        # Unrolled: independent ops run on all cores, and cost no map call each.
        images = [decode(s, channels=channels) for s in tf.unstack(strings)]
        return tf.stack([tf.ensure_shape(i, [side, side, channels]) for i in images])

    if encoded.shape[0] is not None:
        return stack(encoded)
    spec = tf.TensorSpec([CHUNK, side, side, channels], tf.uint8)
    return _in_chunks(stack, encoded, spec)


def resize_images(images: tf.Tensor, side: int) -> tf.Tensor:
    """uint8 (n, S, S, c) -> uint8 (n, side, side, c); nothing to do when S = side."""
    if images.shape[1] == side:
        return images
    return to_uint8(tf.image.resize(images, [side, side], antialias=True))


def crop_images(images: tf.Tensor, boxes: tf.Tensor, obj_to_img: tf.Tensor, side: int) -> tf.Tensor:
    """Bilinear crops: uint8 (O, side, side, 3) of images uint8 (N, S, S, 3).

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
    """Applies `function` to CHUNK rows at a time. inputs: tensors (n, ...), n > 0; spec: of the
    function's result, (CHUNK, ...). -> (n, ...)."""
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
    """float32 in [0, 255] -> uint8, to the nearest."""
    return tf.cast(images + 0.5, tf.uint8)


def image_side(split: Split) -> int:
    """Side in pixels of a split's images, from its first record."""
    first = split.read(tf.constant([0]))[:1]
    image = tf.io.parse_example(first, {"image": tf.io.FixedLenFeature([], tf.string)})["image"][0]
    return int(tf.io.decode_image(image).shape[0])


def report_missing(have: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Logs once which of the wanted classes are missing; what: 'sketches in the train split'."""
    missing = sorted(set(wanted) - set(have))
    if missing:
        noun = "class has" if len(missing) == 1 else "classes have"
        log.warning("%d %s no %s: %s", len(missing), noun, what, ", ".join(missing))


@contextlib.contextmanager
def reading_errors_explained(folders: Iterable[str | Path]) -> Iterator[None]:
    """Turn what TensorFlow raises about the prepared sets in `folders` into a UserError that names
    the file; other errors pass unchanged."""
    try:
        yield
    except tf.errors.DataLossError:
        # TensorFlow does not name the file, so every shard is read once more.
        for folder in folders:
            for shard in sorted(Path(folder).glob("*/*.tfrecord")):
                if not _is_readable(shard):
                    raise UserError(f"{shard} is damaged: {prepared_sets.REMEDY}") from None
        raise UserError(
            "a record could not be read, but all shards read well now: start again, and look at "
            "the disk if it happens again"
        ) from None
    except tf.errors.InvalidArgumentError as error:
        if _NONE_USABLE not in error.message:
            raise
        raise UserError(re.search(rf"\d+ [^\n]* {_NONE_USABLE}", error.message)[0]) from None
    except (
        tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.UnknownError,
    ) as error:  # fmt: skip
        reason = first_line(error)
        if ".tfrecord" not in reason:
            raise
        raise UserError(
            f"a shard cannot be read ({reason}): look at its permissions and at the disk, or "
            "prepare the set again"
        ) from None


def _is_readable(shard: Path) -> bool:
    """Read all records of a shard; False when one fails its checksum."""
    try:
        for _ in tf.data.TFRecordDataset(str(shard)).batch(1024):
            pass
    except tf.errors.DataLossError:
        return False
    return True
