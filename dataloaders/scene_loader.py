"""What the loaders of stages 2 and 3 share: scenes with a photo side and a query side.

scene             -> photo side: crops, masks, graph
                  -> query side: sketches, their boxes, graph
crops (crops_dir) -> synthetic negative: a crop of another class for every photo object
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from core.dataset import DataSizes, SceneDataset, Stage, Vocabulary
from core.errors import UsageError
from core.evaluation.query_protocols import DrawnScenes, QueryObjects, QueryProtocol
from dataloaders import blocks, prepared_sets, queries, scene_batches, sources
from dataloaders.batches import SceneBatch
from dataloaders.negatives import check_negatives
from dataloaders.scene_graph import triples


class SceneLoader(sources.ItemLoader, SceneDataset):
    """Photographs with their scene graphs, and queries with theirs.

    A subclass says where scenes come from; its hparams name `crops_dir`, `query_jitter` and
    `query_dropped`.
    """

    # Paper: a query in training shows all objects in the photograph's own boxes; here: so by
    # default, and hparams can jitter its boxes and drop objects, because people draw so.

    batch_type = SceneBatch
    _vocabulary: Vocabulary
    _crops: sources.Partners

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the scenes."""
        return self._vocabulary

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        crops = self._crops.of(split)
        check_negatives(crops, f"the {split} split of {self.hparams.crops_dir}")
        return {"crops": crops}

    def queries(self, protocol: QueryProtocol, drawn: DrawnScenes) -> QueryObjects:
        if protocol.boxes == "own" and not self.own_boxes:
            raise UsageError(
                f"the drawings of {self.name} have no boxes of their own: boxes=shared or jittered"
            )
        return queries.under(protocol, drawn, self.seed)

    def relations(
        self,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        image_ids: np.ndarray,
        directions: str,
        side: str,
    ) -> tf.Tensor:
        """The triples of some scenes: int32 (T, 3), see `dataloaders.scene_graph.triples`.

        boxes: float32 (O, 4). obj_to_img: int32 (O,), ascending. image_ids: int64 (N,). directions:
        'canonical' or 'random', drawn for each `side` ('photo' or 'query') apart."""
        words = None
        if directions == "random":
            stream = sources.PHOTO_DIRECTION if side == "photo" else sources.QUERY_DIRECTION
            words = queries.direction_words(image_ids, obj_to_img, self.seed, stream)
        return triples(tf.constant(boxes), tf.constant(obj_to_img), words)

    def _parse(self, split: str) -> Callable[[sources.Items], scene_batches.Parsed]:
        """The function that brings the scenes of a step together with their partners."""
        raise NotImplementedError

    def _work(self, split: str, training: bool) -> tuple[Stage, ...]:
        parse, sizes, seed = self._parse(split), self.sizes, self.seed
        jitter, dropped = self.hparams.query_jitter, self.hparams.query_dropped
        if not training:
            jitter = dropped = 0.0
        return (
            ("parse", lambda items: scene_batches.thin_out(parse(items), seed, dropped)),
            ("decode", lambda parsed: scene_batches.decode(parsed, sizes)),
            (
                "assemble",
                lambda parsed: scene_batches.assemble(
                    parsed, sizes, self.image_size, seed, training, jitter
                ),
            ),
        )


class PreparedScenes(SceneLoader):
    """Scenes of a prepared set, a sketch for every object: the query has the photo's boxes."""

    scenes_kind: str  # kind of the set of scenes

    def __init__(
        self,
        hparams: Any,
        base: Any,
        image_size: int,
        seed: int,
        scenes_dir: str,
        qdraw_dir: str | None = None,
    ) -> None:
        """scenes_dir: the set of scenes. qdraw_dir: an indexed set that sketches are drawn from at
        random; None: each scene brings the sketches of its objects. The rest as Dataset."""
        super().__init__(hparams, base, image_size, seed)
        crops_dir = hparams.crops_dir
        scene_meta = prepared_sets.read_meta(scenes_dir, self.scenes_kind)
        metas = {scenes_dir: scene_meta}
        if qdraw_dir is not None:
            metas[qdraw_dir] = prepared_sets.read_meta(qdraw_dir, "quickdraw-indexed")
        metas[crops_dir] = prepared_sets.read_meta(crops_dir, "coco-crops")
        prepared_sets.check_same_vocabulary(metas)
        self._vocabulary = scene_meta.vocabulary
        self._sketches: sources.Partners | None = None
        if qdraw_dir is not None:
            sources.joined_classes(metas[qdraw_dir], qdraw_dir, self._vocabulary)
            self._sketches = sources.Partners(qdraw_dir, self._vocabulary, "sketches")
        self._crops = sources.Partners(crops_dir, self._vocabulary, "crops")
        self._open_items(scenes_dir)
        self.sizes = DataSizes(
            photo=blocks.image_side(self._items("train")),
            sketch=(
                blocks.image_side(self._sketches.split("train"))
                if self._sketches
                else scene_meta.crop_size
            ),
            crop=blocks.image_side(self._crops.split("train")),
            mask=scene_meta.mask_size,
        )

    def _usable(self, split: str) -> Any:
        if self._sketches is None:
            return sources.anything
        drawable = self._sketches.of(split).row_of_class >= 0
        return functools.partial(sources.any_object_usable, "obj_idx", drawable)

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        partners = super()._partners(split)
        if self._sketches:
            partners["sketches"] = self._sketches.of(split)
        return partners

    def _parse(self, split: str) -> Callable[[sources.Items], scene_batches.Parsed]:
        crops = self._crops.of(split)
        sketches = self._sketches.of(split) if self._sketches else None
        return lambda items: scene_batches.parse(items, sketches, crops, self.seed)
