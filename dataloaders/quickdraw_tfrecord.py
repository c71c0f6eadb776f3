"""'quickdraw-tfrecord' and 'indexed-quickdraw': sketches alone, of either prepared set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.dataset import Stage, Vocabulary
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import blocks, prepared_sets, records, sources
from dataloaders.batches import SketchBatch


@dataclass(frozen=True)
class HParams:
    """Folder of the prepared set."""

    qdraw_dir: str = hp(
        help="sketches (prep_data.quickdraw_to_tfrecord or index_quickdrawtf)", folder=True
    )


@LOADERS.register("quickdraw-tfrecord")
class Quickdraw(sources.ItemLoader):
    """Sketches of a set in random order. Labels index the set's own `coco_classes`."""

    name = "quickdraw-tfrecord"
    kind = "quickdraw"
    HParams = HParams
    batch_type = SketchBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        self._vocabulary = prepared_sets.read_meta(hparams.qdraw_dir, self.kind).vocabulary
        self._open_items(hparams.qdraw_dir)
        self._side = blocks.image_side(self._items("train"))

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the set's drawings are mapped onto."""
        return self._vocabulary

    def _work(self, split: str, training: bool) -> tuple[Stage, ...]:
        return (
            ("parse", lambda items: records.SketchRecord.parse(items.records)),
            ("decode", self._decode),
        )

    def _decode(self, sketches: records.Sketches) -> SketchBatch:
        images = blocks.decode_images(sketches.image, self._side, 1, "png")
        return SketchBatch(
            blocks.resize_images(images, self.image_size), tf.cast(sketches.coco_class, tf.int32)
        )


@LOADERS.register("indexed-quickdraw")
class IndexedQuickdraw(Quickdraw):
    """Sketches of a set grouped by class; a training batch mixes blocks of many classes."""

    name = "indexed-quickdraw"
    kind = "quickdraw-indexed"


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("quickdraw-tfrecord", "sketches"))
