"""'quickdraw-cococrops-tf': the triplets of stage 1. Paper: section 3.1.

sketch record (qdraw_dir, random order) -> its class -> a crop of that class   (crops_dir)
                                                     -> a crop of another class
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from core.dataset import DataSizes, Stage, Vocabulary
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import blocks, prepared_sets, random_draws, records, sources
from dataloaders.batches import TripletBatch
from dataloaders.negatives import check_negatives, negative_rows


@dataclass(frozen=True)
class HParams:
    """Folders of prepared sets."""

    qdraw_dir: str = hp(
        help="sketches in random order (prep_data.quickdraw_to_tfrecord)", folder=True
    )
    crops_dir: str = hp(help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=True)


class _Triplets(NamedTuple):
    """n triplets; images encoded at first, then uint8 (n, side, side, channels)."""

    sketches: tf.Tensor
    positives: tf.Tensor
    negatives: tf.Tensor
    classes: tf.Tensor  # int32 (n,)
    negative_classes: tf.Tensor  # int32 (n,)


@LOADERS.register("quickdraw-cococrops-tf")
class QuickdrawCococrops(sources.ItemLoader):
    """Triplets of a sketch, a crop of its class and a crop of another class."""

    name = "quickdraw-cococrops-tf"
    HParams = HParams
    batch_type = TripletBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        sketch_meta = prepared_sets.read_meta(hparams.qdraw_dir, "quickdraw", "quickdraw-indexed")
        crop_meta = prepared_sets.read_meta(hparams.crops_dir, "coco-crops")
        prepared_sets.check_same_vocabulary(
            {hparams.qdraw_dir: sketch_meta, hparams.crops_dir: crop_meta}
        )
        self._vocabulary = crop_meta.vocabulary
        self._sketch_classes = sources.joined_classes(
            sketch_meta, hparams.qdraw_dir, self._vocabulary
        )
        self._drawings = sketch_meta.drawings
        self._report_sketches = functools.lru_cache(maxsize=None)(self._missing_sketches)
        self._crops = sources.Partners(hparams.crops_dir, self._vocabulary, "crops")
        self._open_items(hparams.qdraw_dir)
        crop = blocks.image_side(self._crops.split("train"))
        self.sizes = DataSizes(crop=crop, sketch=blocks.image_side(self._items("train")))

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the crops' COCO set."""
        return self._vocabulary

    def _missing_sketches(self, split: str) -> None:
        blocks.report_missing(
            self._drawings[split],
            [self._vocabulary.names[k] for k in self._vocabulary.objects],
            f"sketches in the {split} split of {self.hparams.qdraw_dir}",
        )

    def _usable(self, split: str) -> Any:
        self._report_sketches(split)
        rows = self._crops.of(split).row_of_class[self._sketch_classes]
        good = (self._sketch_classes >= 0) & (rows >= 0)
        return functools.partial(sources.class_usable, "coco_class", good)

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        crops = self._crops.of(split)
        check_negatives(crops, f"the {split} split of {self.hparams.crops_dir}")
        return {"crops": crops}

    def _work(self, split: str, training: bool) -> tuple[Stage, ...]:
        crops = self._crops.of(split)
        parse = functools.partial(self._parse, crops)
        return (("parse", parse), ("decode", self._decode), ("assemble", self._assemble))

    def _parse(self, crops: blocks.ClassPools, items: sources.Items) -> _Triplets:
        sketches = records.SketchRecord.parse(items.records)
        classes = tf.gather(self._sketch_classes, sketches.coco_class)
        rows = tf.gather(crops.row_of_class, classes)

        def word(stream: int) -> tf.Tensor:
            return random_draws.bits(self.seed, stream, items.positions)

        others = negative_rows(rows, len(crops.classes), word(sources.NEGATIVE_CLASS))
        pool = items.pools["crops"]
        positives = blocks.pick(pool, rows, word(sources.POSITIVE))
        negatives = blocks.pick(pool, others, word(sources.NEGATIVE_CROP))
        return _Triplets(
            sketches.image,
            records.CropRecord.parse(positives).image,
            records.CropRecord.parse(negatives).image,
            classes,
            tf.gather(crops.classes, others),
        )

    def _decode(self, triplets: _Triplets) -> _Triplets:
        return triplets._replace(
            sketches=blocks.decode_images(triplets.sketches, self.sizes.sketch, 1, "png"),
            positives=blocks.decode_images(triplets.positives, self.sizes.crop, 3, "jpeg"),
            negatives=blocks.decode_images(triplets.negatives, self.sizes.crop, 3, "jpeg"),
        )

    def _assemble(self, triplets: _Triplets) -> TripletBatch:
        images = ("sketches", "positives", "negatives")
        resized = {
            name: blocks.resize_images(getattr(triplets, name), self.image_size) for name in images
        }
        return TripletBatch(**triplets._replace(**resized)._asdict())


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("quickdraw-cococrops-tf", "triplets"))
