"""'coco-tfrecord': the scenes of stage 2 (QuickDrawCOCO-92c). Paper: sections 3.2, 3.5 and 4.1.

The query shows a random sketch of each object's class (qdraw_dir).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.hparams import hp
from core.registry import LOADERS
from dataloaders.scene_loader import PreparedScenes


@dataclass(frozen=True)
class HParams:
    """Folders of prepared sets, and how queries are made in training."""

    coco_dir: str = hp(help="scenes (prep_data.coco_to_tfrecord)", folder=True)
    qdraw_dir: str = hp(help="sketches by class (prep_data.index_quickdrawtf)", folder=True)
    crops_dir: str = hp(help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=True)
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


@LOADERS.register("coco-tfrecord")
class CocoScenes(PreparedScenes):
    """Photographs with their scene graphs, a random sketch of its class for every object."""

    name = "coco-tfrecord"
    HParams = HParams
    scenes_kind = "coco-scenes"

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed, hparams.coco_dir, hparams.qdraw_dir)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("coco-tfrecord", "scenes"))
