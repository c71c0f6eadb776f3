"""'quickdraw-tfrecord' and 'indexed-quickdraw': sketches alone, of either prepared set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.dataset import Dataset, DataSizes, Stage
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import prepared_sets, records
from dataloaders.batches import SketchBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.image_ops import decode_images, resize_images
from dataloaders.samples import SplitSamples


@dataclass(frozen=True)
class HParams:
    """Folder of the prepared set."""

    qdraw_dir: str = hp(
        help="sketches (prep_data.quickdraw_to_tfrecord or index_quickdrawtf)",
        folder=prepared_sets.FILES,
    )


@LOADERS.register("quickdraw-tfrecord")
class Quickdraw(Dataset):
    """Sketches of a set in random order. Labels index the set's own `coco_classes`."""

    name = "quickdraw-tfrecord"
    kind = "quickdraw"
    HParams = HParams
    batch_type = SketchBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        self.vocabulary = prepared_sets.read_meta(hparams.qdraw_dir, self.kind).vocabulary
        self._sketches = PreparedSplits(hparams.qdraw_dir)
        self.sizes = DataSizes(sketch=self._sketches.image_side)

    def source(self, split: str) -> SplitSamples:
        return SplitSamples(self._sketches.split(split), self.batch_size, self.seed)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        return (
            ("parse", lambda samples: records.SketchRecord.parse(samples.records)),
            ("decode", self._decode),
        )

    def _decode(self, sketches: records.Sketches) -> SketchBatch:
        images = decode_images(sketches.image, self.sizes.sketch, 1, "png")
        classes = tf.cast(sketches.coco_class, tf.int32)
        return SketchBatch(resize_images(images, self.image_size), classes)


@LOADERS.register("indexed-quickdraw")
class IndexedQuickdraw(Quickdraw):
    """Sketches of a set grouped by class; a training batch mixes blocks of many classes."""

    name = "indexed-quickdraw"
    kind = "quickdraw-indexed"


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("quickdraw-tfrecord", "sketches"))
