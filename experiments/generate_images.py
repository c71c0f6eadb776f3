"""'generate-images': photographs from sketched scenes.

trained model -> masks and boxes of the objects of each scene
              -> core.label_maps, over the photograph's background stuff
              -> maps of labels and instances -> generator -> picture

Always from sketches; by hparams also from the photograph's crops, from both mixed, from the
mirrored drawing, and from the true masks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from PIL import Image
from tqdm import tqdm

from core import geometry, hparams, label_maps
from core.dataset import SceneDataset
from core.errors import UserError
from core.evaluation import mask_metrics, picture_grids
from core.evaluation.embedded_split import EmbeddedQueries, EmbeddedScenes, Evaluation
from core.files import atomic_folder, make_folder, read_json
from core.hparams import hp
from core.label_colours import coco_names
from core.progress import progress
from core.provenance import digest, hparam_files
from core.registry import EXPERIMENTS
from experiments import common
from experiments.analysis import mixed_queries
from SPADE import generators

log = logging.getLogger(__name__)

# Kinds of layouts: what each is made of, and the hparam that asks for it.
KINDS = {
    "sketch": ("sketches", ""),
    "image": ("crops", "generate_from_image"),
    "mixed": ("mixed", "generate_from_mixed"),
    "flipped": ("flipped", "flipped_sketches"),
    "gt": ("true masks", "generate_from_gt"),
}
CROP_SHARE = 0.5  # of the objects of mixed scenes
RECORD, STRIP = "scene.json", "strip.jpg"  # in the folder of a finished scene


@dataclass(frozen=True)
class GenerateImagesHParams(common.SplitHParams):
    """Hparams of 'generate-images'."""

    generator: str = hp(
        generators.DEFAULT, "address of a server, weights (python -m SPADE.convert), or none"
    )
    timeout: float = hp(generators.TIMEOUT, "seconds for a server's answer", low=0.01, high=86_400)
    retries: int = hp(generators.RETRIES, "of a request to a server", low=0, high=1000)
    replace: bool = hp(False, "make scenes anew that are there with other settings")
    boxes: str = hp("drawn", "of the objects in layouts", choices=("drawn", "predicted"))
    generate_from_image: bool = hp(False, "from the crops of the photograph too")
    generate_from_mixed: bool = hp(False, "from scenes half sketched, half cropped too")
    flipped_sketches: bool = hp(False, "from the mirrored drawing too")
    generate_from_gt: bool = hp(False, "from the photograph's true masks and boxes too")
    scenes: int = hp(0, "at most so many scenes, drawn by the seed; 0: all", low=0, high=10_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        generators.find(self.generator)  # raises UsageError

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of layouts asked for."""
        return tuple(kind for kind, (_, flag) in KINDS.items() if not flag or getattr(self, flag))


class LayoutObjects(NamedTuple):
    """The n objects of a whole split, as the layouts of one kind have them."""

    side: EmbeddedScenes  # whose objects they are
    masks: np.ndarray  # uint8 (n, M * M / 8), packed
    boxes: np.ndarray  # float32 (n, 4)
    is_crop: np.ndarray  # bool (n,): shown as the photograph's crop, the rest as sketches


