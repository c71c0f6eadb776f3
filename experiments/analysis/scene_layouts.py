"""'scene-layouts': the masks a model makes of photographs and drawings, and the layouts of them.

trained model -> Evaluation.predict_masks of both views, scene by scene -> core.label_maps
    -> masks and boxes in one .npz; maps of labels and of instances, a .png a scene
    -> overlaps with the true masks and layouts; some scenes on pages
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.errors import UserError
from core.evaluation import mask_metrics, picture_grids
from core.evaluation.embedded_split import (
    ComparedMasks,
    EmbeddedPhotos,
    EmbeddedQueries,
    EmbeddedScenes,
    Evaluation,
    PredictedObjects,
)
from core.evaluation.figure_files import EXPERIMENT_SCHEMA
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Experiment, Trained
from core.files import make_folder, write_atomic, write_npz
from core.hparams import hp
from core.label_maps import BACKGROUND, PALETTE, label_maps
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)

TILE = 224  # pixels of a layout on a page
INSTANCE_PALETTE = np.roll(PALETTE, 1, axis=0)  # there 0 is the background


@dataclass(frozen=True)
class LayoutHParams(common.SplitHParams):
    """Of 'scene-layouts'."""

    scenes: int = hp(16, "scenes on the pages, drawn by the seed", low=0, high=10_000)


class Maps(NamedTuple):
    """uint8 (n, S, S) of n scenes, or (S, S) of one; see `core.label_maps.label_maps`."""

    labels: np.ndarray
    instances: np.ndarray


class MadeOfSplit(NamedTuple):
    """masks: packed uint8 (n, M * M / 8) and boxes: float32 (n, 4), predicted for all objects of a
    view. overlaps: (view, boxes, masks) -> float64 (N,), of layouts with the true ones. pictured:
    scene row -> kind of layout -> its maps."""

    masks: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]
    overlaps: dict[tuple[str, str, str], np.ndarray]
    pictured: dict[int, dict[str, Maps]]


@EXPERIMENTS.register("scene-layouts")
class SceneLayouts(Experiment):
    """Writes <results>/<model id>_<loader>_<split>_scene_layouts.npz, .json and pages _1.jpg, ..,
    and maps into the folder of that name."""

    name = "scene-layouts"
    HParams = LayoutHParams
    needs_model = True
    batch_type = "SceneBatch"

    def run(self, trained: Trained | None) -> None:
        dataset = trained.dataset
        names = dataset.vocabulary.names
        if len(names) > BACKGROUND:
            raise UserError(
                f"maps of labels hold {BACKGROUND} classes, {dataset.name} has {len(names)}"
            )
        evaluation = common.evaluation_on(trained, self.hparams.split)
        name = common.file_name(trained, evaluation.split, "_scene_layouts.npz")
        self.path = self.results / name
        photos = evaluation.photos
        # Queries as they were drawn: here nothing is looked for, so no box gives anything away.
        queries = evaluation.queries(QueryProtocol("own" if dataset.own_boxes else "shared"))
        if photos.masks is None:
            log.warning("%s has no masks: no true layouts and no figures", dataset.name)
        made = self._make(evaluation, {"photo": photos, "sketch": queries})

        pairs = {} if photos.masks is None else _pairs(photos, queries, made.masks)
        about = common.about(trained, evaluation)
        write_npz(
            self.path,
            {
                "schema": EXPERIMENT_SCHEMA,
                **{key: about[key] for key in common.ABOUT},
                "mask_size": evaluation.model.mask_size,
                "vocabulary": list(names),
            },
            _arrays(photos, queries, made, pairs),
        )
        common.report(
            self.path.with_suffix(".json"), about, None,
            [_figures(evaluation, pairs, made.overlaps)] if pairs else [],
            pictures=self._write_pages(evaluation, queries, made),
        )  # fmt: skip
        print(f"saved: {self.path}\nsaved: maps of {photos.num_scenes} scenes in {self._folder}")

    @property
    def _folder(self) -> Path:
        return self.path.with_suffix("")

    def _make(self, evaluation: Evaluation, views: dict[str, EmbeddedScenes]) -> MadeOfSplit:
        """Goes through the split and saves the maps of its scenes on the way."""
        make_folder(self._folder, "the folder of maps", "choose another results")
        photos = views["photo"]
        masked = photos.masks is not None
        side = evaluation.model.mask_size
        means = mask_metrics.unpack(evaluation.class_mean_masks(), side) if masked else None
        chosen = picture_grids.random_rows(
            photos.num_scenes, self.hparams.scenes, evaluation.seed
        ).tolist()
        pictured = {}
        masks, boxes, overlaps = defaultdict(list), defaultdict(list), defaultdict(list)
        for parts in zip(*(evaluation.predict_masks(view) for view in views.values())):
            maps = {}
            if masked:
                solid = mask_metrics.unpack(photos.masks[parts[0].rows], side)
                maps["true"] = _maps(solid, photos.boxes[parts[0].rows], photos, parts[0])
            for (view, objects), part in zip(views.items(), parts):
                masks[view].append(mask_metrics.pack(part.masks))
                boxes[view].append(part.boxes)
                maps[view] = _maps(part.masks, objects.boxes[part.rows], objects, part)
                if masked:
                    for key, values in _compared(maps["true"].labels, objects, part, means):
                        overlaps[(view, *key)].append(values)
            scenes = parts[0].scenes
            for place, row in enumerate(range(scenes.start, scenes.stop)):
                of_scene = {
                    kind: Maps(*(each[place] for each in both)) for kind, both in maps.items()
                }
                self._save_maps(photos.image_ids[row], of_scene)
                if row in chosen:
                    pictured[row] = of_scene
        joined = (
            {key: np.concatenate(rows) for key, rows in columns.items()}
            for columns in (masks, boxes, overlaps)
        )
        return MadeOfSplit(*joined, {row: pictured[row] for row in chosen})

    def _save_maps(self, image_id: int, maps: dict[str, Maps]) -> None:
        for kind, of_scene in maps.items():
            for what, values, palette in zip(Maps._fields, of_scene, (PALETTE, INSTANCE_PALETTE)):
                image = Image.fromarray(values)
                image.putpalette(palette.tobytes())
                path = self._folder / f"{image_id}-{kind}-{what}.png"
                write_atomic(path, picture_grids.image_bytes(image))

    def _write_pages(
        self, evaluation: Evaluation, queries: EmbeddedQueries, made: MadeOfSplit
    ) -> list[Path]:
        """Pages of photograph, drawing, its layout and the true one."""
        rows = list(made.pictured)
        images, drawings = picture_grids.collect_pictures(
            evaluation, queries, set(rows), set(rows), TILE
        )
        overlap = made.overlaps.get(("sketch", "drawn", "model"))
        names = evaluation.dataset.vocabulary.names
        paths = []
        for first in range(0, len(rows), picture_grids.ROWS):
            lines = []
            for row in rows[first : first + picture_grids.ROWS]:
                maps = made.pictured[row]
                line = [
                    (images[row], str(evaluation.photos.image_ids[row])),
                    (picture_grids.frame(drawings[row], picture_grids.GREY, 1), ""),
                    (_tile(maps["sketch"], names), ""),
                ]
                if overlap is not None:
                    line[-1] = (line[-1][0], f"IoU {overlap[row]:.2f}")
                    line.append((_tile(maps["true"], names), ""))
                lines.append(line)
            heads = ["photo", "sketches", "layout from sketches", "layout of the true masks"]
            title = f"{picture_grids.page_title(evaluation)}: layouts in the boxes as drawn"
            page = picture_grids.grid(lines, heads[: len(lines[0])], title, TILE)
            number = first // picture_grids.ROWS + 1
            paths.append(self.path.with_name(f"{self.path.stem}_{number}.jpg"))
            write_atomic(paths[-1], picture_grids.image_bytes(page, "JPEG", quality=90))
        return paths


def _maps(
    masks: np.ndarray, boxes: np.ndarray, side: EmbeddedScenes, part: PredictedObjects
) -> Maps:
    """The layouts of some scenes of a side, with these masks and boxes of their objects."""
    obj_to_img = side.obj_to_img[part.rows] - np.int32(part.scenes.start)
    count = part.scenes.stop - part.scenes.start
    maps = label_maps(masks, boxes, side.classes[part.rows], obj_to_img, count)
    return Maps(*(each.numpy() for each in maps))


def _compared(
    true: np.ndarray, side: EmbeddedScenes, part: PredictedObjects, class_means: np.ndarray
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((boxes, masks), overlaps float64 (n,)) of the layouts of some scenes with the true labels
    uint8 (n, S, S). class_means: uint8 (K, M, M)."""
    masks = {
        "model": part.masks,
        "all_ones": np.ones_like(part.masks),
        "class_mean": class_means[side.classes[part.rows]],
    }
    for where, boxes in (("drawn", side.boxes[part.rows]), ("predicted", part.boxes)):
        for kind, each in masks.items():
            labels = _maps(each, boxes, side, part).labels
            yield (where, kind), mask_metrics.scene_iou(labels, true)


