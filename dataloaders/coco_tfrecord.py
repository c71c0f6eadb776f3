"""'coco-tfrecord': the scenes of stage 2 (QuickDrawCOCO-92c). Paper: sections 3.2, 3.5 and 4.1.

scene record (coco_dir) -> photo side: crops, masks, graph
                        -> query side: a sketch of each object's class (qdraw_dir), same boxes
                        -> synthetic negative: a crop of another class (crops_dir) an object
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional

from core.dataset import QueryProtocol, Stage, Vocabulary
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import assembling, blocks, records, sources
from dataloaders.batches import SceneBatch
from dataloaders.negatives import check_negatives


@dataclass(frozen=True)
class HParams:
    """Folders of prepared sets."""

    coco_dir: str = hp(help="scenes (prep_data.coco_to_tfrecord)", folder=True)
    qdraw_dir: str = hp(help="sketches by class (prep_data.index_quickdrawtf)", folder=True)
    crops_dir: str = hp(help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=True)


@LOADERS.register("coco-tfrecord")
class CocoScenes(sources.ItemLoader):
    """Photographs with their scene graphs, a random sketch of its class for every object."""

    name = "coco-tfrecord"
    HParams = HParams
    batch_type = SceneBatch

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        scene_meta = records.read_meta(hparams.coco_dir, "coco-scenes")
        sketch_meta = records.read_meta(hparams.qdraw_dir, "quickdraw-indexed")
        crop_meta = records.read_meta(hparams.crops_dir, "coco-crops")
        records.check_same_vocabulary(
            {
                hparams.coco_dir: scene_meta,
                hparams.qdraw_dir: sketch_meta,
                hparams.crops_dir: crop_meta,
            }
        )
        self._vocabulary = sources.coco_vocabulary(scene_meta)
        sources.joined_classes(sketch_meta, hparams.qdraw_dir, self._vocabulary)
        self._sketches = sources.Partners(hparams.qdraw_dir, self._vocabulary, "sketches")
        self._crops = sources.Partners(hparams.crops_dir, self._vocabulary, "crops")
        self._open_items(hparams.coco_dir)
        self._sides = assembling.Sides(
            scene=blocks.image_side(self._items("train")),
            sketch=blocks.image_side(self._sketches.split("train")),
            crop=blocks.image_side(self._crops.split("train")),
            mask=int(scene_meta["mask_size"]),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the scenes."""
        return self._vocabulary

    @property
    def mask_size(self) -> int:
        """M, the side of a batch's masks in pixels."""
        return self._sides.mask

    def _usable(self, split: str) -> Any:
        drawable = self._sketches.of(split).row_of_class >= 0
        return functools.partial(sources.any_object_usable, "obj_idx", drawable)

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        crops = self._crops.of(split)
        check_negatives(crops, f"the {split} split of {self.hparams.crops_dir}")
        return {"crops": crops, "sketches": self._sketches.of(split)}

    def _work(self, split: str, protocol: Optional[QueryProtocol]) -> tuple[Stage, ...]:
        sketches, crops = self._sketches.of(split), self._crops.of(split)
        sides, seed = self._sides, self.seed
        return (
            ("parse", lambda items: assembling.parse(items, sketches, crops, seed)),
            ("decode", lambda parsed: assembling.decode(parsed, sides, protocol)),
            (
                "assemble",
                lambda parsed: assembling.assemble(parsed, sides, self.image_size, seed, protocol),
            ),
        )


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("coco-tfrecord", "scenes"))
