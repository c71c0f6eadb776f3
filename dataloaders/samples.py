"""Samples: the records that a step or an evaluation batch is made of, before they are parsed.

A sample grows from one record: a sketch in stage 1, a scene in stage 2. Its `position` names it in
every draw: step * batch size + place in training, its place in the split in evaluation. What else
it needs (crops of a class, sketches of an object) is drawn from class pools.

Letters: P records in a pool, n samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import UserError
from dataloaders import prepared_sets
from dataloaders.blocks import WINDOW, PreparedSplit, RecordPools, steps_with_pools, window_rows
from dataloaders.class_pools import ClassPools
from dataloaders.random_draws import Stream

Usable = Callable[[tf.Tensor], tf.Tensor]  # records (P,) -> bool (P,): which can make a sample

log = logging.getLogger(__name__)

_NAMES = 8  # unknown classes named; a vocabulary smaller than COCO's leaves most of them over


class Samples(NamedTuple):
    """n samples of a batch, and the pools that completes them."""

    positions: tf.Tensor  # int64 (n,)
    records: tf.Tensor  # string (n,), serialized; of data in memory int32 (n,), their rows
    pools: Any  # dict of `ClassPool`

    def part(self, index: int, count: int) -> Samples:
        """Return one of `count` equal parts; n is a multiple of it."""
        size = self.positions.shape[0] // count
        rows = slice(index * size, (index + 1) * size)
        return self._replace(positions=self.positions[rows], records=self.records[rows])


class _Step(NamedTuple):
    """One training step before anything is drawn for it."""

    step: tf.Tensor  # int64 scalar
    records: tf.Tensor  # (P,), pool
    rows: tf.Tensor  # int32 (WINDOW, batch size), rows of the pool for the window's steps
    pools: Any  # dict of `ClassPool`


class MemorySplit:
    """A split whose samples lie in memory: its records are their rows, 0 to num_records - 1."""

    num_blocks = 1

    def __init__(self, folder: Any, split: str, num_records: int) -> None:
        """folder, split: for error messages."""
        self.folder, self.split, self.num_records = folder, split, num_records

    def read(self, blocks: tf.Tensor) -> tf.Tensor:
        """Return all rows: int32 (num_records,)."""
        return tf.range(self.num_records)

    def sequential(self) -> tf.data.Dataset:
        """Return (place in the split, row) of all samples: int64 and int32 scalars."""
        return tf.data.Dataset.from_tensor_slices(tf.range(self.num_records)).enumerate()


def every_record(records: tf.Tensor) -> tf.Tensor:
    """Return that every record can make a sample: bool (P,)."""
    return tf.ones(tf.shape(records), tf.bool)


class SplitSamples:
    """The samples of a split, as `core.dataset.SampleSource` says."""

    def __init__(
        self,
        split: PreparedSplit | MemorySplit,
        batch_size: int,
        seed: int,
        usable: Usable = every_record,
        pools: Mapping[str, ClassPools] | None = None,
    ) -> None:
        """pools: class pools that samples draw from, by name."""
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._usable, self._pools = usable, dict(pools or {})

    def training(self, start_step: int) -> tf.data.Dataset:
        """Return endless elements for `draw` from step `start_step` on. UserError when a split that
        fits a window has no usable record."""
        split, seed = self._split, self._seed
        records = RecordPools(split, self._batch_size, seed, Stream.BLOCK_ORDER)
        if records.whole is not None and not np.any(self._usable(records.whole)):
            raise UserError(
                f"no record of the {split.split} split of {split.folder} can be used: none has a "
                "class with both sketches and crops; prepare the sets from matching sources"
            )

        def load(window: tf.Tensor) -> Any:
            pool = records.pool(window)
            rows = window_rows(
                self._usable(pool), self._batch_size, f"records of {split.folder}",
                seed, Stream.ROW_ORDER, window,
            )  # fmt: skip
            return pool, rows, {name: pools.window(window) for name, pools in self._pools.items()}

        return steps_with_pools(load, start_step).map(lambda step, pools: _Step(step, *pools))

    def draw(self, step: _Step) -> Samples:
        """Return the samples of one training step."""
        rows = step.rows[step.step % WINDOW]
        positions = step.step * self._batch_size + tf.range(self._batch_size, dtype=tf.int64)
        return Samples(positions, tf.gather(step.records, rows), step.pools)

    def evaluation(self, limit: int | None) -> tf.data.Dataset:
        """Return the split's usable samples in order, batch by batch, the last batch smaller."""
        total = self._split.num_records
        pools = {name: each.evaluation() for name, each in self._pools.items()}

        def choose(positions: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            chosen = self._usable(records)
            if limit is not None and limit < total:
                chosen &= (positions + 1) * limit // total > positions * limit // total
            return tf.boolean_mask(positions, chosen), tf.boolean_mask(records, chosen)

        chosen = self._split.sequential().batch(prepared_sets.BLOCK).map(choose).unbatch()
        return chosen.batch(self._batch_size).map(lambda p, r: Samples(p, r, pools))


def of_usable_class(key: str, usable: np.ndarray) -> Usable:
    """Return the test for records of a usable class. key: the int64 feature that holds the class;
    usable: bool, indexed by it."""

    def test(records: tf.Tensor) -> tf.Tensor:
        feature = {key: tf.io.FixedLenFeature([], tf.int64)}
        return tf.gather(usable, tf.io.parse_example(records, feature)[key])

    return test


def with_object_of_usable_class(key: str, usable: np.ndarray) -> Usable:
    """Return the test for scenes that have an object of a usable class, as `of_usable_class`."""

    def test(records: tf.Tensor) -> tf.Tensor:
        feature = {key: tf.io.RaggedFeature(tf.int64)}
        classes = tf.io.parse_example(records, feature)[key]
        return tf.reduce_any(tf.gather(usable, classes), axis=1)

    return test


def sketch_classes(
    meta: prepared_sets.SketchSetMeta, folder: str, vocabulary: Vocabulary
) -> np.ndarray:
    """Return the vocabulary index of each class of a sketch set, joined by name: int32
    (len(coco_classes),), -1 for one that the vocabulary does not have (logged, not used)."""
    index = {name: k for k, name in enumerate(vocabulary.names)}
    # A grouped set knows which of the mapped classes it has drawings of.
    grouped = set(prepared_sets.read_index(folder, "train").classes.tolist())
    unknown = sorted((grouped or set(meta.coco_classes)) - set(index))
    if unknown:
        more = f" and {len(unknown) - _NAMES} more" if len(unknown) > _NAMES else ""
        log.warning(
            "not used, as the photographs' vocabulary has no such class: sketches of %s%s (%s)",
            ", ".join(unknown[:_NAMES]),
            more,
            folder,
        )
    return np.array([index.get(name, -1) for name in meta.coco_classes], np.int32)
