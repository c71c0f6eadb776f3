"""Write the sample in the public layouts of Quick, Draw!, COCO-Stuff, SketchyCOCO, SketchyCOCO-SL
and FS-COCO.

Format for format as published, so that commands and loaders take the path they take on the real
sets. The same settings give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from core.files import write_json
from dataloaders import sketches
from prep_data.sample import fs_coco, sketchycoco_sl
from prep_data.sample.annotations import annotate_stuff, annotate_thing
from prep_data.sample.objects import BACKGROUNDS, CLASSES, OTHER, individual_of
from prep_data.sample.pen import draw
from prep_data.sample.scenes import Object, make_scene
from prep_data.set_writer import SPLITS
from prep_data.workers import ordered_map, worker_pool

VERSION = 4  # of the sample: raised when the same flags give other bytes
_SKETCHY_SIDE = 128


class Settings(NamedTuple):
    """Settings that the bytes depend on."""

    seed: int = 0
    train_images: int = 600
    val_images: int = 200
    drawings: int = 150
    eval_drawings: int = 40
    sl_train_pairs: int = 100
    sl_test_pairs: int = 100
    fs_pairs: int = 100


class _SceneEntries(NamedTuple):
    """One scene's entries of the annotation files."""

    image: dict[str, Any]
    things: list[dict[str, Any]]
    stuff: list[dict[str, Any]]


# ---- COCO-Stuff and SketchyCOCO --------------------------------------------------------------


def _write_scene(folder: Path, seed: int, task: tuple[str, int]) -> _SceneEntries:
    """Write the images of one scene. task: 'train' or 'val', and the number of the scene."""
    split, index = task
    rng = np.random.default_rng([seed, 1, split == "val", index])
    # Ids ascend with gaps; train and val never share one.
    image_id = 2 * (7 * index + int(rng.integers(7))) + 10 + (split == "val")
    scene = make_scene(rng)
    height, width = scene.labels.shape
    name = f"{image_id:012d}.jpg"
    image = Image.fromarray(scene.image)
    image.save(folder / "coco-stuff" / "images" / f"{split}2017" / name, quality=90)
    base = (1 if split == "train" else 5) * 1_000_000 + 10 * index
    stuff = annotate_stuff(10_000_000 + base * 2, image_id, scene.labels)
    things, sketchable = [], []
    for k, thing in enumerate(scene.objects):
        if thing.cls.category_id < 92:
            annotation = annotate_thing(base + k + 1, image_id, thing)
            if annotation:
                things.append(annotation)
        else:
            annotation = next((a for a in stuff if a["category_id"] == thing.cls.category_id), None)
        if annotation and not annotation["iscrowd"]:
            sketchable.append((thing, annotation))
    part = _sketchycoco_part(split, index)
    if part:
        _write_sketchycoco(folder / "sketchycoco", part, image_id, image, sketchable, rng)
    entry = {
        "license": 1,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/{split}2017/{name}",
        "height": height,
        "width": width,
        "date_captured": "2017-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id,
    }
    return _SceneEntries(entry, things, stuff)


def _sketchycoco_part(split: str, index: int) -> str | None:
    """Return the part of SketchyCOCO that a scene is in, None for most scenes."""
    if split == "val":
        return "val" if index % 4 == 0 else None
    return {0: "trainInTrain", 4: "trainInTrain", 2: "valInTrain"}.get(index % 12)


def _write_sketchycoco(
    folder: Path,
    part: str,
    image_id: int,
    image: Image.Image,
    sketchable: list[tuple[Object, dict[str, Any]]],
    rng: np.random.Generator,
) -> None:
    """Write a scene's image, and of each object its crop and a sketch of itself."""
    image.save(folder / "Scene" / "GT" / part / f"{image_id}.png", compress_level=1)
    side = (_SKETCHY_SIDE, _SKETCHY_SIDE)
    for k, (thing, annotation) in enumerate(sketchable):
        # Scenes of valInTrain have objects of both parts.
        objects = "val" if part == "val" or (part == "valInTrain" and k % 2) else "train"
        x, y, w, h = annotation["bbox"]
        crop = image.resize(side, Image.Resampling.BILINEAR, (x, y, x + w, y + h))
        drawing = draw(thing.individuals[0], rng)
        sketch = Image.fromarray(sketches.rasterise(drawing, _SKETCHY_SIDE)).convert("RGB")
        for kind, content in (("GT", crop), ("Sketch", sketch)):
            class_folder = folder / "Object" / kind / objects / thing.cls.name
            content.save(class_folder / f"{annotation['id']}.png", compress_level=1)


