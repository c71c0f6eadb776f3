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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.dataset import DataSizes, SceneDataset, Stage
from core.errors import EmptySplitError, UserError
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import prepared_sets, samples, scene_batches, scene_graph, sl_pairs
from dataloaders.batches import SceneBatch
from dataloaders.class_pools import ClassSet
from dataloaders.images import Problem
from dataloaders.queries import query_objects
from dataloaders.scene_batches import EncodedScenes, SceneObjects

_NO_SPLIT = {
    "train": "training needs pairs there, laid out as those of test",
    "valid": "the published set has none; ask for metrics of the test split (NAME-test)",
    "test": "evaluation needs the published pairs there",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HParams:
    """Folders of the published set and of crops, and what happens to queries in training."""

    sl_dir: str = hp(
        help="SketchyCOCO-SL as published: holds test/, perhaps train/", folder=sl_pairs.FILES
    )
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord): negatives and vocabulary",
        folder=prepared_sets.FILES,
    )
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


class PairTensors:
    """The usable pairs of a split as tensors: N pairs, by ascending id."""

    def __init__(
        self, sl_dir: str, labels: Mapping[int, int], sketch_side: int, split: str
    ) -> None:
        """labels: class number -> vocabulary index. sketch_side: of the canvas, pixels. Logs once
        what is left out. EmptySplitError when the split is not there, UserError when nothing of it
        can be used."""
        folder = Path(sl_dir) / split
        if not folder.is_dir():
            raise EmptySplitError(f"{folder} is not there: {_NO_SPLIT[split]}")
        problems: list[Problem] = []
        files = sl_pairs.list_pairs(folder, problems)
        read = functools.partial(sl_pairs.read_pair, folder, labels=labels, sketch_side=sketch_side)
        with ThreadPoolExecutor(4) as pool:  # decoding and resizing leave Python's lock
            results = list(pool.map(read, files))
        pairs = [pair for pair, _ in results if pair]
        problems += [problem for _, left_out in results for problem in left_out]
        if not pairs:
            why = sl_pairs.summary(problems) or "it has no pictures"
            raise UserError(f"no pair of {folder} can be used: {why}")
        if problems:
            log.warning(
                "%s: %d pairs are used; left out: %s",
                folder, len(pairs), sl_pairs.summary(problems),
            )  # fmt: skip
        self.split = samples.MemorySplit(sl_dir, split, len(pairs))
        self.image_ids = tf.constant([pair.image_id for pair in pairs], tf.int64)  # (N,)
        self.images = tf.constant([pair.image for pair in pairs])  # string (N,)
        # Ragged: N pairs, of each its objects.
        self.photo_classes = _ragged([pair.photo.classes for pair in pairs])
        self.photo_boxes = _ragged([pair.photo.relative_boxes for pair in pairs])
        self.query_classes = _ragged([pair.query.classes for pair in pairs])
        self.query_boxes = _ragged([pair.query.relative_boxes for pair in pairs])
        self.query_to_photo = _ragged([pair.query_to_photo for pair in pairs])
        self.sketches = _ragged([np.array(pair.sketches, object) for pair in pairs])

    def parse(self, chosen: samples.Samples) -> EncodedScenes:
        """Return the scenes of some pairs, without negatives."""
        rows = chosen.records

        def objects(classes: tf.RaggedTensor, boxes: tf.RaggedTensor) -> SceneObjects:
            flat_boxes = tf.gather(boxes, rows).flat_values
            return SceneObjects.of(tf.gather(classes, rows), flat_boxes, chosen.positions)

        query = objects(self.query_classes, self.query_boxes)
        place = tf.gather(self.query_to_photo, rows).flat_values
        starts = tf.gather(self.photo_classes, rows).row_starts()
        first = tf.cast(tf.gather(starts, query.obj_to_img), tf.int32)
        return EncodedScenes(
            image_ids=tf.gather(self.image_ids, rows),
            images=tf.gather(self.images, rows),
            photo=objects(self.photo_classes, self.photo_boxes),
            query=query,
            query_to_photo=tf.where(place < 0, -1, first + place),
            sketches=tf.gather(self.sketches, rows).flat_values,
        )


def _ragged(rows: Sequence[np.ndarray]) -> tf.RaggedTensor:
    lengths = [len(row) for row in rows]
    return tf.RaggedTensor.from_row_lengths(tf.constant(np.concatenate(rows)), lengths)


@LOADERS.register("sketchycoco-sl")
class SketchycocoSl(SceneDataset):
    """Photographs with their scene graphs, and a drawing of each with its own."""

    name = "sketchycoco-sl"
    HParams = HParams
    batch_type = SceneBatch
    own_boxes = True
    has_masks = False
    queries = query_objects
    relations = scene_graph.relations

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        if not any((Path(hparams.sl_dir) / split).is_dir() for split in ("test", "train")):
            raise UserError(
                f"{hparams.sl_dir} holds neither test/ nor train/: sl_dir must be the folder of "
                "SketchyCOCO-SL as published"
            )
        meta = prepared_sets.read_meta(hparams.crops_dir, "coco-crops")
        self.vocabulary = meta.vocabulary
        self._crops = ClassSet(hparams.crops_dir, self.vocabulary, "crops")
        side = self._crops.image_side
        self.sizes = DataSizes(sl_pairs.SCENE_SIDE, side, side, meta.mask_size)
        indices = {name: k for k, name in enumerate(self.vocabulary.names)}
        labels = {
            number: indices[name] for number, name in sl_pairs.CLASSES.items() if name in indices
        }
        self._pairs = functools.cache(functools.partial(PairTensors, hparams.sl_dir, labels, side))

    def source(self, split: str) -> samples.SplitSamples:
        pools = {"crops": self._crops.negative_pools(split)}
        pairs = self._pairs(split).split
        return samples.SplitSamples(pairs, self.batch_size, self.seed, pools=pools)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        pairs, crops = self._pairs(split), self._crops.pools(split)

        def parse(chosen: samples.Samples) -> EncodedScenes:
            scenes = pairs.parse(chosen)
            return scene_batches.add_negatives(scenes, chosen.pools["crops"], crops, self.seed)

        jitter, dropped = self.hparams.query_jitter, self.hparams.query_dropped
        return scene_batches.stages(self, parse, training, jitter, dropped)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("sketchycoco-sl", "scenes"))
