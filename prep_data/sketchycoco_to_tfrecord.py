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
import glob
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from core import hparams
from core.errors import UserError
from prep_data import coco_sets
from prep_data.coco_annotations import read_files
from prep_data.coco_classes import ClassLists, CocoHParams
from prep_data.coco_pixels import PairedPhoto, make_paired_scene
from prep_data.coco_selection import AnnotatedSet, select_regions
from prep_data.flags import base_parser, run_script
from prep_data.report import Report, short_name
from prep_data.set_writer import SPLITS

_SCENES = {
    "train": "Scene/GT/trainInTrain",
    "valid": "Scene/GT/valInTrain",
    "test": "Scene/GT/val",
}
_SKETCHES = {  # where two folders have a sketch, the first folder's is taken
    "train": ("Object/Sketch/train",),
    "valid": ("Object/Sketch/train", "Object/Sketch/val"),
    "test": ("Object/Sketch/val",),
}
_PHOTOS = {"train": "train2017", "valid": "train2017", "test": "val2017"}

# ---- the folders of SketchyCOCO --------------------------------------------------------------


Folder = dict[int, Path]  # the pictures of a folder: first run of digits of the name -> file


def _list_folders(sketchycoco_dir: Path, report: Report) -> dict[str, Folder]:
    """List the five folders by name; raise UserError when one is missing or has no pictures."""
    if not sketchycoco_dir.is_dir():
        raise UserError(f"--sketchycoco-dir {sketchycoco_dir} is not a folder")
    names = [*_SCENES.values(), *_SKETCHES["valid"]]
    return {name: _list_folder(sketchycoco_dir / name, report) for name in names}


def _list_folder(path: Path, report: Report) -> Folder:
    folder: Folder = {}
    # Not by Path.glob, which also takes what is hidden.
    visible = map(path.joinpath, glob.iglob("**", root_dir=path, recursive=True))  # noqa: PTH207
    # In an order that depends on the names alone; '12.png' comes before '12_2.png'.
    for file in sorted(visible, key=lambda p: (len(p.name), p.as_posix())):
        if not file.is_file():
            continue
        number = re.search(r"\d+", file.stem, re.ASCII)
        if file.suffix.lower() != ".png" or not number or len(number[0]) > 18:
            report.add("file that is not <number>.png", short_name(file))
        elif folder.setdefault(int(number[0]), file) != file:
            report.add("file with the number of another", short_name(file))
    if not folder:
        problem = "has no <number>.png" if path.is_dir() else "is missing"
        raise UserError(
            f"{path} {problem}: --sketchycoco-dir must hold SketchyCOCO's "
            "Scene/GT/{trainInTrain,valInTrain,val} and Object/Sketch/{train,val}"
        )
    return folder


# ---- scenes and their sketches ---------------------------------------------------------------


def _choose(
    args: argparse.Namespace,
    options: CocoHParams,
    folders: Mapping[str, Folder],
    lists: ClassLists,
    report: Report,
) -> coco_sets.Choice:
    """Choose the photographs of each split with the sketches of their objects.

    Everything else is reported. Raises UserError when COCO lists no photograph of a split.
    """
    files = read_files(args.dataset_dir, report)
    all_ids = np.concatenate([f.annotations["id"] for of_set in files.values() for f in of_set])
    wanted: dict[str, set[int]] = {name: set() for name in files}
    for split, name in _PHOTOS.items():
        wanted[name].update(folders[_SCENES[split]])
    # The report is about scenes of SketchyCOCO, not about the rest of COCO.
    files = {name: [f.only(wanted[name]) for f in of_set] for name, of_set in files.items()}
    vocabulary, sets = select_regions(
        args.dataset_dir, files, lists, options.min_object_size, report
    )
    tasks: dict[str, coco_sets.Tasks] = {}
    scene_ids = {name: [] for name in _SKETCHES["valid"]}  # of all annotations of scenes
    object_ids = {name: [] for name in _SKETCHES["valid"]}  # of those that are objects
    for split in SPLITS:
        photos = sets[_PHOTOS[split]]
        ids = _listed_scenes(split, folders[_SCENES[split]], photos, report)
        sketch_files: dict[int, Path] = {}
        for name in reversed(_SKETCHES[split]):
            sketch_files.update(folders[name])
        objects = photos.objects(ids)
        for id_, image_id in objects[~np.isin(objects[:, 0], list(sketch_files))].tolist():
            report.add("object without a sketch", f"{id_} of {photos.photo(image_id).name}")
        for name in _SKETCHES[split]:
            object_ids[name].append(objects[:, 0])
            scene_ids[name] += [f.only(ids).annotations["id"] for f in files[_PHOTOS[split]]]
        order = coco_sets.shuffled(ids, args.seed) if split == "train" else ids
        tasks[split] = coco_sets.Tasks(order, partial(_pair, photos, sketch_files))
    for name in _SKETCHES["valid"]:
        _report_unused(
            folders[name],
            all_ids,
            np.concatenate(scene_ids[name]),
            np.concatenate(object_ids[name]),
            report,
        )
    return vocabulary, tasks


def _listed_scenes(
    split: str, scenes: Mapping[int, Path], photos: AnnotatedSet, report: Report
) -> list[int]:
    """Return the ascending image ids of a split's scenes; report those that COCO does not list."""
    name = _PHOTOS[split]
    ids = sorted(scenes.keys() & set(photos.image_ids))
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
    sketch_files: Mapping[int, Path],
    all_ids: np.ndarray,
    scene_ids: np.ndarray,
    object_ids: np.ndarray,
    report: Report,
) -> None:
    """Report the sketches of one folder that no scene uses.

    all_ids, scene_ids, object_ids: int64 ids of all annotations, of those of the scenes, and of
    the latter's objects.
    """
    ids = np.array(sorted(sketch_files), np.int64)
    exists, in_scene, used = (np.isin(ids, known) for known in (all_ids, scene_ids, object_ids))
    for unused, reason in (
        (~exists, "sketch without annotation"),
        (exists & ~in_scene, "sketch of an object outside the scenes"),
        (in_scene & ~used, "sketch whose annotation is not a kept object"),
    ):
        report.add(reason, *(short_name(sketch_files[id_]) for id_ in ids[unused].tolist()))


def _pair(photos: AnnotatedSet, sketch_files: Mapping[int, Path], image_id: int) -> PairedPhoto:
    photo = photos.photo(image_id)
    objects = tuple(region for region in photo.objects if region.annotation_id in sketch_files)
    paths = tuple(sketch_files[region.annotation_id] for region in objects)
    return PairedPhoto(photo._replace(objects=objects), paths)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    parser = base_parser("sketchycoco_to_tfrecord", __doc__, 5, CocoHParams)
    parser.add_argument(
        "--sketchycoco-dir",
        type=Path,
        required=True,
        help="the downloaded SketchyCOCO (--dataset-dir is COCO-Stuff)",
    )
    args = parser.parse_args(argv)
    options = hparams.parse(args.hparams, CocoHParams)
    report = Report()
    with report.explaining_errors():
        folders = _list_folders(args.sketchycoco_dir, report)
    coco_sets.prepare(
        args,
        options,
        "sketchycoco-scenes",
        choose=partial(_choose, args, options, folders),
        make_work=lambda vocabulary: partial(make_paired_scene, hparams=options),
        images=[path for folder in folders.values() for path in folder.values()],
        report=report,
    )


if __name__ == "__main__":
    run_script(main)
