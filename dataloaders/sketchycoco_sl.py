"""'sketchycoco-sl': drawings of whole scenes, with boxes of their own, beside photographs.

SketchyCOCO-SL in its published layout (docs/data_formats.md). A person drew each scene from a
photograph: boxes differ from the photograph's, and objects may be missing. The set has no masks.

When a split is first used, its pairs are read, resized and encoded as prepared sets store them
(some 45 kB a pair, which then stay in memory): published splits have 210 and about 1,000 pairs. A
file that cannot be used is found then, not in the middle of a training.
"""

from __future__ import annotations

import csv
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

from core.errors import EmptySplitError, UserError
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import assembling, blocks, pictures, records, sketches, sources
from dataloaders.pictures import Skip
from dataloaders.scene_loader import SceneLoader

CLASSES = {
    1: "bicycle", 2: "car", 3: "motorcycle", 4: "airplane", 5: "traffic light", 6: "fire hydrant",
    7: "cat", 8: "dog", 9: "horse", 10: "sheep", 11: "cow", 12: "elephant", 14: "zebra",
    15: "giraffe",
}  # fmt: skip
COLUMNS = ["id", "className", "bboxleft", "bboxtop", "bboxright", "bboxbottom"]
SCENE_SIDE = 256  # pixels of a stored photograph, as prepared sets have them
MAX_OBJECTS = 8  # of a side, as in prepared sets and in the Transformer's table of slots
_NO_SPLIT = {
    "train": "training needs pairs there, laid out as those of test",
    "valid": "the published set has none; ask for metrics of the test split (NAME-test)",
    "test": "evaluation needs the published pairs there",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HParams:
    """Folders of the published set and of crops, and what happens to queries in training."""

    sl_dir: str = hp(help="SketchyCOCO-SL as published: holds test/, perhaps train/", folder=True)
    crops_dir: str = hp(
        help="object crops by class (prep_data.cococrops_to_tfrecord): negatives and vocabulary",
        folder=True,
    )
    query_jitter: float = hp(0.0, "training: jitter of query boxes, in box sizes", low=0, high=0.9)
    query_dropped: float = hp(0.0, "training: share of query objects left out", low=0, high=0.9)


# ---- reading pairs -------------------------------------------------------------------------------


class Side(NamedTuple):
    """The n objects of a photograph or drawing."""

    classes: np.ndarray  # int32 (n,), vocabulary indices
    boxes: np.ndarray  # float64 (n, 4), pixels, within the picture
    width: int  # of the picture, pixels
    height: int

    @property
    def shares(self) -> np.ndarray:
        """The boxes in [0, 1] of the picture: float32 (n, 4)."""
        return (self.boxes / ([self.width, self.height] * 2)).astype(np.float32)

    def only(self, rows: Sequence[int]) -> Side:
        """Some of the objects."""
        return self._replace(classes=self.classes[rows], boxes=self.boxes[rows])


class Pair(NamedTuple):
    """A photograph and the drawing of it, ready to be stored."""

    image_id: int
    image: bytes  # JPEG, SCENE_SIDE pixels a side
    photo: Side
    query: Side
    sketches: list[bytes]  # PNG of each query object
    query_to_photo: np.ndarray  # int32 (Q,), place of the object among the photo's, -1 = none


class Problem(NamedTuple):
    """Something left out: why, and where it lies."""

    reason: str
    where: str


def read_side(
    table: Path, width: int, height: int, labels: Mapping[int, int], problems: list[Problem]
) -> Side:
    """The objects of a features file, at most MAX_OBJECTS; what is left out goes to `problems`.

    labels: class number -> vocabulary index. Raises Skip for a file that is none.
    """
    where = "/".join(table.parts[-4:])

    def left_out(reason: str) -> None:
        problems.append(Problem(reason, where))

    classes, boxes = [], []
    for row in _rows(table):
        try:
            number, box = int(row[1]), [float(value) for value in row[2:]]
        except ValueError:
            number, box = -1, []
        if len(box) != 4 or not all(map(math.isfinite, box)):
            left_out("row that is no object")
            continue
        if number not in labels:
            left_out(f"object of class {CLASSES.get(number, number)}, which the crops do not know")
            continue
        box = np.clip(box, 0, [width, height] * 2)
        if (box[2:] - box[:2] < 1).any():
            left_out("object with a box that is empty or outside the picture")
            continue
        classes.append(labels[number])
        boxes.append(box)
    side = Side(np.array(classes, np.int32), np.reshape(boxes, (-1, 4)), width, height)
    areas = np.prod(side.boxes[:, 2:] - side.boxes[:, :2], axis=1)
    largest = np.sort(np.argsort(-areas, kind="stable")[:MAX_OBJECTS])
    for _ in range(len(areas) - len(largest)):
        left_out(f"object beyond the {MAX_OBJECTS} largest of its picture")
    return side.only(largest)


def _rows(table: Path) -> list[list[str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError:
        raise Skip("features file missing") from None
    except (OSError, ValueError, csv.Error):  # ValueError: no text, or an empty file
        raise Skip("features file cannot be read") from None
    if header != COLUMNS:
        raise Skip(f"features file with columns other than {','.join(COLUMNS)}")
    return [row for row in rows if row]


def match(photo: Side, query: Side) -> np.ndarray:
    """Which photo object each query object depicts: int32 (Q,), -1 = none.

    The published files do not say; here: within each class one to one, such that the distances of
    box centres (shares of the picture's sides) are least in sum.
    """
    centres = [(side.shares[:, :2] + side.shares[:, 2:]) / 2 for side in (photo, query)]
    depicted = np.full(len(query.classes), -1, np.int32)
    for k in np.unique(query.classes):
        theirs, mine = (np.flatnonzero(side.classes == k) for side in (photo, query))
        gaps = centres[1][mine][:, None] - centres[0][theirs][None]  # (mine, theirs, 2)
        rows, columns = linear_sum_assignment(np.linalg.norm(gaps, axis=2))
        depicted[mine[rows]] = theirs[columns]
    return depicted


def read_pair(
    folder: Path, photo_file: Path, sketch_file: Path, labels: Mapping[int, int], sketch_side: int
) -> tuple[Optional[Pair], list[Problem]]:
    """One pair of a split's folder, None when it cannot be used, and what of it was left out."""
    image_id = int(photo_file.stem)
    problems: list[Problem] = []
    try:
        picture = pictures.load_photo(photo_file, SCENE_SIDE)
        drawing = pictures.load_drawing(sketch_file)
        height, width = drawing.shape
        photo, query = (
            read_side(folder / side / "GraphFeatures" / f"{image_id}.csv", *size, labels, problems)
            for side, size in (
                ("image", (picture.width, picture.height)),
                ("sketch", (width, height)),
            )
        )
        drawn, kept = [], []
        for i, box in enumerate(query.boxes):
            (x0, y0), (x1, y1) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
            try:
                drawn.append(sketches.encode_png(pictures.fit(drawing[y0:y1, x0:x1], sketch_side)))
                kept.append(i)
            except Skip as reason:
                problems.append(Problem(str(reason), f"{folder.name}/sketch/{sketch_file.name}"))
        query = query.only(kept)
        if not len(photo.classes) or not kept:
            raise Skip("pair without objects on both sides")
    except Skip as reason:
        return None, [*problems, Problem(str(reason), f"{folder.name}/{image_id}")]
    image = pictures.encode_jpeg(picture.pixels, pictures.SCENE_QUALITY)
    return Pair(image_id, image, photo, query, drawn, match(photo, query)), problems


def list_pairs(folder: Path, problems: list[Problem]) -> list[tuple[Path, Path]]:
    """Photograph and drawing of each pair of a split's folder, by ascending id."""
    found: list[dict[int, Path]] = []
    for side in ("image", "sketch"):
        files: dict[int, Path] = {}
        for path in sorted((folder / side / "Image").glob("[!.]*")):
            known = re.fullmatch(r"[0-9]{1,18}", path.stem) and int(path.stem) not in files
            if not known or path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                reason = "file that is not <number>.jpg or .png, or has the number of another"
                problems.append(Problem(reason, "/".join(path.parts[-4:])))
            else:
                files[int(path.stem)] = path
        found.append(files)
    photos, drawings = found
    for id_ in sorted(photos.keys() ^ drawings.keys()):
        what = "photograph without a drawing" if id_ in photos else "drawing without a photograph"
        problems.append(Problem(what, f"{folder.name}/{id_}"))
    return [(photos[id_], drawings[id_]) for id_ in sorted(photos.keys() & drawings.keys())]


def told(problems: Sequence[Problem]) -> str:
    """The problems in one line, counted by reason, with the first of each."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem.where)
    lines = (f"{len(where)} x {reason} ({where[0]})" for reason, where in by_reason.items())
    return "; ".join(lines)


# ---- the loader ----------------------------------------------------------------------------------


class Pairs:
    """The usable pairs of a split as tensors: N pairs, by ascending id."""

    def __init__(
        self, sl_dir: str, labels: Mapping[int, int], sketch_side: int, split: str
    ) -> None:
        """labels: class number -> vocabulary index. sketch_side: of the canvas, pixels. Logs once
        what is left out. Raises EmptySplitError when the split is not there, UserError when
        nothing of it can be used."""
        folder = Path(sl_dir) / split
        if not folder.is_dir():
            raise EmptySplitError(f"{folder} is not there: {_NO_SPLIT[split]}")
        problems: list[Problem] = []
        files = list_pairs(folder, problems)
        work = functools.partial(read_pair, folder, labels=labels, sketch_side=sketch_side)
        with ThreadPoolExecutor() as pool:  # decoding and resizing leave Python's lock
            read = list(pool.map(work, *zip(*files))) if files else []
        pairs = [pair for pair, _ in read if pair]
        problems += [problem for _, some in read for problem in some]
        if not pairs:
            raise UserError(
                f"no pair of {folder} can be used: {told(problems) or 'it has no pictures'}"
            )
        if problems:
            log.warning("%s: %d pairs are used; left out: %s", folder, len(pairs), told(problems))
        self.num_records = len(pairs)
        self.image_ids = tf.constant([pair.image_id for pair in pairs], tf.int64)  # (N,)
        self.images = tf.constant([pair.image for pair in pairs])  # string (N,)
        # Ragged: N pairs, of each its objects.
        self.photo_classes = _ragged([pair.photo.classes for pair in pairs])
        self.photo_boxes = _ragged([pair.photo.shares for pair in pairs])
        self.query_classes = _ragged([pair.query.classes for pair in pairs])
        self.query_boxes = _ragged([pair.query.shares for pair in pairs])
        self.query_to_photo = _ragged([pair.query_to_photo for pair in pairs])
        self.sketches = _ragged([np.array(pair.sketches, object) for pair in pairs])

    def sequential(self) -> tf.data.Dataset:
        """The rows of all pairs: int32 scalars."""
        return tf.data.Dataset.from_tensor_slices(tf.range(self.num_records))


def _ragged(rows: Sequence[np.ndarray]) -> tf.RaggedTensor:
    lengths = [len(row) for row in rows]
    return tf.RaggedTensor.from_row_lengths(tf.constant(np.concatenate(rows)), lengths)


@LOADERS.register("sketchycoco-sl")
class SketchycocoSl(SceneLoader):
    """Photographs with their scene graphs, and a drawing of each with its own."""

    name = "sketchycoco-sl"
    HParams = HParams
    own_boxes = True
    has_masks = False

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        if not any((Path(hparams.sl_dir) / split).is_dir() for split in ("test", "train")):
            raise UserError(
                f"{hparams.sl_dir} holds neither test/ nor train/: sl_dir must be the folder of "
                "SketchyCOCO-SL as published"
            )
        meta = records.read_meta(hparams.crops_dir, "coco-crops")
        self._vocabulary = sources.coco_vocabulary(meta)
        self._crops = sources.Partners(hparams.crops_dir, self._vocabulary, "crops")
        side = blocks.image_side(self._crops.split("train"))
        self._sides = assembling.Sides(SCENE_SIDE, side, side, meta["mask_size"])
        indices = {name: k for k, name in enumerate(self._vocabulary.names)}
        labels = {number: indices[name] for number, name in CLASSES.items() if name in indices}
        self._items = functools.lru_cache(maxsize=None)(
            functools.partial(Pairs, hparams.sl_dir, labels, side)
        )

    def _training_items(self, start_step: int) -> tf.data.Dataset:
        rows = tf.range(self._items("train").num_records)
        crops = self._partners("train")["crops"]

        def load(window: tf.Tensor) -> Any:
            order = blocks.window_rows(
                sources.anything(rows),
                self.batch_size,
                "pairs",
                self.seed,
                sources.ROW_ORDER,
                window,
            )
            return rows, order, {"crops": crops.window(window)}

        steps = blocks.windowed(load, start_step)
        return steps.map(lambda step, pools: sources.Step(step, *pools))

    def _parse(self, split: str) -> Callable[[sources.Items], assembling.Parsed]:
        pairs, crops = self._items(split), self._crops.of(split)

        def parse(items: sources.Items) -> assembling.Parsed:
            rows = items.records

            def flat(column: tf.RaggedTensor) -> tf.Tensor:
                return tf.gather(column, rows).flat_values

            photo_classes = tf.gather(pairs.photo_classes, rows)
            photo = assembling.Objects.of(photo_classes, flat(pairs.photo_boxes), items.positions)
            query = assembling.Objects.of(
                tf.gather(pairs.query_classes, rows), flat(pairs.query_boxes), items.positions
            )
            place = flat(pairs.query_to_photo)
            first = tf.cast(tf.gather(photo_classes.row_starts(), query.obj_to_img), tf.int32)
            negatives = assembling.negatives(photo, items.pools["crops"], crops, self.seed)
            return assembling.Parsed(
                image_ids=tf.gather(pairs.image_ids, rows),
                images=tf.gather(pairs.images, rows),
                photo=photo,
                masks=None,
                query=query,
                query_to_photo=tf.where(place < 0, -1, first + place),
                sketches=flat(pairs.sketches),
                negative_crops=negatives[0],
                negative_classes=negatives[1],
            )

        return parse


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("sketchycoco-sl", "scenes"))
