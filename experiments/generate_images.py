"""'generate-images': photographs from sketched scenes.

trained model -> Evaluation.predict_masks -> masks and boxes of the objects of each scene
              -> core.label_maps, over the photograph's background stuff
              -> maps of labels and instances -> generator -> picture

Always from sketches; by hparams also from the photograph's crops, from both mixed, from the
mirrored drawing, and from the true masks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from core import geometry, hparams, label_maps
from core.errors import UserError
from core.evaluation import mask_metrics, picture_grids
from core.evaluation.embedded_split import EmbeddedQueries, EmbeddedScenes, Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Experiment, Trained
from core.files import atomic_folder, make_folder, write_atomic
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common
from experiments.analysis import mixed_queries
from SPADE import generators

log = logging.getLogger(__name__)

# Kinds of layouts: what each is made of.
TITLES = {
    "sketch": "sketches",
    "image": "crops",
    "mixed": "mixed",
    "flipped": "flipped",
    "gt": "true masks",
}
CROPS = 0.5  # share of the objects of mixed scenes
DONE = "scene.json"  # in the folder of a scene: written with the rest, so all is there


@dataclass(frozen=True)
class GenerateImagesHParams(common.SplitHParams):
    """Of 'generate-images'."""

    generator: str = hp(
        generators.DEFAULT, "address of a server, weights (python -m SPADE.convert), or none"
    )
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
        """What layouts are made of."""
        asked = {
            "sketch": True,
            "image": self.generate_from_image,
            "mixed": self.generate_from_mixed,
            "flipped": self.flipped_sketches,
            "gt": self.generate_from_gt,
        }
        return tuple(kind for kind in TITLES if asked[kind])


class Objects(NamedTuple):
    """n objects of all scenes of a split, as the layouts of one kind have them.

    side: whose they are. solid: uint8 (n, M * M / 8), packed masks; boxes: float32 (n, 4). crops:
    bool (n,), shown as the photograph's, the rest is sketched."""

    side: EmbeddedScenes
    solid: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray


