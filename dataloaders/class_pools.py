"""Sets grouped by class: from the pool of a window, a record of any class can be drawn.

Letters: P records in a pool, C classes that have records, K classes of the vocabulary, n records
asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import UserError
from dataloaders import random_draws
from dataloaders.blocks import PreparedSplit, PreparedSplits

EVAL_BLOCKS = 4  # blocks of each class that evaluation draws sketches and negatives from

log = logging.getLogger(__name__)


class ClassPool(NamedTuple):
    """Records of a grouped split, class after class; row c is class c of its `ClassPools`."""

    records: tf.Tensor  # string (P,), serialized
    starts: tf.Tensor  # int32 (C,), where the records of class c begin
    counts: tf.Tensor  # int32 (C,), how many they are, never 0

    def pick(self, rows: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        """Draw one record of each asked class: string (n,). rows: int32 (n,). words: uint64 (n,),
        the draws."""
        place = random_draws.below(words, tf.gather(self.counts, rows))
        return tf.gather(self.records, tf.gather(self.starts, rows) + place)


class ClassPools:
    """The pools of a grouped split: of each class that has records, one block a window."""

    def __init__(self, split: PreparedSplit, vocabulary: tuple[str, ...]) -> None:
        """vocabulary: the K names that labels index; other classes of the split are left out.
        UserError when none remains."""
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

    def _read(self, blocks: tf.Tensor, blocks_per_class: Any) -> ClassPool:
        """blocks: int (n,), grouped by class. blocks_per_class: int (C,), or (1,) if all equal."""
        sizes = tf.gather(self._split.index.block_records, blocks)
        rows = tf.repeat(tf.range(len(self.classes)), blocks_per_class)
        counts = tf.math.segment_sum(sizes, rows)
        return ClassPool(self._split.read(blocks), tf.cumsum(counts, exclusive=True), counts)

    def window(self, window: tf.Tensor) -> ClassPool:
        """Read the pool of a training window (int64 scalar)."""
        if self._whole is not None:
            return self._whole
        starts = np.cumsum([0] + [len(b) for b in self._class_blocks])
        lengths = starts[1:] - starts[:-1]
        return self._read(
            tf.gather(np.concatenate(self._class_blocks), starts[:-1] + window % lengths), [1]
        )

    def evaluation(self) -> ClassPool:
        """Read one pool for a whole evaluation: EVAL_BLOCKS blocks of each class, spread evenly
        over its records, because drawings of one class may be of several kinds, one after the
        other."""
        if self._whole is not None:
            return self._whole
        chosen = [
            np.array(b)[np.unique(np.linspace(0, len(b) - 1, EVAL_BLOCKS).round().astype(int))]
            for b in self._class_blocks
        ]
        return self._read(np.concatenate(chosen), [len(c) for c in chosen])

    def other_rows(self, rows: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        """Draw another class for each object, all others equally likely: int32 (n,) rows.

        Paper: sections 3.1 and 3.5, negatives. rows: int32 (n,), of the objects' own classes, -1
        for a class without records. words: uint64 (n,), the draws."""
        known = rows >= 0
        total = len(self.classes)
        others = random_draws.below(words, tf.where(known, total - 1, total))
        return others + tf.cast(known & (others >= rows), tf.int32)


class ClassSet(PreparedSplits):
    """A prepared set grouped by class, from which samples are completed."""

    def __init__(self, folder: str, vocabulary: Vocabulary, noun: str) -> None:
        """noun: 'crops' or 'sketches', for the log."""
        super().__init__(folder)
        self._vocabulary, self._noun = vocabulary, noun
        self._pools: dict[str, ClassPools] = {}

    def pools(self, split: str) -> ClassPools:
        """Return the pools of a split. Classes of objects without records are logged once."""
        if split not in self._pools:
            names = self._vocabulary.names
            pools = self._pools[split] = ClassPools(self.split(split), names)
            report_missing(
                [names[k] for k in pools.classes],
                [names[k] for k in self._vocabulary.objects],
                f"{self._noun} in the {split} split of {self.folder}",
            )
        return self._pools[split]

    def negative_pools(self, split: str) -> ClassPools:
        """Return the pools of a split that negatives are drawn from. UserError when it has but one
        class."""
        pools = self.pools(split)
        if len(pools.classes) < 2:
            raise UserError(
                f"the {split} split of {self.folder} has {self._noun} of one class only: negatives "
                f"need at least two; prepare the {self._noun} from more photographs"
            )
        return pools


def report_missing(present: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Log which of the wanted classes are missing. what: 'sketches in the train split'."""
    missing = sorted(set(wanted) - set(present))
    if missing:
        noun = "class has" if len(missing) == 1 else "classes have"
        log.warning("%d %s no %s: %s", len(missing), noun, what, ", ".join(missing))