@EXPERIMENTS.register("generate-images")
class GenerateImages(common.SplitExperiment):
    """Writes a folder <results>/<model id>_<loader>_<split>_images/<image id> for each scene, and
    <results>/<model id>_<loader>_<split>_images.json with a page of some.

    A folder appears when all of it is written. Pictures that are there already, made with the same
    settings, are kept; where they were made with others, nothing is done without `replace`."""

    name = "generate-images"
    HParams = GenerateImagesHParams
    ending = "_images"

    def prepare(self) -> None:
        super().prepare()
        options = self.hparams
        self.generator = generators.find(options.generator, options.timeout, options.retries)
        if self.generator:
            self.generator.check()

    def check_data(self, dataset: SceneDataset) -> None:
        self.labels = label_maps.coco_labels(dataset.vocabulary.ids)  # uint8 (K,), of each class
        self.names = coco_names(dataset.vocabulary)
        if len(self.labels) != len(dataset.vocabulary.names):
            raise UserError(f"the classes of {dataset.name} have no COCO-Stuff ids: no layouts")
        if self.hparams.generate_from_gt and not dataset.has_masks:
            raise UserError(f"{dataset.name} has no masks: generate_from_gt needs them")
        if self.generator:
            self.generator.open()

    def check_results(self, evaluation: Evaluation) -> None:
        dataset, folder = evaluation.dataset, self.path.with_suffix("")
        # The data by what they are, wherever they lie.
        data = hparams.to_dict(dataset.hparams)
        for name, files in hparam_files(dataset.hparams).items():
            data[name] = digest(files)
        self.settings = {
            **common.origin_entries(self.origin),
            "weights": evaluation.model.weights_digest(),
            **{f"data.{name}": value for name, value in data.items()},
            "boxes": self.hparams.boxes,
            "generator": self.generator.identity if self.generator else generators.NONE,
        }
        others = [
            difference
            for scene in sorted(folder.glob("[0-9]*"))
            if (difference := _difference(scene, self.settings))
        ]
        if others and not self.hparams.replace:
            raise UserError(
                f"{len(others)} scenes in {folder} were made with other settings ({others[0]}): "
                "choose another results, or make them anew with replace=True"
            )

    def run_on(self, evaluation: Evaluation) -> None:
        kinds, folder = self.hparams.kinds, self.path.with_suffix("")
        make_folder(folder, "the folder of scenes", "choose another results")
        names = _wanted_pictures(kinds, self.generator is not None)
        wanted = {STRIP, *(f"{name}.png" for name in names)}
        ids = evaluation.photos.image_ids.tolist()
        count = self.hparams.scenes or len(ids)
        chosen = picture_grids.random_rows(len(ids), count, evaluation.seed)
        scenes = [folder / str(ids[row]) for row in chosen]
        kept = [_record_to_keep(scene, self.settings) for scene in scenes]
        missing = {
            row: (scene, record)
            for row, scene, record in zip(chosen.tolist(), scenes, kept)
            if wanted - record.files.keys()
        }
        if missing:
            objects = {kind: self._layout_objects(evaluation, kind) for kind in kinds}
            total = len(missing) * len(kinds)
            with progress(None, "pictures", total=total, unit="pictures") as bar:
                for row, pictures in self._draw_scenes(evaluation, objects, missing, bar):
                    scene, record = missing[row]
                    # Of layouts alone: the pictures that are there have their own generator.
                    settings = (not self.generator and record.settings) or self.settings
                    title = f"{self.origin}: {ids[row]}"
                    _save_scene(scene, pictures, self.names, title, settings)

        shown = scenes[: picture_grids.ROWS]
        opened = [{name: Image.open(scene / f"{name}.png") for name in names} for scene in shown]
        captions = [scene.name for scene in shown]
        rows, heads = _strips(opened, captions, self.names, picture_grids.TILE)
        title = f"{self.origin}: boxes={self.hparams.boxes}"
        pages = common.save_pages(self.path, rows, heads, title)
        common.save_report(
            self.path, self.origin, None, [], pictures=pages,
            scenes=len(chosen), made=len(missing), kinds=list(kinds),
            boxes=self.hparams.boxes, generator=self.settings["generator"],
        )  # fmt: skip
        print(f"saved: {len(missing)} scenes in {folder}; kept: {len(chosen) - len(missing)}")

    def _layout_objects(self, evaluation: Evaluation, kind: str) -> LayoutObjects:
        """Return the objects of all scenes: 2 kB each."""
        photos = evaluation.photos
        if kind == "gt":
            return LayoutObjects(
                photos, photos.masks, photos.boxes, np.ones(len(photos.boxes), bool)
            )
        if kind == "flipped":
            evaluation = evaluation.mirror()
        drawn = common.drawn_protocol(evaluation.dataset.own_boxes)
        side = photos if kind == "image" else evaluation.queries(drawn)
        is_crop = np.full(len(side.boxes), kind == "image")
        if kind == "mixed":
            threshold = mixed_queries.draw_crops(side, photos, evaluation.seed).threshold
            is_crop = (threshold < CROP_SHARE) & (side.query_to_photo >= 0)
            vectors = np.where(is_crop[:, None], photos.objects[side.query_to_photo], side.objects)
            side = replace(side, objects=vectors)
        parts = [
            (mask_metrics.pack(part.masks >= label_maps.SOLID), part.boxes)
            for part in evaluation.predict_masks(side)
        ]
        masks, predicted = (np.concatenate(columns) for columns in zip(*parts))
        boxes = side.boxes if self.hparams.boxes == "drawn" else predicted
        return LayoutObjects(side, masks, boxes, is_crop)

    def _draw_scenes(
        self,
        evaluation: Evaluation,
        objects: Mapping[str, LayoutObjects],
        missing: Mapping[int, tuple[Path, Record]],
        bar: tqdm,
    ) -> Iterator[tuple[int, dict[str, Image.Image]]]:
        """Yield (row, name -> picture) of scenes. missing: row -> folder, and what it keeps. bar:
        counts layouts, with their pictures."""
        first, first_crop, first_sketch = 0, 0, 0  # rows of the batches before
        for batch in evaluation.dataset.eval_batches(evaluation.split):
            rows = range(first, first + len(batch.image_ids))
            if not missing.keys().isdisjoint(rows):
                maps = {
                    kind: compose(
                        each, rows, self.labels, evaluation.model.mask_size,
                        _background(batch.stuff, self.labels, mirrored=kind == "flipped"),
                    )
                    for kind, each in objects.items()
                }  # fmt: skip
                crops, sketches = batch.crops.numpy(), batch.sketches.numpy()
            for place, row in enumerate(rows):
                if row not in missing:
                    continue
                photo = Image.fromarray(batch.images[place].numpy())
                photo = photo.resize((label_maps.SIDE, label_maps.SIDE), Image.Resampling.LANCZOS)
                folder, record = missing[row]
                pictures = {"photo": photo, **_open_pictures(folder, record.files)}
                for kind, each in objects.items():
                    if isinstance(each.side, EmbeddedQueries):
                        drawn = sketches[:, :, ::-1] if kind == "flipped" else sketches
                        pictures[kind] = _drawing(each, row, crops, drawn, first_crop, first_sketch)
                    # A layout that is there stays, for its picture was made of it.
                    label, instance = (
                        np.asarray(pictures.get(f"{kind}-{what}", both[place]))
                        for what, both in zip(("labels", "instances"), maps[kind])
                    )
                    pictures[f"{kind}-labels"] = Image.fromarray(label)
                    pictures[f"{kind}-instances"] = Image.fromarray(instance)
                    pictures[f"{kind}-layout"] = picture_grids.layout(
                        label, self.names, label_maps.SIDE
                    )
                    if self.generator and f"{kind}-generated" not in pictures:
                        made = self.generator.generate(label, instance, np.asarray(photo))
                        pictures[f"{kind}-generated"] = generators.to_image(made)
                    bar.update()
                yield row, pictures
            first += len(rows)
            first_crop += len(batch.crops)
            first_sketch += len(batch.sketches)


