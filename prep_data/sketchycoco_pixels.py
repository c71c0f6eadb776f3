"""What workers do with one scene of SketchyCOCO: as coco_pixels, and a sketch of each object.

Pure functions of their arguments and the files these name. No TensorFlow here: workers import
this module (see prep_data.common).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dataloaders import images, sketches
from dataloaders.images import Skip
from prep_data.coco_annotations import CocoHParams, Photo
from prep_data.coco_pixels import make_scene
from prep_data.common import Done, Problem


class PairedPhoto(NamedTuple):
    """The task of a worker."""

    photo: Photo  # its objects are those that have a sketch
    sketches: tuple[Path, ...]  # of each object, in their order


def make_paired_scene(task: PairedPhoto, hparams: CocoHParams) -> Done:
    """One payload for SceneRecord.encode (as keywords), or none; counts `objects`. Objects whose
    sketch cannot be used are left out."""
    problems: list[Problem] = []
    drawn: dict[int, bytes] = {}
    for region, path in zip(task.photo.objects, task.sketches):
        try:
            sketch = images.load_sketch(path, hparams.crop_size)
            drawn[region.annotation_id] = sketches.encode_png(sketch)
        except Skip as reason:
            problems.append(Problem(str(reason), short_name(path)))
    left = tuple(region for region in task.photo.objects if region.annotation_id in drawn)
    done = make_scene(task.photo._replace(objects=left), hparams)
    for payload in done.records:
        payload["sketches"] = [drawn[id_] for id_ in payload["annotation_ids"]]
    return done._replace(problems=[*problems, *done.problems])


def short_name(path: Path) -> str:
    """How a report names a sketch file: 'train/cat/123.png'."""
    return "/".join(path.parts[-3:])
