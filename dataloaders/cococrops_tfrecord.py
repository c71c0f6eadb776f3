"""'cococrops-tfrecord': object crops alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.dataset import Dataset, DataSizes, Stage
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import prepared_sets, records
from dataloaders.batches import CropBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.image_ops import decode_images, resize_images
from dataloaders.samples import SplitSamples


@dataclass(frozen=True)
class HParams:
    """Folder of the prepared set."""

    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=prepared_sets.FILES
    )


@LOADERS.register("cococrops-tfrecord")
class Cococrops(Dataset):
    """Crops of a set grouped by class; a training batch mixes blocks of many classes."""

    name = "cococrops-tfrecord"
    HParams = HParams
    batch_type = CropBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        self.vocabulary = prepared_sets.read_meta(hparams.crops_dir, "coco-crops").vocabulary
        self._crops = PreparedSplits(hparams.crops_dir)
        self.sizes = DataSizes(crop=self._crops.image_side)

    def source(self, split: str) -> SplitSamples:
        return SplitSamples(self._crops.split(split), self.batch_size, self.seed)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        return (
            ("parse", lambda samples: records.CropRecord.parse(samples.records)),
            ("decode", self._decode),
        )

    def _decode(self, crops: records.Crops) -> CropBatch:
        images = decode_images(crops.image, self.sizes.crop, 3, "jpeg")
        classes = tf.cast(crops.obj_idx, tf.int32)
        return CropBatch(resize_images(images, self.image_size), classes, crops.image_id)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("cococrops-tfrecord", "crops"))
