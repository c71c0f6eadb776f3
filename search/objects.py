"""Sources of the objects of photographs: files in COCO's form, or each picture as one object.

search.detector has another, a neural detector.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec
import numpy as np

from core.dataset import Vocabulary
from core.errors import UserError, first_line
from core.files import read_json
from core.provenance import sha256
from core.scene_inputs import MAX_OBJECTS
from prep_data.coco_annotations import ListedImage, read_annotation_file
from prep_data.report import Report

log = logging.getLogger(__name__)

Size = tuple[int, int]  # width and height, pixels


class FoundObjects(NamedTuple):
    """The n objects of a photograph, as a detector or an annotation file names them."""

    boxes: np.ndarray  # float32 (n, 4), [x0, y0, x1, y1] in [0, 1]
    labels: np.ndarray  # int16 (n,), vocabulary index, -1 of a class that it has not
    scores: np.ndarray  # float32 (n,), 1 of an annotation


class ObjectSource:
    """Finds the objects of photographs. identity: tells it from other sources.

    This one takes each photograph for one object of any class."""

    identity = "whole pictures"

    def find(self, path: str, image: np.ndarray, size: Size) -> FoundObjects:
        """Return the objects of a photograph. path: relative to the folder. image: uint8
        (H, W, 3). size: of the file's picture, of which `image` is a smaller copy."""
        return WHOLE

    def annotated_size(self, path: str) -> Size | None:
        """Return the size of the picture that the boxes are for, where the source knows it."""
        return None


WHOLE = FoundObjects(
    np.array([[0, 0, 1, 1]], np.float32), np.array([-1], np.int16), np.zeros(1, np.float32)
)


def most_important(
    boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, least_area: float = 0.0
) -> FoundObjects:
    """Return those of the objects larger than `least_area` of the picture that count most, at most
    MAX_OBJECTS: the first by score * area."""
    boxes = np.clip(boxes, 0, 1).astype(np.float32)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    order = np.argsort(-(scores * areas), kind="stable")
    kept = order[(areas > least_area)[order]][:MAX_OBJECTS]
    return FoundObjects(boxes[kept], labels[kept].astype(np.int16), scores[kept])


# ---- files in COCO's form ------------------------------------------------------------------------


class _Boxes(NamedTuple):
    """All A objects of a file."""

    images: np.ndarray  # int64 (A,): id of the picture that each is in
    labels: np.ndarray  # int64 (A,)
    boxes: np.ndarray  # float64 (A, 4): x, y, width, height in pixels; NaN where unusable
    scores: np.ndarray  # float32 (A,)


class BoxesFile(ObjectSource):
    """Objects of a COCO annotation file, or of a list of results: [{image_id, category_id, bbox,
    score}].

    Annotation files name their pictures, with or without folders, and classes count by name.
    Results count by COCO's ids, and their pictures by the last number in the file's name.
    """

    def __init__(
        self, path: str | Path, vocabulary: Vocabulary, photographs: Sequence[str]
    ) -> None:
        """photographs: paths relative to their folder. UserError for another file, and for one with
        boxes of none of them; what is missing on either side is told in one warning."""
        path, report = Path(path), Report()
        try:
            self.identity = f"boxes {sha256(path)[:16]}"
            with path.open("rb") as file:
                is_list = file.read(64).lstrip().startswith(b"[")
        except OSError as error:
            raise UserError(f"cannot read {path}: {first_line(error)}") from None
        if is_list:
            found = _read_results(path, vocabulary)
            listed = {id_: str(id_) for id_ in np.unique(found.images).tolist()}
            ids = {name: _number(name) for name in photographs}
            self._sizes = {}
        else:
            found, images = _read_annotations(path, vocabulary, report)
            listed = {id_: image.file_name for id_, image in images.items()}
            ids = _ids_by_name(photographs, listed)
            self._sizes = {id_: (image.width, image.height) for id_, image in images.items()}
        self._ids = {name: id_ for name, id_ in ids.items() if id_ in listed}
        order = np.argsort(found.images, kind="stable")
        self._found = _Boxes(*(column[order] for column in found))
        if not listed:
            raise UserError(f"{path} names no pictures")
        if not self._ids:
            raise UserError(
                f"{path} has boxes of none of the photographs: its first picture is "
                f"{next(iter(listed.values()))}, the first photograph {photographs[0]}"
            )
        missing = sorted(listed[id_] for id_ in listed.keys() - set(self._ids.values()))
        report.add("pictures that the folder has not", *missing)
        unknown = [name for name in photographs if name not in self._ids]
        report.add("photographs that it has not, each taken for one object", *unknown)
        if lines := report.lines(1):
            log.warning("%s: %s", path, "; ".join(" ".join(line.split()) for line in lines))

    def annotated_size(self, path: str) -> Size | None:
        return self._sizes.get(self._ids.get(path))

    def find(self, path: str, image: np.ndarray, size: Size) -> FoundObjects:
        id_ = self._ids.get(path)
        if id_ is None:
            return WHOLE
        rows = slice(*np.searchsorted(self._found.images, (id_, id_ + 1)))
        _, labels, boxes, scores = (column[rows] for column in self._found)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return most_important(corners / (self._sizes.get(id_, size) * 2), labels, scores)


def _read_annotations(
    path: Path, vocabulary: Vocabulary, report: Report
) -> tuple[_Boxes, dict[int, ListedImage]]:
    """Return the objects of an annotation file, and its pictures by id."""
    file = read_annotation_file(path, report)
    labels = {name: label for label, name in enumerate(vocabulary.names)}
    by_id = {id_: labels.get(name, -1) for id_, name in file.categories}
    rows = file.annotations
    found = [by_id.get(id_, -1) for id_ in rows["category"].tolist()]
    scores = np.ones(len(rows), np.float32)
    return _Boxes(rows["image"], np.array(found, np.int64), rows["box"], scores), file.images


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def _read_results(path: Path, vocabulary: Vocabulary) -> _Boxes:
    """Return the objects of a list of results."""
    try:
        rows = read_json(path, list[_Result])
    except UserError as error:
        raise UserError(
            f"{error}; results were expected, each with image_id, category_id, bbox and score"
        ) from None
    by_id = {id_: label for label, id_ in enumerate(vocabulary.ids) if id_}
    return _Boxes(
        np.array([row.image_id for row in rows], np.int64),
        np.array([by_id.get(row.category_id, -1) for row in rows], np.int64),
        np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        np.array([row.score for row in rows], np.float32),
    )


def _number(name: str) -> int | None:
    """Return the last number in a file's name."""
    numbers = re.findall(r"\d+", PurePosixPath(name).stem)
    return int(numbers[-1]) if numbers else None


def _ids_by_name(photographs: Sequence[str], listed: Mapping[int, str]) -> dict[str, int]:
    """Return the id of each photograph that is listed: one of the two may have more folders."""
    by_name = defaultdict(list)
    for id_, file_name in listed.items():
        by_name[PurePosixPath(file_name).name].append((f"/{file_name}", id_))
    ids = {}
    for photograph in photographs:
        path = f"/{photograph}"
        for file_name, id_ in by_name.get(PurePosixPath(path).name, ()):
            if path.endswith(file_name) or file_name.endswith(path):
                ids[photograph] = id_
    return ids
