"""'scene-layouts': the masks a model makes of photographs and drawings, and the layouts of them.

trained model -> masks and boxes of both views, the same scenes at a time -> core.label_maps
    -> masks and boxes in one .npz; maps of labels and of instances, a .png a scene
    -> overlaps with the true masks and layouts; some scenes on pages
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.dataset import SceneDataset
from core.errors import UserError
from core.evaluation import mask_metrics, metrics, picture_grids
from core.evaluation.embedded_split import (
    ComparedMasks,
    EmbeddedPhotos,
    EmbeddedQueries,
    EmbeddedScenes,
    Evaluation,
    PredictedObjects,
    compare_masks,
)
from core.evaluation.figures import Figure
from core.files import make_folder, write_atomic
from core.hparams import hp
from core.label_colours import INSTANCE_PALETTE, class_palette
from core.label_maps import BACKGROUND, label_maps
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)

TILE = 224  # pixels of a layout on a page


@dataclass(frozen=True)
class SceneLayoutsHParams(common.SplitHParams):
    """Hparams of 'scene-layouts'."""

    scenes: int = hp(16, "scenes on the pages, drawn by the seed", low=0, high=10_000)


class LayoutMaps(NamedTuple):
    """uint8 (n, S, S) of n scenes, or (S, S) of one; see `core.label_maps.label_maps`."""

    labels: np.ndarray
    instances: np.ndarray


class Predictions(NamedTuple):
    """Predictions for a whole split. masks: packed uint8 (n, M * M / 8), and boxes: float32
    (n, 4), of all objects of a view. overlaps: (view, boxes, masks) -> IoU float64 (N,) of layouts
    with the true ones. shown: scene row -> kind of layout -> its maps, of scenes on the pages."""

    masks: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]
    overlaps: dict[tuple[str, str, str], np.ndarray]
    shown: dict[int, dict[str, LayoutMaps]]


@EXPERIMENTS.register("scene-layouts")
class SceneLayouts(common.SplitExperiment):
    """Writes <results>/<model id>_<loader>_<split>_scene_layouts.npz, .json and pages _1.jpg, ..,
    and maps into the folder of that name."""

    name = "scene-layouts"
    HParams = SceneLayoutsHParams
    ending = "_scene_layouts"

    def check_data(self, dataset: SceneDataset) -> None:
        count = len(dataset.vocabulary.names)
        if count > BACKGROUND:
            raise UserError(f"maps of labels hold {BACKGROUND} classes, {dataset.name} has {count}")

    def run_on(self, evaluation: Evaluation) -> None:
        self.colours = class_palette(evaluation.dataset.vocabulary)
        self.folder = self.path.with_suffix("")
        make_folder(self.folder, "the folder of maps", "choose another results")
        dataset, photos = evaluation.dataset, evaluation.photos
        queries = evaluation.queries(common.drawn_protocol(dataset.own_boxes))
        if photos.masks is None:
            log.warning("%s has no masks: no true layouts and no figures", dataset.name)
        views = {"photo": photos, "sketch": queries}
        predictions, pairs = self._predict(evaluation, views), {}
        if photos.masks is not None:
            pairs = {
                view: compare_masks(photos, side, predictions.masks[view])
                for view, side in views.items()
            }
        saved = self.path.with_suffix(".npz")
        common.save_arrays(
            saved, self.origin, _arrays(photos, queries, predictions, pairs),
            mask_size=evaluation.model.mask_size, vocabulary=list(dataset.vocabulary.names),
        )  # fmt: skip
        common.save_report(
            self.path, self.origin, None,
            [_figures(evaluation, pairs, predictions.overlaps)] if pairs else [],
            pictures=self._save_pages(evaluation, queries, predictions),
        )  # fmt: skip
        print(f"saved: {saved}\nsaved: maps of {photos.num_scenes} scenes in {self.folder}")

    def _predict(self, evaluation: Evaluation, views: dict[str, EmbeddedScenes]) -> Predictions:
        """Go through the split, some scenes at a time, and save the maps of each."""
        photos, mask_size = views["photo"], evaluation.model.mask_size
        has_masks = photos.masks is not None
        means = mask_metrics.unpack(evaluation.class_mean_masks(), mask_size) if has_masks else None
        chosen = picture_grids.random_rows(
            photos.num_scenes, self.hparams.scenes, evaluation.seed
        ).tolist()
        shown = dict.fromkeys(chosen)
        masks, boxes, overlaps = defaultdict(list), defaultdict(list), defaultdict(list)
        for parts in zip(*(evaluation.predict_masks(side) for side in views.values())):
            maps = {}
            if has_masks:
                rows = parts[0].rows
                true_masks = mask_metrics.unpack(photos.masks[rows], mask_size)
                maps["true"] = _maps(true_masks, photos.boxes[rows], photos, parts[0])
            for (view, side), part in zip(views.items(), parts):
                masks[view].append(mask_metrics.pack(part.masks))
                boxes[view].append(part.boxes)
                maps[view] = _maps(part.masks, side.boxes[part.rows], side, part)
                if has_masks:
                    for key, values in _layout_overlaps(maps["true"].labels, side, part, means):
                        overlaps[(view, *key)].append(values)
            scenes = parts[0].scenes
            for place, row in enumerate(range(scenes.start, scenes.stop)):
                of_scene = {
                    kind: LayoutMaps(*(each[place] for each in both)) for kind, both in maps.items()
                }
                self._save_maps(photos.image_ids[row], of_scene)
                if row in shown:
                    shown[row] = of_scene
        concatenated = (
            {key: np.concatenate(arrays) for key, arrays in columns.items()}
            for columns in (masks, boxes, overlaps)
        )
        return Predictions(*concatenated, shown)

    def _save_maps(self, image_id: int, maps: dict[str, LayoutMaps]) -> None:
        palettes = (self.colours, INSTANCE_PALETTE)
        for kind, of_scene in maps.items():
            for name, values, palette in zip(LayoutMaps._fields, of_scene, palettes):
                image = Image.fromarray(values)
                image.putpalette(palette.tobytes())
                path = self.folder / f"{image_id}-{kind}-{name}.png"
                write_atomic(path, picture_grids.image_bytes(image))

    def _save_pages(
        self, evaluation: Evaluation, queries: EmbeddedQueries, predictions: Predictions
    ) -> list[Path]:
        """Save pages of photograph, drawing, its layout and the true one."""
        scenes = list(predictions.shown)
        images, drawings = picture_grids.collect_pictures(
            evaluation, queries, set(scenes), set(scenes), TILE
        )
        overlap = predictions.overlaps.get(("sketch", "drawn", "model"))
        names = dict(enumerate(evaluation.dataset.vocabulary.names))
        ids = evaluation.photos.image_ids
        heads = ["photo", "sketches", "layout from sketches"]
        heads += ["layout of the true masks"] if overlap is not None else []
        rows = []
        for scene, maps in predictions.shown.items():
            drawing = picture_grids.frame(drawings[scene], picture_grids.GREY, 1)
            caption = "" if overlap is None else f"IoU {overlap[scene]:.2f}"
            row = [(images[scene], str(ids[scene])), (drawing, "")]
            for kind, below in (("sketch", caption), ("true", "")):
                if kind in maps:
                    labels = maps[kind].labels
                    row.append((picture_grids.layout(labels, names, TILE, self.colours), below))
            rows.append(row)
        title = f"{self.origin}: layouts in the boxes as drawn"
        return common.save_pages(self.path, rows, heads, title, TILE)


def _maps(
    masks: np.ndarray, boxes: np.ndarray, side: EmbeddedScenes, part: PredictedObjects
) -> LayoutMaps:
    """Compose the layouts of some scenes of a side from masks and boxes of their objects."""
    obj_to_img = side.obj_to_img[part.rows] - np.int32(part.scenes.start)
    count = part.scenes.stop - part.scenes.start
    maps = label_maps(masks, boxes, side.classes[part.rows], obj_to_img, count)
    return LayoutMaps(*(each.numpy() for each in maps))


def _layout_overlaps(
    true: np.ndarray, side: EmbeddedScenes, part: PredictedObjects, class_means: np.ndarray
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield ((boxes, masks), IoU float64 (n,)) of layouts of some scenes with the true labels uint8
    (n, S, S). class_means: uint8 (K, M, M)."""
    masks = {
        "model": part.masks,
        "all_ones": np.ones_like(part.masks),
        "class_mean": class_means[side.classes[part.rows]],
    }
    for where, boxes in (("drawn", side.boxes[part.rows]), ("predicted", part.boxes)):
        for kind, each in masks.items():
            labels = _maps(each, boxes, side, part).labels
            yield (where, kind), mask_metrics.scene_iou(labels, true)


