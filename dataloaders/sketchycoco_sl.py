"""'sketchycoco-sl': drawings of whole scenes, with boxes of their own, beside photographs.

SketchyCOCO-SL in its published layout (docs/data_formats.md). Boxes differ from the photograph's
(mostly in size), and objects may be missing. The set has no masks.

When a split is first used, its pairs are read, resized and encoded as prepared sets store them
(some 45 kB a pair, which then stay in memory): published splits have 210 and about 1,000 pairs. A
file that cannot be used is found then, not in the middle of a training.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.dataset import DataSizes
from core.errors import EmptySplitError, UserError
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import blocks, prepared_sets, scene_batches, sl_pairs, sources
from dataloaders.scene_loader import SceneLoader

_NO_SPLIT = {
    "train": "training needs pairs there, laid out as those of test",
    "valid": "the published set has none; ask for metrics of the test split (NAME-test)",
    "test": "evaluation needs the published pairs there",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HParams:
    """Folders of the published set and of crops, and what happens to queries in training."""

    sl_dir: str = hp(help="SketchyCOCO-SL as published: holds test/, perhaps train/", folder=True)
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord): negatives and vocabulary",
        folder=True,
    )
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


class Pairs:
    """The usable pairs of a split as tensors: N pairs, by ascending id."""

    def __init__(
        self, sl_dir: str, labels: Mapping[int, int], sketch_side: int, split: str
    ) -> None:
        """labels: class number -> vocabulary index. sketch_side: of the canvas, pixels. Logs once
        what is left out. Raises EmptySplitError when the split is not there, UserError when
        nothing of it can be used."""
        folder = Path(sl_dir) / split
        if not folder.is_dir():
            raise EmptySplitError(f"{folder} is not there: {_NO_SPLIT[split]}")
        problems: list[sl_pairs.Problem] = []
        files = sl_pairs.list_pairs(folder, problems)
        work = functools.partial(sl_pairs.read_pair, folder, labels=labels, sketch_side=sketch_side)
        with ThreadPoolExecutor(4) as pool:  # decoding and resizing leave Python's lock
            read = list(pool.map(work, *zip(*files))) if files else []
        pairs = [pair for pair, _ in read if pair]
        problems += [problem for _, some in read for problem in some]
        if not pairs:
            why = sl_pairs.told(problems) or "it has no pictures"
            raise UserError(f"no pair of {folder} can be used: {why}")
        if problems:
            log.warning(
                "%s: %d pairs are used; left out: %s", folder, len(pairs), sl_pairs.told(problems)
            )
        self.num_records = len(pairs)
        self.image_ids = tf.constant([pair.image_id for pair in pairs], tf.int64)  # (N,)
        self.images = tf.constant([pair.image for pair in pairs])  # string (N,)
        # Ragged: N pairs, of each its objects.
        self.photo_classes = _ragged([pair.photo.classes for pair in pairs])
        self.photo_boxes = _ragged([pair.photo.shares for pair in pairs])
        self.query_classes = _ragged([pair.query.classes for pair in pairs])
        self.query_boxes = _ragged([pair.query.shares for pair in pairs])
        self.query_to_photo = _ragged([pair.query_to_photo for pair in pairs])
        self.sketches = _ragged([np.array(pair.sketches, object) for pair in pairs])

    def sequential(self) -> tf.data.Dataset:
        """(place, row) of all pairs, which are the same: int64 and int32 scalars."""
        return tf.data.Dataset.from_tensor_slices(tf.range(self.num_records)).enumerate()


def _ragged(rows: Sequence[np.ndarray]) -> tf.RaggedTensor:
    lengths = [len(row) for row in rows]
    return tf.RaggedTensor.from_row_lengths(tf.constant(np.concatenate(rows)), lengths)


@LOADERS.register("sketchycoco-sl")
class SketchycocoSl(SceneLoader):
    """Photographs with their scene graphs, and a drawing of each with its own."""

    name = "sketchycoco-sl"
    HParams = HParams
    own_boxes = True
    has_masks = False

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        if not any((Path(hparams.sl_dir) / split).is_dir() for split in ("test", "train")):
            raise UserError(
                f"{hparams.sl_dir} holds neither test/ nor train/: sl_dir must be the folder of "
                "SketchyCOCO-SL as published"
            )
        meta = prepared_sets.read_meta(hparams.crops_dir, "coco-crops")
        self._vocabulary = meta.vocabulary
        self._crops = sources.Partners(hparams.crops_dir, self._vocabulary, "crops")
        side = blocks.image_side(self._crops.split("train"))
        self.sizes = DataSizes(sl_pairs.SCENE_SIDE, side, side, meta.mask_size)
        indices = {name: k for k, name in enumerate(self._vocabulary.names)}
        labels = {
            number: indices[name] for number, name in sl_pairs.CLASSES.items() if name in indices
        }
        self._items = functools.lru_cache(maxsize=None)(
            functools.partial(Pairs, hparams.sl_dir, labels, side)
        )

    def _training_items(self, start_step: int) -> tf.data.Dataset:
        rows = tf.range(self._items("train").num_records)
        crops = self._partners("train")["crops"]

        def load(window: tf.Tensor) -> Any:
            order = blocks.window_rows(
                sources.anything(rows),
                self.batch_size,
                "pairs",
                self.seed,
                sources.ROW_ORDER,
                window,
            )
            return rows, order, {"crops": crops.window(window)}

        steps = blocks.windowed(load, start_step)
        return steps.map(lambda step, pools: sources.Step(step, *pools))

    def _parse(self, split: str) -> Callable[[sources.Items], scene_batches.Parsed]:
        pairs, crops = self._items(split), self._crops.of(split)

        def parse(items: sources.Items) -> scene_batches.Parsed:
            rows = items.records

            def flat(column: tf.RaggedTensor) -> tf.Tensor:
                return tf.gather(column, rows).flat_values

            photo_classes = tf.gather(pairs.photo_classes, rows)
            photo = scene_batches.Objects.of(
                photo_classes, flat(pairs.photo_boxes), items.positions
            )
            query = scene_batches.Objects.of(
                tf.gather(pairs.query_classes, rows), flat(pairs.query_boxes), items.positions
            )
            place = flat(pairs.query_to_photo)
            first = tf.cast(tf.gather(photo_classes.row_starts(), query.obj_to_img), tf.int32)
            negatives = scene_batches.negatives(photo, items.pools["crops"], crops, self.seed)
            return scene_batches.Parsed(
                image_ids=tf.gather(pairs.image_ids, rows),
                images=tf.gather(pairs.images, rows),
                photo=photo,
                masks=None,
                query=query,
                query_to_photo=tf.where(place < 0, -1, first + place),
                sketches=flat(pairs.sketches),
                negative_crops=negatives[0],
                negative_classes=negatives[1],
                stuff=None,
            )

        return parse


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("sketchycoco-sl", "scenes"))
