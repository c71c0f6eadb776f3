"""'quickdraw-tfrecord' and 'indexed-quickdraw': sketches alone, of either prepared set."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional

import tensorflow as tf

from core.dataset import Dataset, QueryProtocol, Stage, Vocabulary
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import blocks, records, sources
from dataloaders.batches import SketchBatch


@dataclass(frozen=True)
class HParams:
    """Folder of the prepared set."""

    qdraw_dir: str = hp(help="sketches (prep_data.quickdraw_to_tfrecord or index_quickdrawtf)")


@LOADERS.register("quickdraw-tfrecord")
class Quickdraw(Dataset):
    """Sketches of a set in random order. Labels index the set's own `coco_classes`."""

    name = "quickdraw-tfrecord"
    kind = "quickdraw"
    HParams = HParams
    batch_type = SketchBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        meta = records.read_meta(hparams.qdraw_dir, self.kind)
        names = tuple(meta["coco_classes"])
        self._vocabulary = Vocabulary(names, objects=tuple(range(len(names))))
        self._split = functools.lru_cache(maxsize=None)(
            functools.partial(blocks.Split, hparams.qdraw_dir)
        )
        self._side = blocks.image_side(self._split("train"))

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the set's drawings are mapped onto."""
        return self._vocabulary

    def folders(self) -> tuple[str, ...]:
        """qdraw_dir."""
        return (self.hparams.qdraw_dir,)

    def _training_items(self, start_step: int) -> tf.data.Dataset:
        return sources.training_items(
            self._split("train"), self.batch_size, self.seed, start_step, sources.anything, {}
        )

    def _evaluation_items(self, split: str, limit: Optional[int]) -> tf.data.Dataset:
        return sources.evaluation_items(
            self._split(split), self.batch_size, limit, sources.anything, {}
        )

    def _stages(self, split: str, protocol: Optional[QueryProtocol]) -> tuple[Stage, ...]:
        stages = (
            ("parse", lambda items: records.SketchRecord.parse(items.records)),
            ("decode", self._decode),
        )
        return stages if protocol else (("draw", sources.draw_items), *stages)

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
