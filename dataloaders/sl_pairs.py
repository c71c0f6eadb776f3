"""Pairs of SketchyCOCO-SL in their published layout: a photograph, a drawing of the scene, and the
objects of each. No TensorFlow here. docs/data_formats.md describes the files.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from core.files import regular_file
from dataloaders import images, sketches
from dataloaders.images import Problem, Skip

CLASSES = {
    1: "bicycle", 2: "car", 3: "motorcycle", 4: "airplane", 5: "traffic light", 6: "fire hydrant",
    7: "cat", 8: "dog", 9: "horse", 10: "sheep", 11: "cow", 12: "elephant", 14: "zebra",
    15: "giraffe",
}  # fmt: skip
FILES = ("*/*/*/[0-9]*",)  # pattern of all that a set is made of: pictures and tables by number
COLUMNS = ["id", "className", "bboxleft", "bboxtop", "bboxright", "bboxbottom"]
SCENE_SIDE = 256  # pixels of a stored photograph, as prepared sets have them
MAX_OBJECTS = 8  # of a side, as in prepared sets and in the Transformer's table of slots


class PictureObjects(NamedTuple):
    """The n objects of a photograph or drawing."""

    classes: np.ndarray  # int32 (n,), vocabulary indices
    boxes: np.ndarray  # float64 (n, 4), pixels, within the picture
    width: int  # of the picture, pixels
    height: int

    @property
    def relative_boxes(self) -> np.ndarray:
        """The boxes in [0, 1] of the picture: float32 (n, 4)."""
        return (self.boxes / ([self.width, self.height] * 2)).astype(np.float32)

    def select(self, rows: Sequence[int]) -> PictureObjects:
        """Return some of the objects."""
        return self._replace(classes=self.classes[rows], boxes=self.boxes[rows])


class PairFiles(NamedTuple):
    """The files of a pair; a table of objects may be missing."""

    photo: Path
    sketch: Path
    photo_table: Path | None
    sketch_table: Path | None


class Pair(NamedTuple):
    """A photograph and the drawing of it, encoded as prepared sets store them."""

    image_id: int
    image: bytes  # JPEG, SCENE_SIDE pixels a side
    photo: PictureObjects
    query: PictureObjects
    sketches: list[bytes]  # PNG of each query object
    query_to_photo: np.ndarray  # int32 (Q,), place of the object among the photo's, -1 = none


def read_objects(
    table: Path | None, width: int, height: int, labels: Mapping[int, int], problems: list[Problem]
) -> PictureObjects:
    """Read the objects of a features file, at most MAX_OBJECTS; others go to `problems`.

    labels: class number -> vocabulary index. Raises Skip for a file that is none, or missing.
    """
    if table is None:
        raise Skip("features file missing")
    where = "/".join(table.parts[-4:])

    def left_out(reason: str) -> None:
        problems.append(Problem(reason, where))

    classes, boxes = [], []
    for row in _rows(table):
        try:
            number, box = int(row[1]), [float(value) for value in row[2:]]
        except (ValueError, IndexError):
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
    found = PictureObjects(np.array(classes, np.int32), np.reshape(boxes, (-1, 4)), width, height)
    areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    largest = np.sort(np.argsort(-areas, kind="stable")[:MAX_OBJECTS])
    for _ in range(len(areas) - len(largest)):
        left_out(f"object beyond the {MAX_OBJECTS} largest of its picture")
    return found.select(largest)


def _rows(table: Path) -> list[list[str]]:
    try:
        with regular_file(table).open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):  # ValueError: no text, or an empty file
        raise Skip("features file cannot be read") from None
    if header != COLUMNS:
        raise Skip(f"features file with columns other than {','.join(COLUMNS)}")
    return [row for row in rows if row]


def match_objects(photo: PictureObjects, query: PictureObjects) -> np.ndarray:
    """Return the photo object that each query object depicts: int32 (Q,), -1 = none.

    The published files do not say; here: within each class one to one, such that the distances of
    box centres (shares of the picture's sides) are least in sum.
    """
    boxes = [side.relative_boxes for side in (photo, query)]
    photo_centres, query_centres = ((each[:, :2] + each[:, 2:]) / 2 for each in boxes)
    depicted = np.full(len(query.classes), -1, np.int32)
    for k in np.unique(query.classes):
        of_photo, of_query = (np.flatnonzero(side.classes == k) for side in (photo, query))
        gaps = query_centres[of_query][:, None] - photo_centres[of_photo][None]
        rows, columns = linear_sum_assignment(np.linalg.norm(gaps, axis=2))
        depicted[of_query[rows]] = of_photo[columns]
    return depicted


def read_pair(
    folder: Path, files: PairFiles, labels: Mapping[int, int], sketch_side: int
) -> tuple[Pair | None, list[Problem]]:
    """Read one pair of a split's folder. Returns None for a pair that cannot be used, and what was
    left out of it."""
    image_id = int(files.photo.stem)
    problems: list[Problem] = []
    try:
        stored = images.load_photo(files.photo, SCENE_SIDE)
        drawing = images.load_drawing(files.sketch)
        height, width = drawing.shape
        photo = read_objects(files.photo_table, stored.width, stored.height, labels, problems)
        query = read_objects(files.sketch_table, width, height, labels, problems)
        name = f"{folder.name}/sketch/{files.sketch.name}"
        query, cut = _cut_sketches(drawing, query, sketch_side, name, problems)
        if not len(photo.classes) or not cut:
            raise Skip("pair without objects on both sides")
    except Skip as reason:
        return None, [*problems, Problem(str(reason), f"{folder.name}/{image_id}")]
    image = images.encode_jpeg(stored.pixels, images.SCENE_QUALITY)
    return Pair(image_id, image, photo, query, cut, match_objects(photo, query)), problems


def _cut_sketches(
    drawing: np.ndarray, query: PictureObjects, side: int, name: str, problems: list[Problem]
) -> tuple[PictureObjects, list[bytes]]:
    """Return the objects whose box shows something, and the sketch of each as PNG."""
    rows, cut = [], []
    for i, box in enumerate(query.boxes):
        (x0, y0), (x1, y1) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        try:
            sketch = images.normalise_drawing(drawing[y0:y1, x0:x1], side)
        except Skip as reason:
            problems.append(Problem(str(reason), name))
        else:
            rows.append(i)
            cut.append(sketches.encode_png(sketch))
    return query.select(rows), cut


def list_pairs(folder: Path, problems: list[Problem]) -> list[PairFiles]:
    """Return the pairs of a split's folder, by ascending id. What has no partner goes to
    `problems`."""
    pictures, tables = (
        [
            by_number(sorted((folder / side / kind).glob("[!.]*")), suffixes, problems)
            for side in ("image", "sketch")
        ]
        for kind, suffixes in (("Image", (".jpg", ".jpeg", ".png")), ("GraphFeatures", (".csv",)))
    )
    photos, drawings = pictures
    for id_ in sorted(photos.keys() ^ drawings.keys()):
        what = "photograph without a drawing" if id_ in photos else "drawing without a photograph"
        problems.append(Problem(what, f"{folder.name}/{id_}"))
    return [
        PairFiles(photos[id_], drawings[id_], *(of_side.get(id_) for of_side in tables))
        for id_ in sorted(photos.keys() & drawings.keys())
    ]


def by_number(
    paths: Iterable[Path], suffixes: Sequence[str], problems: list[Problem]
) -> dict[int, Path]:
    """Return number -> file; a number may have leading zeros. Others go to `problems`."""
    files: dict[int, Path] = {}
    for path in paths:
        known = re.fullmatch(r"[0-9]{1,18}", path.stem) and int(path.stem) not in files
        if not known or path.suffix.lower() not in suffixes:
            reason = (
                f"file that is not <number>{' or '.join(suffixes)}, or has the number of another"
            )
            problems.append(Problem(reason, "/".join(path.parts[-4:])))
        else:
            files[int(path.stem)] = path
    return files


def summary(problems: Sequence[Problem]) -> str:
    """Return the problems in one line, counted by reason, with the first of each."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem.name)
    counts = (f"{len(names)} x {reason} ({names[0]})" for reason, names in by_reason.items())
    return "; ".join(counts)
