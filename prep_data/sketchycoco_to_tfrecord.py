"""Paired scenes: the photographs of SketchyCOCO with a sketch of every object.

    python -m prep_data.sketchycoco_to_tfrecord --dataset-dir coco-stuff \\
                                                --sketchycoco-dir sketchycoco \\
                                                --target-dir sketchycoco-tf

Photographs, boxes, masks and background come from COCO-Stuff; of SketchyCOCO the names of
Scene/GT say which photographs, and Object/Sketch has the sketches, named by annotation id (the
first run of digits of the file's name). Paper: section 4.1.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core import hparams
from core.errors import UserError
from prep_data import coco_sets
from prep_data.coco_annotations import (
    AnnotatedSet,
    ClassLists,
    CocoHParams,
    annotated_sets,
    read_files,
)
from prep_data.common import SPLITS, Problem, Report, run_script
from prep_data.sketchycoco_pixels import PairedPhoto, make_paired_scene, short_name

_SCENES = {
    "train": "Scene/GT/trainInTrain",
    "valid": "Scene/GT/valInTrain",
    "test": "Scene/GT/val",
}
_SKETCHES = {
    "train": ("Object/Sketch/train",),
    "valid": ("Object/Sketch/train", "Object/Sketch/val"),
    "test": ("Object/Sketch/val",),
}
_PHOTOS = {"train": "train2017", "valid": "train2017", "test": "val2017"}


class _Files(NamedTuple):
    """The pictures of one folder of SketchyCOCO."""

    by_id: dict[int, Path]  # the first run of digits of the name -> file
    problems: list[Problem]


def _list(sketchycoco_dir: Path) -> dict[str, _Files]:
    """The five folders by name. Raises UserError when one is missing or has no pictures."""
    if not sketchycoco_dir.is_dir():
        raise UserError(f"--sketchycoco-dir {sketchycoco_dir} is not a folder")
    names = [*_SCENES.values(), *_SKETCHES["valid"]]
    return {name: _pictures(sketchycoco_dir / name) for name in names}


def _pictures(folder: Path) -> _Files:
    files = _Files({}, [])
    # In an order that depends on the names alone; '12.png' comes before '12_2.png'.
    for path in sorted(folder.rglob("*"), key=lambda p: (len(p.name), p.as_posix())):
        if path.name.startswith(".") or not path.is_file():  # .DS_Store and the like
            continue
        number = re.search(r"\d+", path.stem, re.ASCII)
        if path.suffix.lower() != ".png" or not number or len(number[0]) > 18:
            files.problems.append(Problem("file that is not <number>.png", short_name(path)))
        elif files.by_id.setdefault(int(number[0]), path) != path:
            files.problems.append(Problem("file with the number of another", short_name(path)))
    if not files.by_id:
        what = "has no <number>.png" if folder.is_dir() else "is missing"
        raise UserError(
            f"{folder} {what}: --sketchycoco-dir must hold SketchyCOCO's "
            "Scene/GT/{trainInTrain,valInTrain,val} and Object/Sketch/{train,val}"
        )
    return files


def _choose(
    args: argparse.Namespace,
    options: CocoHParams,
    folders: Mapping[str, _Files],
    lists: ClassLists,
    report: Report,
) -> coco_sets.Choice:
    """The photographs of each split with the sketches of their objects; everything else is
    reported. Raises UserError when COCO lists no photograph of a split."""
    for files in folders.values():
        report.extend(files.problems)
    annotations = read_files(args.dataset_dir, report)
    known = np.concatenate([f.annotations["id"] for of in annotations.values() for f in of])
    wanted: dict[str, set[int]] = {name: set() for name in annotations}
    for split, name in _PHOTOS.items():
        wanted[name].update(folders[_SCENES[split]].by_id)
    # The report is about scenes of SketchyCOCO, not about the rest of COCO.
    mine = {name: [f.only(wanted[name]) for f in of] for name, of in annotations.items()}
    categories, sets = annotated_sets(
        args.dataset_dir, mine, lists, options.min_object_size, report
    )
    tasks: dict[str, coco_sets.Tasks] = {}
    in_scenes: dict[str, list[np.ndarray]] = {name: [] for name in _SKETCHES["valid"]}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in _SKETCHES["valid"]}
    for split in SPLITS:
        source = sets[_PHOTOS[split]]
        ids = _listed(split, folders[_SCENES[split]].by_id, source, report)
        sketches: dict[int, Path] = {}
        for folder in _SKETCHES[split]:
            sketches = {**folders[folder].by_id, **sketches}  # the first folder wins
        objects = source.objects(ids)
        for id_, image_id in objects[~np.isin(objects[:, 0], list(sketches))].tolist():
            name = f"{id_} of {_PHOTOS[split]}/{source.file_name(image_id)}"
            report.add("object without a sketch", name)
        for folder in _SKETCHES[split]:
            kept[folder].append(objects[:, 0])
            in_scenes[folder] += [f.only(ids).annotations["id"] for f in mine[_PHOTOS[split]]]
        order = coco_sets.shuffled(ids, args.seed) if split == "train" else ids
        tasks[split] = coco_sets.Tasks(order, partial(_paired, source, sketches))
    for folder in _SKETCHES["valid"]:
        here, used = np.concatenate(in_scenes[folder]), np.concatenate(kept[folder])
        _report_unused(folders[folder].by_id, known, here, used, report)
    return categories, tasks


def _listed(
    split: str, scenes: Mapping[int, Path], source: AnnotatedSet, report: Report
) -> list[int]:
    """The ascending image ids of a split's scenes; those that COCO does not list are reported."""
    name = _PHOTOS[split]
    ids = sorted(scenes.keys() & set(source.image_ids))
    for id_ in sorted(scenes.keys() - set(ids)):
        reason = f"scene image without photograph in the annotations of {name}"
        report.add(reason, short_name(scenes[id_]))
    if not ids:
        raise UserError(
            f"no photograph is left for {split}: the annotations of {name} list none of the "
            f"{len(scenes)} images of {_SCENES[split]}"
        )
    return ids


