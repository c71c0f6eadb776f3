"""Read the annotation files of COCO-Stuff.

The official files are half a gigabyte each. The parent process keeps of an annotation only numbers
(72 bytes) and where it lies in its file; a worker reads the segmentation it needs itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from core.errors import UserError, file_error
from core.files import read_utf8
from prep_data.report import Report

SOURCES = ("instances", "stuff")
SETS = ("train2017", "val2017")

# ---- JSON ------------------------------------------------------------------------------------

_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Positive = Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]


class _Listing(msgspec.Struct):
    """The images that an annotation file lists, undecoded: a broken entry does not spoil others."""

    images: list[msgspec.Raw]


class _File(_Listing):
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class _Image(msgspec.Struct):
    id: _Id
    file_name: str
    width: _Positive  # pixels
    height: _Positive


class _Category(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    name: str


class _AnnotationIds(msgspec.Struct):
    id: _Id
    image_id: _Id
    category_id: _Id


class _Annotation(_AnnotationIds):
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels


class Rle(msgspec.Struct):
    """A run-length encoded mask: lengths of runs column by column, zeros first, or their text."""

    size: list[int]  # height, width
    counts: list[int] | str


Polygons = list[list[float]]


class _Segmented(msgspec.Struct):
    segmentation: Polygons | Rle | None = None


_NOT_JSON = re.compile(rb"(?<=[\s\[,:])-?(?:NaN|Infinity)(?=[\s\],}])")


def _decode(data: bytes, cls: type) -> tuple[Any, bytes]:
    """Decode JSON into `cls`; return that and the JSON.

    Python writes NaN and Infinity, which are no JSON: they become empty lists of the same length,
    which no field of numbers accepts. Raises msgspec.DecodeError.
    """
    try:
        return msgspec.json.decode(data, type=cls), data
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        data = _NOT_JSON.sub(lambda found: b"[%s]" % (b" " * (len(found[0]) - 2)), data)
        return msgspec.json.decode(data, type=cls), data
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error


def read_segmentation(path: Path, offset: int, length: int) -> Polygons | Rle | None:
    """Read the segmentation of the annotation at some bytes of a file; None when it has none.

    Raises msgspec.DecodeError when it is of no form that COCO has.
    """
    with path.open("rb") as file:
        file.seek(offset)
        return _decode(file.read(length), _Segmented)[0].segmentation


# ---- files -----------------------------------------------------------------------------------


class ListedImage(NamedTuple):
    """A photograph as an annotation file lists it."""

    file_name: str  # with / between folders
    width: int  # pixels
    height: int


ANNOTATION = np.dtype(
    [
        ("id", np.int64),
        ("image", np.int64),
        ("category", np.int64),
        ("box", np.float64, 4),  # pixels; NaN where unusable
        ("offset", np.int64),  # bytes: where the annotation lies in its file
        ("length", np.int64),
        ("source", np.int64),  # index of its file, set by `coco_selection`
    ]
)


@dataclass
class AnnotationFile:
    """One file without its segmentations."""

    path: Path
    images: dict[int, ListedImage]  # image id -> image
    categories: list[tuple[int, str]]  # id, name
    annotations: np.ndarray  # ANNOTATION (A,) in the order of the file; box: x, y, width, height

    def only(self, image_ids: Collection[int]) -> AnnotationFile:
        """Return the file as if it listed these photographs and their annotations alone."""
        chosen = np.isin(self.annotations["image"], np.array(list(image_ids), np.int64))
        images = {id_: self.images[id_] for id_ in image_ids if id_ in self.images}
        return replace(self, images=images, annotations=self.annotations[chosen])


def read_annotation_file(path: Path, report: Report) -> AnnotationFile:
    """Read one file; entries that cannot be used are reported.

    Raises UserError when it is missing, damaged or not of COCO's form.
    """
    try:
        content, data = _decode(read_utf8(path), _File)
    except OSError as error:
        raise UserError(f"cannot read annotation file {path}: {file_error(error)}") from None
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path} is not a COCO annotation file: a JSON object with images, annotations and "
            f"categories was expected ({error})"
        ) from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is not whole, valid JSON ({error}): download it again") from None
    images = _images(content.images, path, report)
    annotations = _annotations(content.annotations, data, path, report)
    annotations["offset"] += path.stat().st_size - len(data)  # a byte order mark, left out
    return AnnotationFile(path, images, _categories(content, annotations, path), annotations)


def _images(entries: list[msgspec.Raw], path: Path, report: Report) -> dict[int, ListedImage]:
    images: dict[int, ListedImage] = {}
    for raw in entries:
        try:
            # Not strict: tools also write ids as text, and whole numbers as 640.0.
            image = msgspec.json.decode(raw, type=_Image, strict=False)
        except msgspec.DecodeError:
            report.add("image listed without id, name or size", f"{_shown(raw)} of {path.name}")
            continue
        file_name = image.file_name
        parsed = PureWindowsPath(file_name)  # takes both / and \
        if "://" in file_name:  # what follows ? may be a key
            shown = file_name.split("?")[0]
            report.add("image named by a URL, not by its file", f"{shown} of {path.name}")
        elif parsed.anchor or ".." in parsed.parts:
            reason = "image whose file_name leads out of the data set"
            report.add(reason, f"{file_name} of {path.name}")
        else:
            listed = ListedImage(parsed.as_posix(), image.width, image.height)
            images.setdefault(image.id, listed)
    return images


def _shown(raw: msgspec.Raw) -> str:
    return " ".join(bytes(raw).decode(errors="replace").split())[:60]


def _categories(content: _File, annotations: np.ndarray, path: Path) -> list[tuple[int, str]]:
    found = []
    for raw in content.categories:
        try:
            category = msgspec.json.decode(raw, type=_Category, strict=False)
        except msgspec.DecodeError:
            raise UserError(
                f"{path}: category {_shown(raw)} needs a positive id and a name"
            ) from None
        if category.id:
            found.append((category.id, category.name))
        elif not annotations["category"].all():  # tools list the root of all classes as 0
            raise UserError(
                f"{path}: category {_shown(raw)} has annotations, but id 0 is the whole image's: "
                "add 1 to each id of `categories` and to each `category_id` of all four files"
            )
    return found


def _annotations(entries: list[msgspec.Raw], data: bytes, path: Path, report: Report) -> np.ndarray:
    decode = msgspec.json.Decoder(_Annotation, strict=False).decode
    decode_ids = msgspec.json.Decoder(_AnnotationIds, strict=False).decode
    ids, boxes, spans = array("q"), array("d"), array("q")
    end = 0
    for raw in entries:
        start = data.index(raw, end)
        end = start + len(memoryview(raw))
        try:
            annotation = decode(raw)
            box = annotation.bbox
        except msgspec.DecodeError:
            try:
                annotation, box = decode_ids(raw), [np.nan] * 4
            except msgspec.DecodeError:
                report.add("annotation without usable ids", f"byte {start} of {path.name}")
                continue
        ids.extend((annotation.id, annotation.image_id, annotation.category_id))
        boxes.extend(box)
        spans.extend((start, end - start))
    rows = np.zeros(len(spans) // 2, ANNOTATION)
    for i, name in enumerate(("id", "image", "category")):
        rows[name] = ids[i::3]
    rows["box"] = np.frombuffer(boxes, np.float64).reshape(-1, 4)
    rows["offset"], rows["length"] = spans[::2], spans[1::2]
    return rows


# ---- the data set ----------------------------------------------------------------------------


def annotation_files(dataset_dir: Path) -> list[Path]:
    """Return the paths of all four annotation files."""
    return [_annotation_path(dataset_dir, source, name) for source in SOURCES for name in SETS]


def _annotation_path(dataset_dir: Path, source: str, name: str) -> Path:
    return dataset_dir / "annotations" / f"{source}_{name}.json"


def check_layout(dataset_dir: Path) -> None:
    """Raise UserError when an image folder or an annotation file is missing."""
    for name in SETS:
        if not (dataset_dir / "images" / name).is_dir():
            raise UserError(
                f"{dataset_dir / 'images' / name} is missing: --dataset-dir must hold COCO-Stuff's "
                "images/{train,val}2017 and annotations/{instances,stuff}_{train,val}2017.json"
            )
    for path in annotation_files(dataset_dir):
        if not path.is_file():
            raise UserError(f"annotation file {path} is missing: COCO-Stuff needs all four of them")


def find_photograph(images_dir: Path, file_name: str) -> Path:
    """Return where a photograph lies. images_dir: the folder `images/<set>` of its data set.

    A name with folders may also start at `images`, or at the data set's folder. The path in
    `images_dir` when it lies nowhere.
    """
    usual = images_dir / file_name
    if "/" not in file_name:
        return usual
    paths = (place / file_name for place in (images_dir, *images_dir.parents[:2]))
    # Not by Path.is_file, which raises for a name that is too long.
    return next((path for path in paths if os.path.isfile(path)), usual)  # noqa: PTH113


def photographs(dataset_dir: Path) -> set[Path]:
    """Return the photographs that the annotation files name, be they there or not.

    Files that cannot be read name none: the command says so when it needs them.
    """
    found = set()
    for source in SOURCES:
        for name in SETS:
            path = _annotation_path(dataset_dir, source, name)
            with contextlib.suppress(OSError, msgspec.DecodeError):
                entries = _decode(read_utf8(path), _Listing)[0].images
                found.update(
                    find_photograph(dataset_dir / "images" / name, image.file_name)
                    for image in _images(entries, path, Report()).values()
                )
    return found


def read_files(dataset_dir: Path, report: Report) -> dict[str, list[AnnotationFile]]:
    """Read the files of train2017 and of val2017, each in the order of SOURCES."""
    return {
        name: [
            read_annotation_file(_annotation_path(dataset_dir, source, name), report)
            for source in SOURCES
        ]
        for name in SETS
    }