def _pairs(
    photos: EmbeddedPhotos, queries: EmbeddedQueries, masks: dict[str, np.ndarray]
) -> dict[str, ComparedMasks]:
    """The objects of each view that are in the photograph, with their true masks."""
    pairs = {}
    for view, side, own in (
        ("photo", photos, np.arange(len(photos.classes), dtype=np.int32)),
        ("sketch", queries, queries.query_to_photo),
    ):
        depicts = own >= 0
        columns = (side.classes[depicts], side.obj_to_img[depicts], own[depicts])
        pairs[view] = ComparedMasks(masks[view][depicts], photos.masks[own[depicts]], *columns)
    return pairs


def _figures(
    evaluation: Evaluation,
    pairs: dict[str, ComparedMasks],
    overlaps: dict[tuple[str, str, str], np.ndarray],
) -> list[Figure]:
    means = evaluation.class_mean_masks()
    figures = [
        mask_metrics.mask_iou_figure("mask-iou", evaluation, view, of_view, means)
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
    made: MadeOfSplit,
    pairs: dict[str, ComparedMasks],
) -> dict[str, np.ndarray]:
    """What the .npz holds; docs/data_formats.md says what each is."""
    arrays = {"image_ids": photos.image_ids, "query_to_photo": queries.query_to_photo}
    for key, view, side in (("photo", "photo", photos), ("query", "sketch", queries)):
        arrays.update({
            f"{key}_classes": side.classes,
            f"{key}_obj_to_img": side.obj_to_img,
            f"{key}_boxes": side.boxes,
            f"{key}_predicted_boxes": made.boxes[view],
            f"{key}_masks": made.masks[view],
        })  # fmt: skip
        if pairs:
            depicts = slice(None) if view == "photo" else queries.query_to_photo >= 0
            overlaps = np.full(len(side.classes), np.nan, np.float32)
            overlaps[depicts] = mask_metrics.mask_iou(pairs[view].predicted, pairs[view].true)
            arrays[f"{key}_mask_iou"] = overlaps
    if pairs:
        arrays["true_masks"] = photos.masks
    return arrays


def _tile(maps: Maps, names: Sequence[str]) -> Image.Image:
    """A layout in the colours of its classes, each object with its name where it shows."""
    tile = Image.fromarray(PALETTE[maps.labels]).resize((TILE, TILE), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=13)
    for instance in np.unique(maps.instances[maps.instances > 0]):
        y, x = np.argwhere(maps.instances == instance).mean(axis=0) * TILE / len(maps.labels)
        name = names[maps.labels[maps.instances == instance][0]]
        draw.text(
            (x, y), name, picture_grids.INK, font, anchor="mm", stroke_width=2, stroke_fill="white"
        )
    return picture_grids.frame(tile, picture_grids.GREY, 1)
