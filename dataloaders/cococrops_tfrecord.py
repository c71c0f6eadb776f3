"""'cococrops-tfrecord': object crops alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.dataset import Stage, Vocabulary
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import blocks, prepared_sets, records, sources
from dataloaders.batches import CropBatch


@dataclass(frozen=True)
class HParams:
    """Folder of the prepared set."""

    crops_dir: str = hp(help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=True)


@LOADERS.register("cococrops-tfrecord")
class Cococrops(sources.ItemLoader):
    """Crops of a set grouped by class; a training batch mixes blocks of many classes."""

    name = "cococrops-tfrecord"
    HParams = HParams
    batch_type = CropBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        meta = prepared_sets.read_meta(hparams.crops_dir, "coco-crops")
        self._vocabulary = meta.vocabulary
        self._open_items(hparams.crops_dir)
        self._side = blocks.image_side(self._items("train"))

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the crops' COCO set."""
        return self._vocabulary

    def _work(self, split: str, training: bool) -> tuple[Stage, ...]:
        return (
            ("parse", lambda items: records.CropRecord.parse(items.records)),
            ("decode", self._decode),
        )

    def _decode(self, crops: records.Crops) -> CropBatch:
        images = blocks.decode_images(crops.image, self._side, 3, "jpeg")
        return CropBatch(
            blocks.resize_images(images, self.image_size),
            tf.cast(crops.obj_idx, tf.int32),
            crops.image_id,
        )


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("cococrops-tfrecord", "crops"))