def _write_annotations(folder: Path, split: str, scenes: list[_SceneEntries]) -> None:
    info = {
        "description": "A drawn sample in the layout of the COCO 2017 Dataset",
        "url": "",
        "version": "1",
        "year": 2017,
        "contributor": "prep_data.make_sample",  # the command's name when figures were measured
        "date_created": "2017/01/01",
    }
    classes = [(c.name, c.category_id, c.supercategory) for c in CLASSES]
    stuff = [*(c for c in classes if c[1] > 91), *BACKGROUNDS, OTHER]
    for kind, categories, entries in (
        ("instances", [c for c in classes if c[1] < 92], [a for s in scenes for a in s.things]),
        ("stuff", stuff, [a for s in scenes for a in s.stuff]),
    ):
        content = {
            "info": info,
            "licenses": [{"url": "", "id": 1, "name": "Drawn by a program"}],
            "images": [scene.image for scene in scenes],
            "annotations": entries,
            "categories": [
                {"supercategory": supercategory, "id": number, "name": name}
                for name, number, supercategory in sorted(categories, key=lambda c: c[1])
            ],
        }
        path = folder / "coco-stuff" / "annotations" / f"{kind}_{split}2017.json"
        path.write_text(json.dumps(content), encoding="utf-8")


# ---- Quick, Draw! ----------------------------------------------------------------------------


def _write_drawings(folder: Path, settings: Settings, task: tuple[int, str]) -> None:
    """Write one Quick, Draw! class file. task: index of the object class, sketch class."""
    number, name = task
    cls = CLASSES[number]
    rng = np.random.default_rng([settings.seed, 2, number, cls.sketch_classes.index(name)])
    arrays = {}
    for split in SPLITS:
        count = settings.drawings if split == "train" else settings.eval_drawings
        arrays[split] = np.empty(count, object)
        for i in range(count):
            arrays[split][i] = draw(individual_of(cls, rng), rng)
    # The one place where this project writes a pickle (numpy does, for arrays of arrays): it is
    # the public format.
    np.savez_compressed(folder / "quickdraw" / f"{name}.npz", **arrays)


# ---- all of them -----------------------------------------------------------------------------


def _folders(folder: Path, settings: Settings) -> Iterator[Path]:
    yield folder / "quickdraw"
    yield folder / "coco-stuff" / "annotations"
    for split in ("train", "val"):
        yield folder / "coco-stuff" / "images" / f"{split}2017"
        for kind in ("GT", "Sketch"):
            for cls in CLASSES:
                yield folder / "sketchycoco" / "Object" / kind / split / cls.name
    for scenes in ("trainInTrain", "valInTrain", "val"):
        yield folder / "sketchycoco" / "Scene" / "GT" / scenes
    for split, count in (("train", settings.sl_train_pairs), ("test", settings.sl_test_pairs)):
        if count:  # the published set has no train
            yield from sketchycoco_sl.folders(folder / "sketchycoco-sl" / split)
    yield from fs_coco.folders(folder / "fs-coco")


def write_sample(folder: Path, settings: Settings, workers: int) -> None:
    """Write all layouts into an empty folder."""
    for path in _folders(folder, settings):
        path.mkdir(parents=True)
    classes = [(i, name) for i, c in enumerate(CLASSES) for name in c.sketch_classes]
    scenes = {
        split: [(split, index) for index in range(n)]
        for split, n in (("train", settings.train_images), ("val", settings.val_images))
    }
    pairs = [("train", index) for index in range(settings.sl_train_pairs)]
    pairs += [("test", index) for index in range(settings.sl_test_pairs)]
    n_tasks = len(classes) + sum(map(len, scenes.values())) + len(pairs) + settings.fs_pairs
    with worker_pool(workers) as pool, tqdm(total=n_tasks, disable=None) as bar:

        def run(work: Any, tasks: Iterable[Any]) -> list[Any]:
            results = []
            for result in ordered_map(pool, work, tasks, 4 * max(workers, 1)):
                results.append(result)
                bar.update()
            return results

        run(partial(_write_drawings, folder, settings), classes)
        for split, tasks in scenes.items():
            entries = run(partial(_write_scene, folder, settings.seed), tasks)
            _write_annotations(folder, split, entries)
        run(partial(sketchycoco_sl.write_pair, folder / "sketchycoco-sl", settings.seed), pairs)
        whole = folder / "fs-coco"
        run(partial(fs_coco.write_pair, whole, settings.seed), range(settings.fs_pairs))
        fs_coco.write_lists(whole, settings.fs_pairs)
    write_json(folder / "sample.json", {"version": VERSION, **settings._asdict()})
