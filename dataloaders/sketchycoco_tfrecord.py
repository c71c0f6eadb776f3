"""'sketchycoco-tf': the paired scenes of stage 3 (SketchyCOCO). Paper: sections 3.2, 3.5 and 4.1.

The query shows the sketch that was drawn of each object; scenes hold none without.
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

    sketchycoco_dir: str = hp(help="paired scenes (prep_data.sketchycoco_to_tfrecord)", folder=True)
    crops_dir: str = hp(help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=True)
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


@LOADERS.register("sketchycoco-tf")
class SketchycocoScenes(PreparedScenes):
    """Photographs with their scene graphs, the paired sketch for every object."""

    name = "sketchycoco-tf"
    HParams = HParams
    scenes_kind = "sketchycoco-scenes"

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed, hparams.sketchycoco_dir)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("sketchycoco-tf", "scenes"))