@EXPERIMENTS.register("generate-images")
class GenerateImages(Experiment):
    """Writes a folder <results>/<model id>_<loader>_<split>_images/<image id> for each scene, and
    <results>/<model id>_<loader>_<split>_images.json with a page of some.

    A folder appears when all of it is written; those that are there already, made with the same
    settings, are kept."""

    name = "generate-images"
    HParams = GenerateImagesHParams
    needs_model = True
    batch_type = "SceneBatch"

    def prepare(self) -> None:
        super().prepare()
        self.generator = generators.find(self.hparams.generator)
        if self.generator:
            self.generator.check()

    def run(self, trained: Trained | None) -> None:
        dataset = trained.dataset
        labels = label_maps.coco_labels(dataset.vocabulary.ids)
        if len(labels) != len(dataset.vocabulary.names):
            raise UserError(f"the classes of {dataset.name} have no COCO-Stuff ids: no layouts")
        if "gt" in self.hparams.kinds and not dataset.has_masks:
            raise UserError(f"{dataset.name} has no masks: generate_from_gt needs them")
        if self.generator:
            self.generator.open()
        evaluation = common.evaluation_on(trained, self.hparams.split)
        about = common.about(trained, evaluation)
        path = self.results / common.file_name(trained, evaluation.split, "_images.json")
        folder = path.with_suffix("")
        make_folder(folder, "the folder of scenes", "choose another results")
        how = {
            "kinds": list(self.hparams.kinds),
            "boxes": self.hparams.boxes,
            "generator": self.generator.identity if self.generator else generators.NONE,
        }
        settings = {
            **{key: about[key] for key in common.ABOUT},
            "weights": trained.model.weights_digest(),
            "data": hparams.to_dict(dataset.hparams),
            **how,
        }

        ids = evaluation.photos.image_ids
        wanted = picture_grids.random_rows(
            len(ids), self.hparams.scenes or len(ids), evaluation.seed
        )
        todo = {row for row in wanted.tolist() if not _is_done(folder / str(ids[row]), settings)}
        if todo:
            objects = {kind: self._objects(evaluation, kind) for kind in self.hparams.kinds}
            for row, pictures in self._scenes(evaluation, objects, labels, todo):
                title = f"{picture_grids.page_title(evaluation)}: {ids[row]}"
                _save(folder / str(ids[row]), pictures, title, settings)
        strange = [each for each in folder.glob(f"*/{DONE}") if not _is_done(each.parent, settings)]
        if strange:
            log.warning("%s has %d other scenes, made with other settings", folder, len(strange))

        page = path.with_name(f"{path.stem}_1.jpg")
        some = [folder / str(ids[row]) for row in wanted[: picture_grids.ROWS]]
        pictures = [_opened(scene) for scene in some]
        title = f"{picture_grids.page_title(evaluation)}: boxes={self.hparams.boxes}"
        tiles = _grid(pictures, [scene.name for scene in some], title, picture_grids.TILE)
        write_atomic(page, picture_grids.image_bytes(tiles, "JPEG", quality=90))
        common.report(
            path, about, None, [], pictures=[page], scenes=len(wanted), made=len(todo), **how
        )
        print(f"saved: {len(todo)} scenes in {folder}; kept: {len(wanted) - len(todo)}")

    def _objects(self, evaluation: Evaluation, kind: str) -> Objects:
        """Of all scenes: 2 kB an object."""
        photos = evaluation.photos
        if kind == "gt":
            return Objects(photos, photos.masks, photos.boxes, np.ones(len(photos.boxes), bool))
        if kind == "flipped":
            evaluation = Evaluation(
                evaluation.model, evaluation.dataset, evaluation.split, step=evaluation.step,
                mirrored=True,
            )  # fmt: skip
        own = evaluation.dataset.own_boxes
        side = (
            photos if kind == "image" else evaluation.queries(QueryProtocol(_boxes_of_queries(own)))
        )
        crops = np.full(len(side.boxes), kind == "image")
        if kind == "mixed":
            luck = mixed_queries.draw(side, photos, evaluation.seed).luck
            crops = (luck < CROPS) & (side.query_to_photo >= 0)
            vectors = np.where(crops[:, None], photos.objects[side.query_to_photo], side.objects)
            side = replace(side, objects=vectors)
        parts = [
            (mask_metrics.pack(part.masks >= label_maps.SOLID), part.boxes)
            for part in evaluation.predict_masks(side)
        ]
        solid, predicted = (np.concatenate(columns) for columns in zip(*parts))
        return Objects(
            side, solid, side.boxes if self.hparams.boxes == "drawn" else predicted, crops
        )

    def _scenes(
        self,
        evaluation: Evaluation,
        objects: Mapping[str, Objects],
        labels: np.ndarray,
        todo: set[int],
    ) -> Iterator[tuple[int, dict[str, Image.Image]]]:
        """(row, file name -> picture) of the scenes to do."""
        first, photographed, sketched = 0, 0, 0  # rows of the batches before
        for batch in evaluation.batches("scenes"):
            rows = range(first, first + len(batch.image_ids))
            if not todo.isdisjoint(rows):
                maps = {
                    kind: compose(
                        each, rows, labels, evaluation.model.mask_size,
                        _behind(batch.stuff, labels, mirrored=kind == "flipped"),
                    )
                    for kind, each in objects.items()
                }  # fmt: skip
                crops, sketches = batch.crops.numpy(), batch.sketches.numpy()
            for place, row in enumerate(rows):
                if row not in todo:
                    continue
                photo = Image.fromarray(batch.images[place].numpy())
                photo = photo.resize((label_maps.SIDE, label_maps.SIDE), Image.Resampling.LANCZOS)
                pictures = {"photo": photo}
                for kind, each in objects.items():
                    if isinstance(each.side, EmbeddedQueries):
                        pictures[kind] = _composition(
                            each, row, crops, sketches[:, :, :: -1 if kind == "flipped" else 1],
                            photographed, sketched,
                        )  # fmt: skip
                    label, instance = (both[place] for both in maps[kind])
                    pictures[f"{kind}-labels"] = Image.fromarray(label)
                    pictures[f"{kind}-instances"] = Image.fromarray(instance)
                    pictures[f"{kind}-layout"] = Image.fromarray(label_maps.PALETTE[label])
                    if self.generator:
                        made = self.generator.generate(label, instance, np.asarray(photo))
                        made = np.round((np.clip(made, -1, 1) + 1) * 127.5).astype(np.uint8)
                        pictures[f"{kind}-generated"] = Image.fromarray(made)
                yield row, pictures
            first += len(rows)
            photographed += len(batch.crops)
            sketched += len(batch.sketches)