def _report_unused(
    sketches: Mapping[int, Path],
    known: np.ndarray,
    in_scenes: np.ndarray,
    kept: np.ndarray,
    report: Report,
) -> None:
    """Reports the sketches of one folder that no scene uses. known, in_scenes, kept: int64, ids of
    all annotations, of those of the scenes, and of the latter's objects."""
    ids = np.array(sorted(sketches), np.int64)
    exists, here, used = (np.isin(ids, some) for some in (known, in_scenes, kept))
    for unused, reason in (
        (~exists, "sketch without annotation"),
        (exists & ~here, "sketch of an object outside the scenes"),
        (here & ~used, "sketch whose annotation is not a kept object"),
    ):
        for id_ in ids[unused].tolist():
            report.add(reason, short_name(sketches[id_]))


def _paired(source: AnnotatedSet, sketches: Mapping[int, Path], image_id: int) -> PairedPhoto:
    photo = source.photo(image_id)
    objects = tuple(region for region in photo.objects if region.annotation_id in sketches)
    paths = tuple(sketches[region.annotation_id] for region in objects)
    return PairedPhoto(photo._replace(objects=objects), paths)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; raises UserError for what a user can mend."""
    parser = coco_sets.base_parser("sketchycoco_to_tfrecord", __doc__, 5, CocoHParams)
    parser.add_argument(
        "--sketchycoco-dir",
        type=Path,
        required=True,
        help="the downloaded SketchyCOCO (--dataset-dir is COCO-Stuff)",
    )
    args = parser.parse_args(argv)
    options = hparams.parse(args.hparams, CocoHParams)
    folders = _list(args.sketchycoco_dir)
    coco_sets.prepare(
        args,
        options,
        "sketchycoco-scenes",
        stem="scenes",
        choose=partial(_choose, args, options, folders),
        make_work=lambda categories: partial(make_paired_scene, hparams=options),
        encode=coco_sets.encode_scene,
        settings={"sketchycoco_files": {name: len(files.by_id) for name, files in folders.items()}},
        pictures=[path for files in folders.values() for path in files.by_id.values()],
    )


if __name__ == "__main__":
    run_script(main)
