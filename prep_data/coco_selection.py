"""Select the objects and the background stuff of COCO-Stuff's photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prep_data.coco_annotations import AnnotationFile, ListedImage, find_photograph
from prep_data.coco_classes import ClassLists, Vocabulary, make_vocabulary
from prep_data.report import Report


class Region(NamedTuple):
    """A kept annotation: an object or a background stuff of a photograph."""

    annotation_id: int
    obj_idx: int  # vocabulary index
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, within the image
    file: Path  # the annotation's
    offset: int  # bytes, of the annotation in its file
    length: int


class Photo(NamedTuple):
    """The task of a worker: one photograph and its regions, objects in ascending id."""

    image_id: int
    name: str  # in a report: its path in the data set
    path: Path
    width: int  # pixels
    height: int
    objects: tuple[Region, ...]
    stuff: tuple[Region, ...]


class AnnotatedSet:
    """The photographs of train2017 or val2017 with the regions kept, compactly."""

    def __init__(
        self,
        images_dir: Path,
        files: Sequence[AnnotationFile],
        vocabulary: Vocabulary,
        lists: ClassLists,
        min_object_size: float,
        report: Report,
    ) -> None:
        self._dir = images_dir
        self._files = [file.path for file in files]
        self._images: dict[int, ListedImage] = {}
        for file in files:
            self._images = {**file.images, **self._images}  # the first file wins
        self.image_ids = sorted(self._images)  # every photograph listed
        self._rows = np.concatenate([file.annotations for file in files])
        counts = [len(file.annotations) for file in files]
        self._rows["source"] = np.repeat(np.arange(len(files)), counts)
        self._select(vocabulary, lists, min_object_size, report)

    def _select(
        self, vocabulary: Vocabulary, lists: ClassLists, min_object_size: float, report: Report
    ) -> None:
        """Keep rows that can be used, by image id, then annotation id, boxes as x0, y0, x1, y1
        within the image. Every step reports what it drops."""
        rows = self._rows
        listed = np.array(self.image_ids, np.int64)
        sizes = np.array([self._images[i][1:] for i in self.image_ids], np.float64).reshape(-1, 2)
        known = np.array(vocabulary.ids[:-1], np.int64)
        is_object_class = np.isin(vocabulary.names[:-1], lists.objects)
        is_used_class = is_object_class | np.isin(vocabulary.names[:-1], lists.materials)

        def drop(bad: np.ndarray, reason: str) -> np.ndarray:
            first = [
                f"{row['id']} of image {row['image']} ({self._dir.name})" for row in rows[bad][:5]
            ]
            report.add(reason, *first, count=int(bad.sum()))
            return rows[~bad]

        def class_index() -> np.ndarray:
            return np.searchsorted(known, rows["category"])

        def image_size() -> np.ndarray:
            return sizes[np.searchsorted(listed, rows["image"])]

        rows = drop(~np.isin(rows["image"], listed), "annotation of an image that is not listed")
        rows = drop(
            ~np.isin(rows["category"], known), "annotation of a category that is not listed"
        )
        rows = drop(
            ~is_used_class[class_index()], "annotation whose class is neither object nor material"
        )
        # Ids are unique within a file only: many tools count from 1 in each.
        order = np.lexsort([rows["id"], rows["source"]])
        same_id, same_source = (np.diff(rows[name][order]) == 0 for name in ("id", "source"))
        repeated = np.zeros(len(rows), bool)
        repeated[order[1:][same_id & same_source]] = True
        rows = drop(repeated, "annotation with the id of an earlier one")
        no_box = ~np.isfinite(rows["box"]).all(1) | (rows["box"][:, 2:] <= 0).any(1)
        rows = drop(no_box, "annotation without a proper box")
        low, extent, size = rows["box"][:, :2], rows["box"][:, 2:], image_size()
        corners = [np.clip(low, 0, size), np.clip(low + extent, 0, size)]
        rows["box"] = np.concatenate(corners, axis=1)
        rows = drop(_areas(rows) <= 0, "annotation whose box lies outside its image")
        is_small = _areas(rows) / image_size().prod(1) <= min_object_size
        rows = drop(is_object_class[class_index()] & is_small, "object too small")

        rows = rows[np.lexsort([rows["id"], rows["image"]])]
        self._rows, self._obj_idx = rows, class_index()
        self._is_object = is_object_class[self._obj_idx]

    def n_objects(self) -> np.ndarray:
        """Return the number of possible objects of each photograph, int64 (len(image_ids),)."""
        images = self._rows["image"][self._is_object]
        return np.searchsorted(images, self.image_ids, "right") - np.searchsorted(
            images, self.image_ids, "left"
        )

    def objects(self, image_ids: Sequence[int]) -> np.ndarray:
        """Return annotation id and image id of the objects of these photographs, int64 (n, 2)."""
        rows = self._rows[self._is_object & np.isin(self._rows["image"], image_ids)]
        return np.stack([rows["id"], rows["image"]], axis=1)

    def photo(self, image_id: int) -> Photo:
        """Return the task of one photograph."""
        image = self._images[image_id]
        first, last = np.searchsorted(self._rows["image"], [image_id, image_id + 1])
        objects, stuff = [], []
        for i in range(first, last):
            row = self._rows[i]
            region = Region(
                int(row["id"]),
                int(self._obj_idx[i]),
                tuple(row["box"].tolist()),
                self._files[row["source"]],
                int(row["offset"]),
                int(row["length"]),
            )
            (objects if self._is_object[i] else stuff).append(region)
        path = find_photograph(self._dir, image.file_name)
        name = path.relative_to(self._dir.parents[1]).as_posix()
        size = image.width, image.height
        return Photo(image_id, name, path, *size, tuple(objects), tuple(stuff))


def _areas(rows: np.ndarray) -> np.ndarray:
    """Return width * height of boxes given by corners."""
    return (rows["box"][:, 2:] - rows["box"][:, :2]).prod(1)


def select_regions(
    dataset_dir: Path,
    files: Mapping[str, Sequence[AnnotationFile]],
    lists: ClassLists,
    min_object_size: float,
    report: Report,
) -> tuple[Vocabulary, dict[str, AnnotatedSet]]:
    """Return the vocabulary and, by name, the sets of photographs (train2017, val2017).

    Raises UserError for categories that contradict each other.
    """
    vocabulary = make_vocabulary(
        (file.path, *category)
        for of_set in files.values()
        for file in of_set
        for category in file.categories
    )
    return vocabulary, {
        name: AnnotatedSet(
            dataset_dir / "images" / name, of_set, vocabulary, lists, min_object_size, report
        )
        for name, of_set in files.items()
    }
