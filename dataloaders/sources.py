"""What the loaders over prepared sets share: checked folders, items of a step, items of a split.

An ITEM is the record a sample grows from: a sketch in stage 1, a scene in stage 2. Its `position`
names it in every draw: step * batch size + place in training, its place in the split in
evaluation. Partners (crops of a class, sketches of an object) come from the ClassPools.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.dataset import Dataset, Stage, Vocabulary
from core.errors import UserError
from dataloaders import blocks, prepared_sets

log = logging.getLogger(__name__)

_NAMES = 8  # unknown classes named; a vocabulary smaller than COCO's leaves most of them over

# Streams of draws (dataloaders.random_draws): one name for each thing that is random.
(
    BLOCK_ORDER,
    ROW_ORDER,
    POSITIVE,
    NEGATIVE_CLASS,
    NEGATIVE_CROP,
    SKETCH,
    PHOTO_DIRECTION,
    QUERY_DIRECTION,
    JITTER,
    DROPPED,
) = range(10)


class Items(NamedTuple):
    """n items of a batch and where their partners lie."""

    positions: tf.Tensor  # int64 (n,)
    records: tf.Tensor  # string (n,), serialized
    pools: Any  # dict of blocks.Pool: the partners

    def part(self, index: int, count: int) -> Items:
        """One of `count` equal parts; n is a multiple of it."""
        size = self.positions.shape[0] // count
        mine = slice(index * size, (index + 1) * size)
        return self._replace(positions=self.positions[mine], records=self.records[mine])


class Step(NamedTuple):
    """One training step before anything is drawn for it."""

    step: tf.Tensor  # int64 scalar
    records: tf.Tensor  # string (P,), pool of items
    rows: tf.Tensor  # int32 (WINDOW, batch size), rows of the pool for the window's steps
    pools: Any  # dict of blocks.Pool: the partners


def training_items(
    split: blocks.Split,
    batch_size: int,
    seed: int,
    start_step: int,
    usable: Callable[[tf.Tensor], tf.Tensor],
    partners: dict[str, blocks.ClassPools],
) -> tf.data.Dataset:
    """Endless `Step` elements from step `start_step` on.

    usable: serialized items (P,) -> bool (P,), which of them can make a sample.
    Raises UserError when a split that fits a window has none.
    """
    ring = blocks.Ring(split, batch_size, seed, BLOCK_ORDER)
    whole = ring.whole
    if whole is not None and not np.any(usable(whole)):
        raise _none_usable(split)

    def load(window: tf.Tensor) -> Any:
        pool = ring.pool(window)
        what = f"records of {split.folder}"
        rows = blocks.window_rows(usable(pool), batch_size, what, seed, ROW_ORDER, window)
        return pool, rows, {name: pools.window(window) for name, pools in partners.items()}

    return blocks.windowed(load, start_step).map(lambda step, pools: Step(step, *pools))


def draw_items(step: Step) -> Items:
    """The items of one training step."""
    batch_size = step.rows.shape[1]
    rows = step.rows[step.step % blocks.WINDOW]
    positions = step.step * batch_size + tf.range(batch_size, dtype=tf.int64)
    return Items(positions, tf.gather(step.records, rows), step.pools)


def evaluation_items(
    split: blocks.Split,
    batch_size: int,
    limit: int | None,
    usable: Callable[[tf.Tensor], tf.Tensor],
    partners: dict[str, blocks.ClassPools],
) -> tf.data.Dataset:
    """The split's usable items in file order: `Items` of batch_size, the last smaller."""
    total = split.num_records
    pools = {name: each.evaluation() for name, each in partners.items()}

    def choose(positions: tf.Tensor, serialized: tf.Tensor) -> Any:
        keep = usable(serialized)
        if limit is not None and limit < total:
            keep &= (positions + 1) * limit // total > positions * limit // total
        return tf.boolean_mask(positions, keep), tf.boolean_mask(serialized, keep)

    items = split.sequential().batch(prepared_sets.BLOCK).map(choose).unbatch()
    return items.batch(batch_size).map(lambda p, s: Items(p, s, pools))


def anything(serialized: tf.Tensor) -> tf.Tensor:
    """Every item is usable: bool (P,)."""
    return tf.ones(tf.shape(serialized), tf.bool)


def class_usable(key: str, good: np.ndarray, serialized: tf.Tensor) -> tf.Tensor:
    """Items of a good class: bool (P,). key: the int64 feature that holds the class; good: bool,
    indexed by it."""
    feature = {key: tf.io.FixedLenFeature([], tf.int64)}
    return tf.gather(good, tf.io.parse_example(serialized, feature)[key])


def any_object_usable(key: str, good: np.ndarray, serialized: tf.Tensor) -> tf.Tensor:
    """Scenes with at least one object of a good class: bool (P,)."""
    feature = {key: tf.io.RaggedFeature(tf.int64)}
    classes = tf.io.parse_example(serialized, feature)[key]
    return tf.reduce_any(tf.gather(good, classes), axis=1)


class ItemLoader(Dataset):
    """A loader whose samples grow from the items of one prepared set, `_open_items` names which."""

    def _open_items(self, folder: str) -> None:
        opened = functools.partial(blocks.Split, folder)
        self._items = functools.lru_cache(maxsize=None)(opened)

    def _usable(self, split: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """From serialized items (P,) to bool (P,): which of them can make a sample."""
        return anything

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        """The grouped sets that samples take something from, by name."""
        return {}

    def _work(self, split: str, training: bool) -> tuple[Stage, ...]:
        """The stages from `Items` to a batch."""
        raise NotImplementedError

    def _training_items(self, start_step: int) -> tf.data.Dataset:
        return training_items(
            self._items("train"),
            self.batch_size,
            self.seed,
            start_step,
            self._usable("train"),
            self._partners("train"),
        )

    def _evaluation_items(self, split: str, limit: int | None) -> tf.data.Dataset:
        return evaluation_items(
            self._items(split), self.batch_size, limit, self._usable(split), self._partners(split)
        )

    def _stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        work = self._work(split, training)
        return (("draw", draw_items), *work) if training else work


class Partners:
    """A grouped set as a source of partners, split by split."""

    def __init__(self, folder: str, vocabulary: Vocabulary, noun: str) -> None:
        """noun: 'crops' or 'sketches', for the report of missing classes."""
        self.folder, self._vocabulary, self._noun = folder, vocabulary, noun
        # Once a split: reading its index, and the report of missing classes.
        opened = functools.partial(blocks.Split, folder)
        self.split = functools.lru_cache(maxsize=None)(opened)
        self.of = functools.lru_cache(maxsize=None)(self._of)

    def _of(self, split: str) -> blocks.ClassPools:
        pools = blocks.ClassPools(self.split(split), self._vocabulary.names)
        have = [self._vocabulary.names[k] for k in pools.classes]
        wanted = [self._vocabulary.names[k] for k in self._vocabulary.objects]
        blocks.report_missing(have, wanted, f"{self._noun} in the {split} split of {self.folder}")
        return pools


def joined_classes(
    meta: prepared_sets.SketchSetMeta, folder: str, vocabulary: Vocabulary
) -> np.ndarray:
    """Joins a sketch set to the vocabulary by class name: int32 (len(coco_classes),), the
    vocabulary index of each class, -1 for one the vocabulary does not have (logged, not used)."""
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


def _none_usable(split: blocks.Split) -> UserError:
    return UserError(
        f"no record of the {split.split} split of {split.folder} can be used: none has a class "
        "with both sketches and crops; prepare the sets from matching sources"
    )
