"""The COCO-Stuff annotations: class lists, vocabulary, and which objects of which photographs are
kept. Everything the parent process needs of them; pixels are the matter of coco_pixels.py.

The official files are half a gigabyte each. They are read as a stream, once: of an annotation only
numbers are kept (72 bytes) and where it lies in its file, so a worker reads the segmentation it
needs itself.
"""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from core.errors import UsageError, UserError
from core.files import read_json
from core.hparams import hp
from prep_data.common import Report

IMAGE_NODE = "__image__"  # the last name of every vocabulary, ID 0
SOURCES = ("instances", "stuff")
SETS = ("train2017", "val2017")
_NAMES = 5  # examples given of each reason
_CLASS_LISTS = "prep_data/coco/mats_objs_sketchables_v2.json"


@dataclass(frozen=True)
class CocoHParams:
    """What decides which objects are kept and how large things are written."""

    image_size: int = hp(256, "side of a scene's image, pixels", low=8, high=4096)
    mask_size: int = hp(64, "side of an object's mask, pixels, a multiple of 4", low=4, high=1024)
    min_object_size: float = hp(0.05, "share of the image a box must exceed", low=0.0, high=1.0)
    min_objects_per_image: int = hp(1, "kept objects an image needs", low=1, high=1000)
    max_objects_per_image: int = hp(8, "kept objects an image may have", low=1, high=1000)
    crop_size: int = hp(96, "side of an object crop or a paired sketch, pixels", low=8, high=4096)
    excluded_meta_file: str = hp(_CLASS_LISTS, "JSON file with the class lists")

    def __post_init__(self) -> None:
        if self.mask_size % 4:
            raise UsageError(f"mask_size is {self.mask_size}: it must be a multiple of 4")
        if self.min_objects_per_image > self.max_objects_per_image:
            raise UsageError(
                f"min_objects_per_image ({self.min_objects_per_image}) exceeds "
                f"max_objects_per_image ({self.max_objects_per_image})"
            )


@dataclass(frozen=True)
class CropHParams(CocoHParams):
    """As CocoHParams; more objects an image are allowed, as each stands for itself."""

    max_objects_per_image: int = hp(10, "kept objects an image may have", low=1, high=1000)


# ---- classes ---------------------------------------------------------------------------------


class ClassLists(NamedTuple):
    """Names, each in the order of its file."""

    objects: tuple[str, ...]  # can be sketched: the objects of scenes
    materials: tuple[str, ...]  # background stuff, never objects
    fully_excluded: tuple[str, ...]  # neither


