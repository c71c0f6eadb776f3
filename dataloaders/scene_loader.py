"""What the loaders of stages 2 and 3 share: scenes with a photo side and a query side.

scene record            -> photo side: crops, masks, graph
                        -> query side: a sketch of every object, same boxes
crops (crops_dir)       -> synthetic negative: a crop of another class for every object
"""

from __future__ import annotations

import functools
from typing import Any, Optional

from core.dataset import QueryProtocol, Stage, Vocabulary
from dataloaders import assembling, blocks, records, sources
from dataloaders.batches import SceneBatch
from dataloaders.negatives import check_negatives


class SceneLoader(sources.ItemLoader):
    """Photographs with their scene graphs and a sketch for every object.

    A subclass says what its sets are; its hparams name `crops_dir`.
    """

    batch_type = SceneBatch
    scenes_kind: str  # kind of the set of scenes

    def __init__(
        self,
        hparams: Any,
        base: Any,
        image_size: int,
        seed: int,
        scenes_dir: str,
        qdraw_dir: Optional[str] = None,
    ) -> None:
        """scenes_dir: the set of scenes. qdraw_dir: an indexed set that sketches are drawn from at
        random; None: each scene brings the sketches of its objects. The rest as Dataset."""
        super().__init__(hparams, base, image_size, seed)
        crops_dir = hparams.crops_dir
        scene_meta = records.read_meta(scenes_dir, self.scenes_kind)
        metas = {scenes_dir: scene_meta}
        if qdraw_dir is not None:
            metas[qdraw_dir] = records.read_meta(qdraw_dir, "quickdraw-indexed")
        metas[crops_dir] = records.read_meta(crops_dir, "coco-crops")
        records.check_same_vocabulary(metas)
        self._vocabulary = sources.coco_vocabulary(scene_meta)
        self._sketches: Optional[sources.Partners] = None
        if qdraw_dir is not None:
            sources.joined_classes(metas[qdraw_dir], qdraw_dir, self._vocabulary)
            self._sketches = sources.Partners(qdraw_dir, self._vocabulary, "sketches")
        self._crops = sources.Partners(crops_dir, self._vocabulary, "crops")
        self._open_items(scenes_dir)
        self._sides = assembling.Sides(
            scene=blocks.image_side(self._items("train")),
            sketch=(
                blocks.image_side(self._sketches.split("train"))
                if self._sketches
                else int(scene_meta["crop_size"])
            ),
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
        if self._sketches is None:
            return sources.anything
        drawable = self._sketches.of(split).row_of_class >= 0
        return functools.partial(sources.any_object_usable, "obj_idx", drawable)

    def _partners(self, split: str) -> dict[str, blocks.ClassPools]:
        crops = self._crops.of(split)
        check_negatives(crops, f"the {split} split of {self.hparams.crops_dir}")
        partners = {"crops": crops}
        if self._sketches:
            partners["sketches"] = self._sketches.of(split)
        return partners

    def _work(self, split: str, protocol: Optional[QueryProtocol]) -> tuple[Stage, ...]:
        crops = self._crops.of(split)
        sketches = self._sketches.of(split) if self._sketches else None
        sides, seed = self._sides, self.seed
        return (
            ("parse", lambda items: assembling.parse(items, sketches, crops, seed)),
            ("decode", lambda parsed: assembling.decode(parsed, sides, protocol)),
            (
                "assemble",
                lambda parsed: assembling.assemble(parsed, sides, self.image_size, seed, protocol),
            ),
        )