def compose(
    objects: Objects,
    rows: range,
    labels: np.ndarray,
    mask_side: int,
    stuff: tuple[np.ndarray, ...] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The layouts of some scenes: maps of labels (COCO-Stuff id - 1, 255 = unknown) and instances,
    both uint8 (n, 256, 256). labels: uint8 (K,), of each class. stuff: as of `label_maps`."""
    side = objects.side
    mine = slice(*np.searchsorted(side.obj_to_img, [rows.start, rows.stop]).tolist())
    label, instance = label_maps.label_maps(
        mask_metrics.unpack(objects.solid[mine], mask_side),
        objects.boxes[mine],
        labels[side.classes[mine]],
        side.obj_to_img[mine] - np.int32(rows.start),
        len(rows),
        stuff=stuff,
    )
    return label.numpy(), instance.numpy()


def _behind(stuff: Any, labels: np.ndarray, mirrored: bool) -> tuple[np.ndarray, ...] | None:
    """A batch's background stuff, for `label_maps`; None of a set without."""
    if stuff is None:
        return None
    masks, boxes = stuff.masks.numpy(), stuff.boxes.numpy()
    if mirrored:
        masks, boxes = masks[:, :, ::-1], geometry.mirrored(boxes)
    return masks, boxes, labels[stuff.classes.numpy()], stuff.stuff_to_img.numpy()


def _boxes_of_queries(own_boxes: bool) -> str:
    """Queries as they were drawn: here nothing is looked for, so no box gives anything away."""
    return "own" if own_boxes else "shared"


def _composition(
    objects: Objects,
    row: int,
    crops: np.ndarray,
    sketches: np.ndarray,
    photographed: int,
    sketched: int,
) -> Image.Image:
    """The drawing of a scene, crops in the place of sketches where they are shown. crops,
    sketches: uint8, of a batch; photographed, sketched: rows of the split before it."""
    queries = objects.side
    mine = np.flatnonzero(queries.obj_to_img == row)
    drawn, shown = mine[~objects.crops[mine]], mine[objects.crops[mine]]
    picture = picture_grids.composition(
        sketches[queries.rows[drawn] - sketched], queries.boxes[drawn], label_maps.SIDE
    )
    for crop, box in zip(crops[queries.query_to_photo[shown] - photographed], queries.boxes[shown]):
        x0, y0, x1, y1 = np.round(np.clip(box, 0, 1) * label_maps.SIDE).astype(int).tolist()
        size = (max(1, x1 - x0), max(1, y1 - y0))
        picture.paste(Image.fromarray(crop).resize(size), (x0, y0))
    return picture


# ---- the folder of a scene -----------------------------------------------------------------------


def _save(
    folder: Path, pictures: dict[str, Image.Image], title: str, settings: Mapping[str, Any]
) -> None:
    strip = _grid([pictures], [""], title, label_maps.SIDE)
    files = {
        f"{name}.png": picture_grids.image_bytes(picture) for name, picture in pictures.items()
    }
    files["strip.jpg"] = picture_grids.image_bytes(strip, "JPEG", quality=90)
    sizes = {name: len(data) for name, data in sorted(files.items())}
    content = {"settings": settings, "files": sizes}
    files[DONE] = json.dumps(content, indent=1, ensure_ascii=False).encode()
    with atomic_folder(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def _is_done(folder: Path, settings: Mapping[str, Any]) -> bool:
    try:
        content = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return content["settings"] == settings and all(
            (folder / name).stat().st_size == size for name, size in content["files"].items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _opened(folder: Path) -> dict[str, Image.Image]:
    return {path.stem: Image.open(path) for path in folder.glob("*.png")}


def _grid(
    scenes: Sequence[Mapping[str, Image.Image]], captions: Sequence[str], title: str, tile: int
) -> Image.Image:
    """A row a scene: photograph, and of each kind the drawing, the layout and the picture."""
    columns = {"photo": "photo"}
    for kind, what in TITLES.items():
        columns[kind] = what
        columns[f"{kind}-layout"] = f"layout from {what}"
        columns[f"{kind}-generated"] = f"picture from {what}"
    columns = {name: head for name, head in columns.items() if name in scenes[0]}
    lines = [
        [
            (picture_grids.frame(scene[name].convert("RGB"), picture_grids.GREY, 1), "")
            for name in columns
        ]
        for scene in scenes
    ]
    for line, caption in zip(lines, captions):
        line[0] = (line[0][0], caption)
    return picture_grids.grid(lines, list(columns.values()), title, tile)