def _figures(
    evaluation: Evaluation,
    pairs: dict[str, ComparedMasks],
    overlaps: dict[tuple[str, str, str], np.ndarray],
) -> list[Figure]:
    figures = [
        metrics.mask_iou_figure("mask-iou", evaluation, view, of_view)
        for view, of_view in pairs.items()
    ]
    for view in pairs:
        for where in ("drawn", "predicted"):
            kinds = (overlaps[view, where, kind] for kind in ("model", "all_ones", "class_mean"))
            figures.append(
                mask_metrics.iou_figure(
                    "layout-iou", evaluation.split, {"view": view, "boxes": where}, *kinds,
                    np.arange(evaluation.photos.num_scenes), evaluation.seed,
                )
            )  # fmt: skip
    return figures


def _arrays(
    photos: EmbeddedPhotos,
    queries: EmbeddedQueries,
    predictions: Predictions,
    pairs: dict[str, ComparedMasks],
) -> dict[str, np.ndarray]:
    """Return the arrays of the .npz; docs/data_formats.md says what each is."""
    arrays = common.scene_arrays(photos, queries)
    for key, view, side in (("photo", "photo", photos), ("query", "sketch", queries)):
        arrays[f"{key}_predicted_boxes"] = predictions.boxes[view]
        arrays[f"{key}_masks"] = predictions.masks[view]
        if pairs:
            depicts = slice(None) if view == "photo" else queries.query_to_photo >= 0
            overlaps = np.full(len(side.classes), np.nan, np.float32)
            overlaps[depicts] = mask_metrics.mask_iou(pairs[view].predicted, pairs[view].true)
            arrays[f"{key}_mask_iou"] = overlaps
    if pairs:
        arrays["true_masks"] = photos.masks
    return arrays
