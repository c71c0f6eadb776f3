"""Pairs of SketchyCOCO-SL in their published layout: a photograph, a drawing of the scene, and the
objects of each. No TensorFlow here. docs/data_formats.md describes the files.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataloaders import images, sketches
from dataloaders.images import Skip

CLASSES = {
    1: "bicycle", 2: "car", 3: "motorcycle", 4: "airplane", 5: "traffic light", 6: "fire hydrant",
    7: "cat", 8: "dog", 9: "horse", 10: "sheep", 11: "cow", 12: "elephant", 14: "zebra",
    15: "giraffe",
}  # fmt: skip
COLUMNS = ["id", "className", "bboxleft", "bboxtop", "bboxright", "bboxbottom"]
SCENE_SIDE = 256  # pixels of a stored photograph, as prepared sets have them
MAX_OBJECTS = 8  # of a side, as in prepared sets and in the Transformer's table of slots


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
) -> tuple[Pair | None, list[Problem]]:
    """One pair of a split's folder, None when it cannot be used, and what of it was left out."""
    image_id = int(photo_file.stem)
    problems: list[Problem] = []
    try:
        picture = images.load_photo(photo_file, SCENE_SIDE)
        drawing = images.load_drawing(sketch_file)
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
                drawn.append(sketches.encode_png(images.fit(drawing[y0:y1, x0:x1], sketch_side)))
                kept.append(i)
            except Skip as reason:
                problems.append(Problem(str(reason), f"{folder.name}/sketch/{sketch_file.name}"))
        query = query.only(kept)
        if not len(photo.classes) or not kept:
            raise Skip("pair without objects on both sides")
    except Skip as reason:
        return None, [*problems, Problem(str(reason), f"{folder.name}/{image_id}")]
    image = images.encode_jpeg(picture.pixels, images.SCENE_QUALITY)
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