def compose(
    objects: LayoutObjects,
    rows: range,
    labels: np.ndarray,
    mask_size: int,
    stuff: tuple[np.ndarray, ...] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the layouts of some scenes: maps of labels (COCO-Stuff id - 1, 255 = unknown) and of
    instances, both uint8 (n, 256, 256).

    labels: uint8 (K,), of each class. stuff: as of `label_maps.label_maps`."""
    side = objects.side
    own = slice(*np.searchsorted(side.obj_to_img, [rows.start, rows.stop]).tolist())
    label, instance = label_maps.label_maps(
        mask_metrics.unpack(objects.masks[own], mask_size),
        objects.boxes[own],
        labels[side.classes[own]],
        side.obj_to_img[own] - np.int32(rows.start),
        len(rows),
        stuff=stuff,
    )
    return label.numpy(), instance.numpy()


def _background(stuff: Any, labels: np.ndarray, mirrored: bool) -> tuple[np.ndarray, ...] | None:
    """Return a batch's background stuff for `label_maps`; None of a set without."""
    if stuff is None:
        return None
    masks, boxes = stuff.masks.numpy(), stuff.boxes.numpy()
    if mirrored:
        masks, boxes = masks[:, :, ::-1], geometry.mirrored(boxes)
    return masks, boxes, labels[stuff.classes.numpy()], stuff.stuff_to_img.numpy()


def _drawing(
    objects: LayoutObjects,
    row: int,
    crops: np.ndarray,
    sketches: np.ndarray,
    first_crop: int,
    first_sketch: int,
) -> Image.Image:
    """Draw a scene's sketches, and crops in the place of those shown as such.

    crops, sketches: uint8, of a batch; first_crop, first_sketch: rows of the split before it."""
    queries = objects.side
    own = np.flatnonzero(queries.obj_to_img == row)
    drawn, cropped = own[~objects.is_crop[own]], own[objects.is_crop[own]]
    picture = picture_grids.scene_drawing(
        sketches[queries.rows[drawn] - first_sketch], queries.boxes[drawn], label_maps.SIDE
    )
    pixels = crops[queries.query_to_photo[cropped] - first_crop]
    for crop, box in zip(pixels, queries.boxes[cropped]):
        x0, y0, x1, y1 = np.round(np.clip(box, 0, 1) * label_maps.SIDE).astype(int).tolist()
        size = (max(1, x1 - x0), max(1, y1 - y0))
        picture.paste(Image.fromarray(crop).resize(size), (x0, y0))
    return picture


# ---- the folder of a scene -----------------------------------------------------------------------


class Record(msgspec.Struct):
    """The settings that a scene was made with, and its files with their bytes."""

    settings: dict[str, Any]
    files: dict[str, int]


def _read_record(folder: Path) -> Record:
    """Return the record of a scene's folder; an empty one where it is missing or damaged."""
    try:
        return read_json(folder / RECORD, Record)
    except UserError:
        return Record({}, {})


def _difference(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return what keeps the pictures of a scene's folder from those of a run; '' for nothing.
    Layouts alone go with the pictures of any generator."""
    there = _read_record(folder).settings
    if not there:
        pictures = any(folder.glob("*-generated.png"))
        return f"{folder / RECORD} cannot be read" if pictures else ""
    differing = [name for name in settings if settings[name] != there.get(name)]
    if generators.NONE in (settings["generator"], there.get("generator")):
        differing = [name for name in differing if name != "generator"]
    return ", ".join(
        f"{name}: {str(there.get(name))[:40]} there, {str(settings[name])[:40]} now"
        for name in differing
    )


def _record_to_keep(folder: Path, settings: Mapping[str, Any]) -> Record:
    """Return the record of a scene with those files that are whole; an empty one of a scene made
    with other settings."""
    if _difference(folder, settings):
        return Record({}, {})
    record = _read_record(folder)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*")}
    return Record(record.settings, dict(record.files.items() & sizes.items()))


def _open_pictures(folder: Path, names: Iterable[str]) -> dict[str, Image.Image]:
    """Read the PNGs among the files of a scene, by their names without .png."""
    pictures = {}
    for path in (folder / name for name in names if name.endswith(".png")):
        with Image.open(path) as image:
            pictures[path.stem] = image.copy()
    return pictures


def _wanted_pictures(kinds: Sequence[str], has_generator: bool) -> list[str]:
    """Return the names of the pictures of a scene, without .png."""
    endings = ("labels", "instances", "layout", *(["generated"] if has_generator else []))
    drawn = [kind for kind in kinds if kind not in ("image", "gt")]
    return ["photo", *drawn, *(f"{kind}-{ending}" for kind in kinds for ending in endings)]


def _save_scene(
    folder: Path,
    pictures: dict[str, Image.Image],
    names: Mapping[int, str],
    title: str,
    settings: Mapping[str, Any],
) -> None:
    side = label_maps.SIDE
    strip = picture_grids.grid(*_strips([pictures], [""], names, side), title, side)
    files = {
        f"{name}.png": picture_grids.image_bytes(picture) for name, picture in pictures.items()
    }
    files[STRIP] = picture_grids.image_bytes(strip, "JPEG", quality=90)
    sizes = {name: len(data) for name, data in sorted(files.items())}
    content = {"settings": settings, "files": sizes}
    files[RECORD] = json.dumps(content, indent=1, ensure_ascii=False).encode()
    with atomic_folder(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def _strips(
    scenes: Sequence[Mapping[str, Image.Image]],
    captions: Sequence[str],
    names: Mapping[int, str],
    side: int,
) -> tuple[list[list[tuple[Image.Image, str]]], list[str]]:
    """Return a row of tiles for each scene, and the heads of the columns: photograph, and of each
    kind the drawing, the layout and the picture. names: of labels. side: of the tiles."""
    heads = {"photo": "photo"}
    for kind, (source, _) in KINDS.items():
        heads[kind] = source
        heads[f"{kind}-layout"] = f"layout from {source}"
        heads[f"{kind}-generated"] = f"picture from {source}"
    heads = {name: head for name, head in heads.items() if name in scenes[0]}
    rows = []
    for scene, caption in zip(scenes, captions):
        tiles = [
            picture_grids.frame(scene[name].convert("RGB"), picture_grids.GREY, 1)
            if not name.endswith("-layout")  # drawn anew, for letters of the right size
            else picture_grids.layout(
                np.asarray(scene[name.replace("-layout", "-labels")]), names, side
            )
            for name in heads
        ]
        rows.append(list(zip(tiles, [caption] + [""] * len(tiles))))
    return rows, list(heads.values())