def read_class_lists(file_name: str) -> ClassLists:
    """file_name: hparam `excluded_meta_file`, relative to the working folder or to the project.

    Raises UserError when it is missing or its lists do not fit together.
    """
    path = Path(file_name)
    if not path.is_absolute() and not path.is_file():
        path = Path(__file__).parents[1] / path
    if not path.is_file():
        raise UserError(f"excluded_meta_file {file_name} does not exist")
    lists = read_json(path)
    for key in ("objects", "materials", "fully_excluded"):
        names = lists.get(key) if isinstance(lists, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {key!r} must be a list of names")
    both = sorted(set(lists["objects"]) & set(lists["materials"]))
    if both:
        raise UserError(f"{path}: {both[0]!r} is both in 'objects' and in 'materials'")
    objects = tuple(name for name in lists["objects"] if name != "other")  # a catch-all, no object
    return ClassLists(objects, tuple(lists["materials"]), tuple(lists["fully_excluded"]))


class Categories(NamedTuple):
    """The vocabulary: every category in ascending ID, then IMAGE_NODE. K = len(names)."""

    ids: tuple[int, ...]  # (K,), the last is 0
    names: tuple[str, ...]  # (K,)

    def index(self) -> dict[str, int]:
        """name -> vocabulary index."""
        return {name: i for i, name in enumerate(self.names)}

    def meta(self, lists: ClassLists, predicates: Sequence[str]) -> dict[str, Any]:
        """The vocabulary's keys of meta.json."""
        return {
            "obj_name_to_ID": dict(zip(self.names, self.ids)),
            "obj_ID_to_name": {str(i): name for i, name in zip(self.ids, self.names)},
            "obj_idx_to_ID": list(self.ids),
            "obj_ID_to_idx": {str(id_): i for i, id_ in enumerate(self.ids)},
            "obj_idx_to_name": list(self.names),
            "pred_idx_to_name": list(predicates),
            "pred_name_to_idx": {name: i for i, name in enumerate(predicates)},
            "concrete_objs": list(lists.objects),
            "allowed_materials": list(lists.materials),
            "fully_excluded_objs": list(lists.fully_excluded),
        }


def _join_categories(files: Sequence[AnnotationFile]) -> Categories:
    by_id: dict[int, str] = {}
    for file in files:
        for category in file.categories:
            id_, name = _as_int(category.get("id")), category.get("name")
            if id_ is None or id_ <= 0 or not isinstance(name, str):
                raise UserError(
                    f"{file.path}: category {category!r} needs a positive id and a name"
                )
            if by_id.setdefault(id_, name) != name:
                raise UserError(
                    f"{file.path}: category {id_} is {name!r}, in another annotation file "
                    f"{by_id[id_]!r}; the four files must belong together"
                )
    names = [by_id[id_] for id_ in sorted(by_id)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None or IMAGE_NODE in names:
        raise UserError(f"category name {twice or IMAGE_NODE!r} stands for more than one id")
    if not names:
        raise UserError("the annotation files list no categories")
    return Categories((*sorted(by_id), 0), (*names, IMAGE_NODE))


# ---- files -----------------------------------------------------------------------------------


class ListedImage(NamedTuple):
    """A photograph as an annotation file lists it."""

    file_name: str
    width: int  # pixels
    height: int


_ANNOTATION = np.dtype(
    [
        ("id", np.int64),
        ("image", np.int64),
        ("category", np.int64),
        ("box", np.float64, 4),  # pixels; NaN where unusable
        ("offset", np.int64),  # bytes: where the annotation lies in its file
        ("length", np.int64),
        ("source", np.int64),  # which file
    ]
)


@dataclass
class AnnotationFile:
    """One file without its segmentations."""

    path: Path
    images: dict[int, ListedImage]  # image id -> image
    categories: list[dict[str, Any]]
    annotations: np.ndarray  # _ANNOTATION (A,) in the order of the file; box: x, y, width, height

    def only(self, image_ids: Collection[int]) -> AnnotationFile:
        """The same file as if it listed these photographs and their annotations alone; the
        categories stay."""
        mine = np.isin(self.annotations["image"], np.array(list(image_ids), np.int64))
        images = {id_: self.images[id_] for id_ in image_ids if id_ in self.images}
        return replace(self, images=images, annotations=self.annotations[mine])


def read_annotation_file(path: Path, report: Report) -> AnnotationFile:
    """Reads one file as a stream. Raises UserError when it is missing or not of COCO's form."""
    if not path.is_file():
        raise UserError(f"annotation file {path} is missing: COCO-Stuff needs all four of them")
    images: dict[int, ListedImage] = {}
    categories: list[dict[str, Any]] = []
    ids, boxes, spans = array("q"), array("d"), array("q")
    found = set()
    for key, value, start, end in _stream(path):
        found.add(key)
        if value is None:
            continue
        if key == "categories" and isinstance(value, dict):
            categories.append({k: _utf8(v) for k, v in value.items()})
        elif key == "images":
            _add_image(images, value, path, report)
        elif key == "annotations":
            numbers = _annotation_ids(value)
            if numbers is None:
                report.add("annotation without usable ids", f"byte {start} of {path.name}")
            else:
                ids.extend(numbers)
                boxes.extend(_box_numbers(value.get("bbox")))
                spans.extend((start, end - start))
    for key in ("images", "annotations", "categories"):
        if key not in found:
            raise UserError(f"{path} has no list {key!r}: it is not a COCO annotation file")
    annotations = np.zeros(len(spans) // 2, _ANNOTATION)
    for i, name in enumerate(("id", "image", "category")):
        annotations[name] = ids[i::3]
    annotations["box"] = np.frombuffer(boxes, np.float64).reshape(-1, 4)
    annotations["offset"], annotations["length"] = spans[::2], spans[1::2]
    return AnnotationFile(path, images, categories, annotations)


def _add_image(images: dict[int, ListedImage], value: Any, path: Path, report: Report) -> None:
    value = value if isinstance(value, dict) else {}
    id_, width, height = (_as_int(value.get(key)) for key in ("id", "width", "height"))
    name = value.get("file_name")
    if id_ is None or not isinstance(name, str) or not (width or 0) > 0 or not (height or 0) > 0:
        report.add("image listed without id, name or size", f"{value.get('id')} of {path.name}")
    else:
        images.setdefault(id_, ListedImage(_utf8(name), width, height))


def _as_int(value: Any) -> int | None:
    """An int that fits 64 bits, else None."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _annotation_ids(value: Any) -> tuple[int, int, int] | None:
    if not isinstance(value, dict):
        return None
    ids = tuple(_as_int(value.get(key)) for key in ("id", "image_id", "category_id"))
    return None if None in ids else ids


def _box_numbers(box: Any) -> Sequence[float]:
    if isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box):
        with contextlib.suppress(OverflowError):
            return [float(v) for v in box]
    return [np.nan] * 4


def _utf8(value: Any) -> Any:
    """Undoes the latin-1 reading of _stream."""
    if not isinstance(value, str):
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value  # it was written as \\u escapes


def _stream(path: Path) -> Iterator[tuple[str, Any, int, int]]:
    """(key, element, start byte, end byte) of each element of each list of the JSON object in
    `path`, and (key, None, 0, 0) once for every list. Memory: a few MB, whatever the file's size.

    Read as latin-1, in which a character is a byte, so positions are byte offsets; the structure
    of JSON is ASCII.
    """
    text = _Window(path)
    text.expect("{")
    while not text.accept("}"):
        key, _, _ = text.value()
        if not isinstance(key, str):
            text.fail()
        text.expect(":")
        if text.accept("["):
            yield key, None, 0, 0
            while not text.accept("]"):
                yield (key, *text.value())
                text.accept(",")
        else:
            text.value()
        text.accept(",")


class _Window:
    """A JSON file seen through a sliding window."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open(encoding="latin-1", newline="")
        self._text, self._base, self._at, self._step = "", 0, 0, 1 << 20
        self._decode = json.JSONDecoder().raw_decode

    def _more(self) -> bool:
        self._base += self._at
        fresh = self._file.read(self._step)
        self._text, self._at = self._text[self._at :] + fresh, 0
        return bool(fresh)

    def _peek(self) -> str:
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def accept(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def expect(self, character: str) -> None:
        if not self.accept(character):
            self.fail()

    def value(self) -> tuple[Any, int, int]:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                whole = end < len(self._text)  # else a number might go on
            except (ValueError, RecursionError):
                value, end, whole = None, None, False
            if not whole and self._more():
                self._step = min(self._step * 2, 1 << 26)  # a long value: not in tiny steps
                continue
            if end is None:
                self.fail()
            if not whole:
                end = len(self._text)
            self._step = 1 << 20
            start, self._at = self._base + self._at, end
            return value, start, self._base + end

    def fail(self) -> NoReturn:
        """Raises UserError."""
        raise UserError(
            f"{self._path} is not whole, valid JSON (near byte {self._base + self._at}): "
            "download it again"
        )


# ---- what is kept ----------------------------------------------------------------------------


class Region(NamedTuple):
    """A kept annotation: an object or a background stuff of a photograph."""

    annotation_id: int
    obj_idx: int  # vocabulary index
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, within the image
    source: int  # index into Photo.sources
    offset: int  # bytes, of the annotation in its source
    length: int


class Photo(NamedTuple):
    """The task of a worker: one photograph and its regions, objects in ascending id."""

    image_id: int
    path: Path
    width: int  # pixels
    height: int
    objects: tuple[Region, ...]
    stuff: tuple[Region, ...]
    sources: tuple[Path, ...]  # the annotation files


class AnnotatedSet:
    """The photographs of train2017 or val2017 with the regions kept, compactly."""

    def __init__(
        self,
        images_dir: Path,
        files: Sequence[AnnotationFile],
        categories: Categories,
        lists: ClassLists,
        min_object_size: float,
        report: Report,
    ) -> None:
        self._dir = images_dir
        self._sources = tuple(file.path for file in files)
        self._images: dict[int, ListedImage] = {}
        for file in files:
            for id_, image in file.images.items():
                self._images.setdefault(id_, image)
        self.image_ids = sorted(self._images)  # every photograph listed
        rows = []
        for source, file in enumerate(files):
            rows.append(file.annotations.copy())
            rows[-1]["source"] = source
        rows = np.concatenate(rows)
        self._rows, self._idx, self._is_object = _keep(
            rows, self._images, categories, lists, min_object_size, report, images_dir.name
        )

    def n_objects(self) -> np.ndarray:
        """int64 (len(image_ids),): regions of each photograph that may be its objects."""
        images = self._rows["image"][self._is_object]
        return np.searchsorted(images, self.image_ids, "right") - np.searchsorted(
            images, self.image_ids, "left"
        )

    def objects(self, image_ids: Sequence[int]) -> np.ndarray:
        """int64 (n, 2): annotation id and image id of the objects of these photographs."""
        rows = self._rows[self._is_object & np.isin(self._rows["image"], image_ids)]
        return np.stack([rows["id"], rows["image"]], axis=1)

    def file_name(self, image_id: int) -> str:
        """The photograph's file name."""
        return self._images[image_id].file_name

    def photo(self, image_id: int) -> Photo:
        """The task of one photograph."""
        image = self._images[image_id]
        first, last = np.searchsorted(self._rows["image"], [image_id, image_id + 1])
        objects, stuff = [], []
        for i in range(first, last):
            row = self._rows[i]
            region = Region(
                int(row["id"]),
                int(self._idx[i]),
                tuple(row["box"].tolist()),
                int(row["source"]),
                int(row["offset"]),
                int(row["length"]),
            )
            (objects if self._is_object[i] else stuff).append(region)
        return Photo(
            image_id,
            self._dir / image.file_name,
            image.width,
            image.height,
            tuple(objects),
            tuple(stuff),
            self._sources,
        )


def _keep(
    rows: np.ndarray,
    images: Mapping[int, ListedImage],
    categories: Categories,
    lists: ClassLists,
    min_object_size: float,
    report: Report,
    where: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows kept, ordered by image id, then annotation id, boxes as x0, y0, x1, y1 within the
    image; their vocabulary indices; which are objects. Every step counts what it drops."""

    def drop(bad: np.ndarray, reason: str) -> np.ndarray:
        if bad.any():
            first = [f"{row['id']} of image {row['image']} ({where})" for row in rows[bad][:_NAMES]]
            report.merge({reason: {"count": int(bad.sum()), "first": first}})
        return rows[~bad]

    listed = np.array(sorted(images), np.int64)
    sizes = np.array([images[id_][1:] for id_ in listed.tolist()], np.float64).reshape(-1, 2)
    known = np.array(categories.ids[:-1], np.int64)
    object_classes = np.isin(categories.names[:-1], lists.objects)
    used_classes = object_classes | np.isin(categories.names[:-1], lists.materials)

    rows = drop(~np.isin(rows["image"], listed), "annotation of an image that is not listed")
    rows = drop(~np.isin(rows["category"], known), "annotation of a category that is not listed")
    unused = ~used_classes[np.searchsorted(known, rows["category"])]
    rows = drop(unused, "annotation whose class is neither object nor material")
    repeated = np.ones(len(rows), bool)
    repeated[np.unique(rows["id"], return_index=True)[1]] = False
    rows = drop(repeated, "annotation with the id of an earlier one")
    box = rows["box"]
    bad = ~np.isfinite(box).all(1) | (box[:, 2:] <= 0).any(1)
    rows = drop(bad, "annotation without a proper box")
    size = sizes[np.searchsorted(listed, rows["image"])]
    low, extent = rows["box"][:, :2], rows["box"][:, 2:]
    rows["box"] = np.concatenate([np.clip(low, 0, size), np.clip(low + extent, 0, size)], axis=1)
    rows = drop(_area(rows) <= 0, "annotation whose box lies outside its image")
    idx = np.searchsorted(known, rows["category"])
    share = _area(rows) / sizes[np.searchsorted(listed, rows["image"])].prod(1)
    rows = drop(object_classes[idx] & (share <= min_object_size), "object too small")

    rows = rows[np.lexsort([rows["id"], rows["image"]])]
    idx = np.searchsorted(known, rows["category"])
    return rows, idx, object_classes[idx]


def _area(rows: np.ndarray) -> np.ndarray:
    return (rows["box"][:, 2:] - rows["box"][:, :2]).prod(1)


# ---- the whole data set ----------------------------------------------------------------------


def source_sizes(dataset_dir: Path) -> dict[str, int]:
    """Bytes of each annotation file, to tell one edition of the data set from another.

    Raises UserError when a file or an image folder is missing.
    """
    for name in SETS:
        if not (dataset_dir / "images" / name).is_dir():
            raise UserError(
                f"{dataset_dir / 'images' / name} is missing: --dataset-dir must hold COCO-Stuff's "
                "images/{train,val}2017 and annotations/{instances,stuff}_{train,val}2017.json"
            )
    sizes = {}
    for path in annotation_files(dataset_dir):
        if not path.is_file():
            raise UserError(f"annotation file {path} is missing: COCO-Stuff needs all four of them")
        sizes[path.name] = path.stat().st_size
    return sizes


def annotation_files(dataset_dir: Path) -> list[Path]:
    """All four, whether they are there or not."""
    return [_annotation_path(dataset_dir, source, name) for source in SOURCES for name in SETS]


def photographs(dataset_dir: Path) -> list[Path]:
    """All files of the image folders."""
    folders = (dataset_dir / "images" / name for name in SETS)
    return [path for folder in folders for path in folder.iterdir() if path.is_file()]


def _annotation_path(dataset_dir: Path, source: str, name: str) -> Path:
    return dataset_dir / "annotations" / f"{source}_{name}.json"


def read_files(dataset_dir: Path, report: Report) -> dict[str, list[AnnotationFile]]:
    """The files of train2017 and of val2017, in the order of SOURCES. Raises UserError."""
    return {
        name: [
            read_annotation_file(_annotation_path(dataset_dir, source, name), report)
            for source in SOURCES
        ]
        for name in SETS
    }


def annotated_sets(
    dataset_dir: Path,
    files: Mapping[str, Sequence[AnnotationFile]],
    lists: ClassLists,
    min_object_size: float,
    report: Report,
) -> tuple[Categories, dict[str, AnnotatedSet]]:
    """The vocabulary and, by name, train2017 and val2017. Raises UserError for categories that
    do not fit together."""
    categories = _join_categories([file for name in SETS for file in files[name]])
    return categories, {
        name: AnnotatedSet(
            dataset_dir / "images" / name,
            files[name],
            categories,
            lists,
            min_object_size,
            report,
        )
        for name in SETS
    }


def read_dataset(
    dataset_dir: Path, lists: ClassLists, min_object_size: float, report: Report
) -> tuple[Categories, dict[str, AnnotatedSet]]:
    """read_files and annotated_sets, of all photographs."""
    files = read_files(dataset_dir, report)
    return annotated_sets(dataset_dir, files, lists, min_object_size, report)
