"""'quickdraw-cococrops-features': the triplets of stage 1 as features of frozen encoders.

quickdraw-cococrops-tf's draws, read from the caches of both sets (`dataloaders.feature_cache`), and
for each positive one of its pseudo-drawings.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from core.errors import UsageError
from core.hparams import hp
from core.pseudo_drawings import pseudo_drawings
from core.registry import LOADERS
from dataloaders import feature_cache, qd_cc_tfrecord, random_draws, samples
from dataloaders.batches import TripletBatch
from dataloaders.blocks import PreparedSplits
from dataloaders.class_pools import ClassPools, ClassSet
from dataloaders.random_draws import Stream

if TYPE_CHECKING:
    from core.model import Model


@dataclass(frozen=True)
class HParams(qd_cc_tfrecord.HParams):
    """Folders of prepared sets and of their features."""

    cache_dir: str = hp(
        "",
        "where features are kept; empty: in the folders of the prepared sets",
        folder=(".",),  # none of its files are data: they can be made anew
    )
    pseudo_drawings: int = hp(0, "of each crop, each of other edges", low=0, high=64)


@LOADERS.register("quickdraw-cococrops-features")
class QuickdrawCococropsFeatures(qd_cc_tfrecord.QuickdrawCococrops):
    """Triplets of features: what a model's frozen encoders see in the images of
    quickdraw-cococrops-tf."""

    name = "quickdraw-cococrops-features"
    HParams = HParams
    _width: int | None = None  # C

    def prepare_for(self, model: Model) -> None:
        hps = self.hparams
        photos, sketches = model.frozen_encoders()
        folders = {}
        for folder, decode, encoders in (
            (hps.crops_dir, self._crop_views, [photos] + [sketches] * hps.pseudo_drawings),
            (hps.qdraw_dir, self._sketch_views, [sketches]),
        ):
            parent = Path(hps.cache_dir or folder)
            folders[folder] = feature_cache.complete(Path(folder), parent, decode, encoders)
        self._sketches = PreparedSplits(str(folders[hps.qdraw_dir]))
        self._crops = ClassSet(str(folders[hps.crops_dir]), self.vocabulary, "crops")
        self._width = photos.width

    def _sketch_views(self, serialized: tf.Tensor) -> feature_cache.Images:
        return feature_cache.sketches(serialized, self.sizes, self.image_size)

    def _crop_views(self, serialized: tf.Tensor) -> feature_cache.Images:
        (images,), _ = feature_cache.crops(serialized, self.sizes, self.image_size)
        numbers = range(self.hparams.pseudo_drawings)
        drawings = (pseudo_drawings(images, tf.constant([i, 0])) for i in numbers)
        return feature_cache.Images((images, *drawings))

    def source(self, split: str) -> samples.SplitSamples:
        if self._width is None:
            raise UsageError(f"{self.name} reads what a model's encoders see: prepare_for(model)")
        return super().source(split)

    def _parse(self, crops: ClassPools, chosen: samples.Samples) -> TripletBatch:
        triplets = super()._parse(crops, chosen)
        if not self.hparams.pseudo_drawings:
            return triplets
        words = random_draws.bits(self.seed, Stream.PSEUDO_DRAWING, chosen.positions)
        views = 1 + random_draws.below(words, self.hparams.pseudo_drawings)
        return triplets._replace(pseudo_sketches=views)

    def _decode(self, triplets: TripletBatch) -> TripletBatch:
        read = functools.partial(feature_cache.read, width=self._width)
        views = triplets.pseudo_sketches
        return triplets._replace(
            sketches=read(triplets.sketches),
            positives=read(triplets.positives),
            negatives=read(triplets.negatives),
            pseudo_sketches=None if views is None else read(triplets.positives, view=views),
        )

    def _assemble(self, triplets: TripletBatch) -> TripletBatch:
        return triplets
