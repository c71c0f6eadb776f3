"""Places of photographs: a folder; a prepared set of scenes, which has their objects too; a file of
extract-features, whose photographs are encoded already."""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from core import features
from core.dataset import Vocabulary
from core.errors import UserError, first_line
from core.provenance import data_files, digest, sha256
from core.run import EncodedScene, Run
from dataloaders import images, prepared_sets
from dataloaders.records import SceneRecord, Scenes
from search.objects import FoundObjects, ObjectSource, Size, most_important

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SETS = ("coco-scenes", "sketchycoco-scenes")
SPLITS = ("train", "valid", "test")
RECORDS = 64  # read at a time


class File(NamedTuple):
    """A photograph's file or record, to see whether it has changed."""

    path: str  # relative to the place of photographs, with /
    size: int  # bytes
    modified: int  # ns; of a record its offset


class Photographs(abc.ABC):
    """A place of photographs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abc.abstractmethod
    def files(self) -> list[File]:
        """Return the photographs there are, in a fixed order. UserError for none."""

    @abc.abstractmethod
    def open(self, file: File) -> Image.Image:
        """Return a photograph, not decoded yet. Raises images.Skip for what cannot be read."""

    def objects(self, vocabulary: Vocabulary, files: Sequence[File]) -> ObjectSource:
        """Return the objects that are known of these photographs, by default each as one."""
        return ObjectSource()

    def encode(
        self, run: Run, files: Sequence[File], pixels: Sequence[np.ndarray], boxes: Sequence
    ) -> list[EncodedScene]:
        """Encode some photographs. pixels: uint8 (H, W, 3) of each. boxes: float32 (n, 4) of
        each."""
        return run.encode_photos(pixels, boxes)


def photographs_in(folder: Path) -> Photographs:
    """Return the photographs of a folder, of the prepared set that it is, or of a features file."""
    if folder.name.endswith(features.SUFFIX):
        return FeaturesFile(folder)
    is_set = (folder / "meta.json").is_file() and any(folder.glob("*.index.npz"))
    return PreparedSet(folder) if is_set else PhotographFolder(folder)


def decoded(image: Image.Image, side: int, size: Size | None = None) -> tuple[Image.Image, Size]:
    """Return a photograph upright, as RGB of at most `side` pixels, and the size that it had.

    size: of the picture that its annotations are for, as `images.rgb_picture`. Raises images.Skip.
    """
    stored = image.size
    turned = False
    with contextlib.suppress(Exception):  # Pillow raises nearly anything on damaged EXIF data
        turned = size != stored and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    image.draft(None, (side, side))  # a large JPEG is not decoded at its full size
    image = images.rgb_picture(image, "photograph", image.size if size == stored else None)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image, stored[::-1] if turned else stored


class PhotographFolder(Photographs):
    """The pictures in a folder and below, without hidden ones."""

    def files(self) -> list[File]:
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}")
        files = list(self._walk())
        if not files:
            raise UserError(
                f"{self.folder} has no pictures, nor has any folder in it; these are looked for: "
                f"{', '.join(ENDINGS)}"
            )
        return files

    def _walk(self) -> Iterator[File]:
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(each for each in folders if each[0] not in ".@")
            for name in sorted(names):
                path = Path(place) / name
                if name[0] == "." or path.suffix.lower() not in ENDINGS:
                    continue
                if re.search("[\ud800-\udfff]", str(path)):  # no index could hold it
                    log.warning("left out, for its name is not UTF-8: %s", path)
                    continue
                try:
                    found = path.stat()
                except OSError:  # gone meanwhile
                    continue
                relative = path.relative_to(self.folder).as_posix()
                yield File(relative, found.st_size, found.st_mtime_ns)

    def open(self, file: File) -> Image.Image:
        path = self.folder / file.path
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise images.Skip("a link out of the folder of photographs: copy it there")
        except RuntimeError:  # links in a circle
            raise images.Skip("a link to itself") from None
        return images.open_picture(path, "photograph", images.MAX_PHOTO_SIDE)


class PreparedSet(Photographs):
    """The photographs of a prepared set of scenes, as it holds them: squares. Their paths are
    <shard>/<image id>."""

    def files(self) -> list[File]:
        prepared_sets.read_meta(self.folder, *SETS)
        files = []
        for split in SPLITS:
            if (self.folder / f"{split}.index.npz").is_file():
                for shard in prepared_sets.read_index(self.folder, split).shards.tolist():
                    files += self._shard(shard)
        if not files:
            raise UserError(f"the prepared set {self.folder} is empty")
        return files

    def _shard(self, shard: str) -> Iterator[File]:
        offsets = list(prepared_sets.record_offsets(self.folder / shard))
        for start in range(0, len(offsets), RECORDS):
            block = offsets[start : start + RECORDS]
            records = [prepared_sets.read_record(self.folder / shard, each) for each in block]
            ids = SceneRecord.parse(records).image_id.numpy().tolist()
            for offset, record, id_ in zip(block, records, ids):
                yield File(f"{shard}/{id_}", len(record), offset)

    def record(self, file: File) -> Scenes:
        """Return the record of a photograph. Raises images.Skip for another one in its place."""
        shard = self.folder / file.path.rpartition("/")[0]
        try:
            return SceneRecord.parse([prepared_sets.read_record(shard, file.modified, file.size)])
        except OSError as error:
            raise images.Skip(f"a shard that cannot be read ({first_line(error)})") from None
        except (ValueError, tf.errors.InvalidArgumentError):
            raise images.Skip("a record that has changed: build the index again") from None

    def open(self, file: File) -> Image.Image:
        data = self.record(file).image.numpy()[0]
        return images.decode_picture(data, "photograph", images.MAX_PHOTO_SIDE)

    def objects(self, vocabulary: Vocabulary, files: Sequence[File]) -> ObjectSource:
        return _Annotations(self, vocabulary, files)


class _Annotations(ObjectSource):
    """The objects of a prepared set. Classes count by name."""

    def __init__(self, place: PreparedSet, vocabulary: Vocabulary, files: Sequence[File]) -> None:
        self.identity = f"set {digest(data_files(place.folder, prepared_sets.FILES))[:16]}"
        self._place, self._files = place, {file.path: file for file in files}
        names = prepared_sets.read_meta(place.folder, *SETS).vocabulary.names
        known = {name: label for label, name in enumerate(vocabulary.names)}
        self._labels = np.array([known.get(name, -1) for name in names])

    def find(self, path: str, image: np.ndarray, size: Size) -> FoundObjects:
        try:
            scene = self._place.record(self._files[path])
        except images.Skip as reason:  # the set was prepared again since the picture was read
            raise UserError(f"{self._place.folder}: {path}: {reason}") from None
        boxes, labels = scene.boxes.values.numpy(), self._labels[scene.obj_idx.values.numpy()]
        return most_important(boxes, labels, np.ones(len(labels), np.float32))


class FeaturesFile(Photographs):
    """The photographs of a features file, by image id: its thumbnails, scene vectors, annotated
    boxes and classes. What the run makes of single objects it does not hold."""

    def files(self) -> list[File]:
        if not features.thumbnail_folder(self.folder).is_dir():
            raise UserError(
                f"{self.folder} has no thumbnails to show: extract the features with --exp-hparams "
                "save_images=True, or index the prepared set they were extracted from"
            )
        return [self._file(each) for each in self._features.arrays["image_ids"].tolist()]

    def _file(self, image_id: int) -> File:
        try:
            found = features.thumbnail_path(self.folder, image_id, "photo").stat()
        except FileNotFoundError:
            return File(str(image_id), 0, 0)
        return File(str(image_id), found.st_size, found.st_mtime_ns)

    @functools.cached_property
    def _features(self) -> features.Features:
        return features.read(self.folder, photos_only=True)

    def open(self, file: File) -> Image.Image:
        path = features.thumbnail_path(self.folder, int(file.path), "photo")
        return images.open_picture(path, "thumbnail", images.MAX_PHOTO_SIDE)

    def objects(self, vocabulary: Vocabulary, files: Sequence[File]) -> ObjectSource:
        return _FeaturesObjects(self.folder, self._features)

    def encode(
        self, run: Run, files: Sequence[File], pixels: Sequence[np.ndarray], boxes: Sequence
    ) -> list[EncodedScene]:
        found = self._features
        if found.metadata.weights != run.model.weights_digest():
            raise UserError(
                f"{self.folder} was extracted with other weights than those of {run.folder}: "
                "extract it again"
            )
        rows = {id_: row for row, id_ in enumerate(found.arrays["image_ids"].tolist())}
        name, classes = run.model.vector_names[0], run.vocabulary.num_classes
        return [
            EncodedScene(
                scene_boxes,
                vectors=np.zeros((len(scene_boxes), 0), np.float32),
                class_probabilities=np.zeros((len(scene_boxes), classes), np.float32),
                scene_vectors={name: found.arrays[f"photo_{name}"][rows[int(file.path)]]},
            )
            for file, scene_boxes in zip(files, boxes)
        ]


class _FeaturesObjects(ObjectSource):
    """The annotated objects of a features file."""

    def __init__(self, path: Path, found: features.Features) -> None:
        self.identity = f"features {sha256(path)[:16]}"
        arrays = found.arrays
        order = np.argsort(arrays["photo_obj_to_img"], kind="stable")
        ends = np.cumsum(np.bincount(arrays["photo_obj_to_img"], minlength=found.scenes))
        self._rows = dict(zip(arrays["image_ids"].tolist(), np.split(order, ends[:-1])))
        self._boxes, self._classes = arrays["photo_boxes"], arrays["photo_classes"]

    def find(self, path: str, image: np.ndarray, size: Size) -> FoundObjects:
        rows = self._rows[int(path)]
        ones = np.ones(len(rows), np.float32)
        return most_important(self._boxes[rows], self._classes[rows], ones)
