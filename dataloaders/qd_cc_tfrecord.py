"""'quickdraw-cococrops-tf': the triplets of stage 1. Paper: section 3.1.

sketch record (qdraw_dir, random order) -> its class -> a crop of that class   (crops_dir)
                                                     -> a crop of another class
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from core.dataset import Dataset, DataSizes, Stage
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import random_draws, records, samples
from dataloaders.batches import TripletBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.class_pools import ClassPools, ClassSet, report_missing
from dataloaders.image_ops import decode_images, resize_images
from dataloaders.prepared_sets import FILES, check_same_vocabulary, read_meta
from dataloaders.random_draws import Stream


@dataclass(frozen=True)
class HParams:
    """Folders of prepared sets."""

    qdraw_dir: str = hp(
        help="sketches in random order (prep_data.quickdraw_to_tfrecord)", folder=FILES
    )
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=FILES
    )


@LOADERS.register("quickdraw-cococrops-tf")
class QuickdrawCococrops(Dataset):
    """Triplets of a sketch, a crop of its class and a crop of another class."""

    name = "quickdraw-cococrops-tf"
    HParams = HParams
    batch_type = TripletBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        sketch_meta = read_meta(hparams.qdraw_dir, "quickdraw", "quickdraw-indexed")
        crop_meta = read_meta(hparams.crops_dir, "coco-crops")
        check_same_vocabulary({hparams.qdraw_dir: sketch_meta, hparams.crops_dir: crop_meta})
        self.vocabulary = crop_meta.vocabulary
        self._drawings = sketch_meta.drawings
        # int32, of each class of the sketch set its vocabulary index
        self._classes = samples.sketch_classes(sketch_meta, hparams.qdraw_dir, self.vocabulary)
        self._sketches = PreparedSplits(hparams.qdraw_dir)
        self._crops = ClassSet(hparams.crops_dir, self.vocabulary, "crops")
        self.sizes = DataSizes(crop=self._crops.image_side, sketch=self._sketches.image_side)
        self._usable = functools.cache(self._usable_classes)  # logs what is missing once a split

    def _usable_classes(self, split: str) -> np.ndarray:
        """Return which classes of the sketch set have crops: bool, indexed by `coco_class`."""
        report_missing(
            self._drawings[split],
            [self.vocabulary.names[k] for k in self.vocabulary.objects],
            f"sketches in the {split} split of {self.hparams.qdraw_dir}",
        )
        rows = self._crops.pools(split).row_of_class[self._classes]
        return (self._classes >= 0) & (rows >= 0)

    def source(self, split: str) -> samples.SplitSamples:
        usable = samples.of_usable_class("coco_class", self._usable(split))
        pools = {"crops": self._crops.negative_pools(split)}
        sketches = self._sketches.split(split)
        return samples.SplitSamples(sketches, self.batch_size, self.seed, usable, pools)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        parse = functools.partial(self._parse, self._crops.pools(split))
        return (("parse", parse), ("decode", self._decode), ("assemble", self._assemble))

    def _parse(self, crops: ClassPools, chosen: samples.Samples) -> TripletBatch:
        """Return triplets of encoded images: string (B,)."""
        sketches = records.SketchRecord.parse(chosen.records)
        classes = tf.gather(self._classes, sketches.coco_class)
        rows = tf.gather(crops.row_of_class, classes)

        def words(stream: Stream) -> tf.Tensor:
            return random_draws.bits(self.seed, stream, chosen.positions)

        others = crops.other_rows(rows, words(Stream.NEGATIVE_CLASS))
        pool = chosen.pools["crops"]
        positives = pool.pick(rows, words(Stream.POSITIVE))
        negatives = pool.pick(others, words(Stream.NEGATIVE_CROP))
        return TripletBatch(
            sketches.image,
            records.CropRecord.parse(positives).image,
            records.CropRecord.parse(negatives).image,
            classes,
            tf.gather(crops.classes, others),
        )

    def _decode(self, triplets: TripletBatch) -> TripletBatch:
        sizes = self.sizes
        return triplets._replace(
            sketches=decode_images(triplets.sketches, sizes.sketch, 1, "png"),
            positives=decode_images(triplets.positives, sizes.crop, 3, "jpeg"),
            negatives=decode_images(triplets.negatives, sizes.crop, 3, "jpeg"),
        )

    def _assemble(self, triplets: TripletBatch) -> TripletBatch:
        return triplets._replace(
            sketches=resize_images(triplets.sketches, self.image_size),
            positives=resize_images(triplets.positives, self.image_size),
            negatives=resize_images(triplets.negatives, self.image_size),
        )


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("quickdraw-cococrops-tf", "triplets"))
