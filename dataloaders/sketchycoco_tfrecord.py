"""'sketchycoco-tf': the paired scenes of stage 3 (SketchyCOCO). Paper: sections 3.2, 3.5 and 4.1.

The query shows the sketch that was drawn of each object; scenes hold none without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.dataset import DataSizes, SceneDataset, Stage
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import samples, scene_batches, scene_graph
from dataloaders.batches import SceneBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.class_pools import ClassSet
from dataloaders.prepared_sets import FILES, check_same_vocabulary, read_meta
from dataloaders.queries import query_objects


@dataclass(frozen=True)
class HParams:
    """Folders of prepared sets, and how queries are made in training."""

    sketchycoco_dir: str = hp(
        help="paired scenes (prep_data.sketchycoco_to_tfrecord)", folder=FILES
    )
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=FILES
    )
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


@LOADERS.register("sketchycoco-tf")
class SketchycocoScenes(SceneDataset):
    """Photographs with their scene graphs, the paired sketch for every object."""

    name = "sketchycoco-tf"
    HParams = HParams
    batch_type = SceneBatch
    queries = query_objects
    relations = scene_graph.relations

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        meta = read_meta(hparams.sketchycoco_dir, "sketchycoco-scenes")
        crop_meta = read_meta(hparams.crops_dir, "coco-crops")
        check_same_vocabulary({hparams.sketchycoco_dir: meta, hparams.crops_dir: crop_meta})
        self.vocabulary = meta.vocabulary
        self._scenes = PreparedSplits(hparams.sketchycoco_dir)
        self._crops = ClassSet(hparams.crops_dir, self.vocabulary, "crops")
        self.sizes = DataSizes(
            photo=self._scenes.image_side,
            sketch=meta.crop_size,
            crop=self._crops.image_side,
            mask=meta.mask_size,
        )

    def source(self, split: str) -> samples.SplitSamples:
        pools = {"crops": self._crops.negative_pools(split)}
        scenes = self._scenes.split(split)
        return samples.SplitSamples(scenes, self.batch_size, self.seed, pools=pools)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        crops = self._crops.pools(split)

        def parse(chosen: samples.Samples) -> scene_batches.EncodedScenes:
            scenes = scene_batches.add_paired_queries(scene_batches.parse_scenes(chosen))
            return scene_batches.add_negatives(scenes, chosen.pools["crops"], crops, self.seed)

        jitter, dropped = self.hparams.query_jitter, self.hparams.query_dropped
        return scene_batches.stages(self, parse, training, jitter, dropped)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("sketchycoco-tf", "scenes"))
