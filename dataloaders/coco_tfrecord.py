"""'coco-tfrecord': the scenes of stage 2 (QuickDrawCOCO-92c). Paper: sections 3.2, 3.5 and 4.1.

The query shows a random sketch of each object's class (qdraw_dir).
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

    coco_dir: str = hp(help="scenes (prep_data.coco_to_tfrecord)", folder=FILES)
    qdraw_dir: str = hp(help="sketches by class (prep_data.index_quickdrawtf)", folder=FILES)
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord)", folder=FILES
    )
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


@LOADERS.register("coco-tfrecord")
class CocoScenes(SceneDataset):
    """Photographs with their scene graphs, a random sketch of its class for every object."""

    name = "coco-tfrecord"
    HParams = HParams
    batch_type = SceneBatch
    queries = query_objects
    relations = scene_graph.relations

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        meta = read_meta(hparams.coco_dir, "coco-scenes")
        sketch_meta = read_meta(hparams.qdraw_dir, "quickdraw-indexed")
        crop_meta = read_meta(hparams.crops_dir, "coco-crops")
        check_same_vocabulary(
            {hparams.coco_dir: meta, hparams.qdraw_dir: sketch_meta, hparams.crops_dir: crop_meta}
        )
        self.vocabulary = meta.vocabulary
        samples.sketch_classes(sketch_meta, hparams.qdraw_dir, self.vocabulary)  # logs unknown ones
        self._scenes = PreparedSplits(hparams.coco_dir)
        self._sketches = ClassSet(hparams.qdraw_dir, self.vocabulary, "sketches")
        self._crops = ClassSet(hparams.crops_dir, self.vocabulary, "crops")
        self.sizes = DataSizes(
            photo=self._scenes.image_side,
            sketch=self._sketches.image_side,
            crop=self._crops.image_side,
            mask=meta.mask_size,
        )

    def source(self, split: str) -> samples.SplitSamples:
        sketches, crops = self._sketches.pools(split), self._crops.negative_pools(split)
        usable = samples.with_object_of_usable_class("obj_idx", sketches.row_of_class >= 0)
        pools = {"crops": crops, "sketches": sketches}
        scenes = self._scenes.split(split)
        return samples.SplitSamples(scenes, self.batch_size, self.seed, usable, pools)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        sketches, crops = self._sketches.pools(split), self._crops.pools(split)

        def parse(chosen: samples.Samples) -> scene_batches.EncodedScenes:
            scenes = scene_batches.parse_scenes(chosen)
            scenes = scene_batches.add_random_queries(
                scenes, chosen.pools["sketches"], sketches, self.seed
            )
            return scene_batches.add_negatives(scenes, chosen.pools["crops"], crops, self.seed)

        jitter, dropped = self.hparams.query_jitter, self.hparams.query_dropped
        return scene_batches.stages(self, parse, training, jitter, dropped)


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("coco-tfrecord", "scenes"))
