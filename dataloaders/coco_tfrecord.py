"""'coco-tfrecord': the scenes of stage 2 (QuickDrawCOCO-92c). Paper: sections 3.2, 3.5 and 4.1.

The query shows a random sketch of each object's class (qdraw_dir). With `cache_features`, training
reads what the model's frozen encoders see of crops and sketches (`dataloaders.feature_cache`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.dataset import DataSizes, Parts, SceneDataset, Stage
from core.errors import UsageError
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import feature_cache, samples, scene_batches, scene_graph
from dataloaders.batches import SceneBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.class_pools import ClassSet
from dataloaders.prepared_sets import FILES, check_same_vocabulary, read_meta
from dataloaders.queries import query_objects

if TYPE_CHECKING:
    import tensorflow as tf

    from core.model import FrozenEncoder, Model


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
    cache_features: bool = hp(
        False, "training: keep what frozen encoders see, and read that in place of images"
    )
    cache_dir: str = hp(
        "",
        "where features are kept; empty: in the folders of the prepared sets",
        folder=(".",),  # none of its files are data: they can be made anew
    )


@LOADERS.register("coco-tfrecord")
class CocoScenes(SceneDataset):
    """Photographs with their scene graphs, a random sketch of its class for every object."""

    name = "coco-tfrecord"
    HParams = HParams
    batch_type = SceneBatch
    queries = query_objects
    relations = scene_graph.relations
    _width: int | None = None  # C, of cached features
    _frozen: tuple[FrozenEncoder, FrozenEncoder] | None = None

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

    def prepare_for(self, model: Model) -> None:
        if self.hparams.cache_features:
            self._frozen = model.frozen_encoders()

    def train_batches(self, start_step: int = 0, parts: Parts | None = None) -> tf.data.Dataset:
        if not self.hparams.cache_features:
            return super().train_batches(start_step, parts)
        if self._frozen is None:
            raise UsageError("cache_features=True reads what encoders see: prepare_for(model)")
        return _CachedScenes(self, *self._frozen).train_batches(start_step, parts)

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
        return scene_batches.stages(self, parse, training, jitter, dropped, self._width)


class _CachedScenes(CocoScenes):
    """Reads features from the caches of the three sets, for training; draws as `CocoScenes`."""

    def __init__(self, scenes: CocoScenes, photos: FrozenEncoder, sketches: FrozenEncoder) -> None:
        """photos, sketches: the encoders whose features are read."""
        hparams = replace(scenes.hparams, cache_features=False)
        super().__init__(hparams, scenes, scenes.image_size, scenes.seed)

        def cached(folder: str, views: Callable, encoder: FrozenEncoder) -> str:
            def decode(serialized: tf.Tensor) -> feature_cache.Images:
                return views(serialized, self.sizes, self.image_size)

            parent = Path(self.hparams.cache_dir or folder)
            return str(feature_cache.complete(Path(folder), parent, decode, [encoder], ["train"]))

        hps, names = self.hparams, self.vocabulary
        self._scenes = PreparedSplits(cached(hps.coco_dir, scene_batches.crops_to_cache, photos))
        self._crops = ClassSet(cached(hps.crops_dir, feature_cache.crops, photos), names, "crops")
        self._sketches = ClassSet(
            cached(hps.qdraw_dir, feature_cache.sketches, sketches), names, "sketches"
        )
        self._width = photos.width


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("coco-tfrecord", "scenes"))
