"""Draws a small learnable world in the public layouts of Quick, Draw!, COCO-Stuff, SketchyCOCO and
SketchyCOCO-SL.

    python -m prep_data.make_sample --target-dir sample

gives sample/quickdraw, sample/coco-stuff, sample/sketchycoco and sample/sketchycoco-sl, format for
format, so that every command and loader takes the path it takes on the real sets. What the objects
look like is in `prep_data.sample_world`. The same flags give the same bytes. The folder appears
under its name only when it is whole.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import contourpy
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from core import commands
from core.errors import UsageError, UserError
from core.files import atomic_folder, make_folder, read_json, write_json
from dataloaders import sketches
from prep_data import common, sample_sl
from prep_data import sample_world as world
from prep_data.sample_scenes import Object, make_scene

log = logging.getLogger(__name__)

_VERSION = 3  # of the sample: raised when the same flags give other bytes
_SKETCHY_SIDE = 128
_BATCH = 10  # scenes of one task


class Settings(NamedTuple):
    """What the bytes depend on."""

    seed: int = 0
    train_images: int = 600
    val_images: int = 200
    drawings: int = 150
    eval_drawings: int = 40
    sl_train_pairs: int = 100
    sl_test_pairs: int = 100


# ---- annotations -------------------------------------------------------------------------------


def polygons(coverage: np.ndarray) -> list[list[float]]:
    """The outlines of what is covered by half or more, as COCO writes them: [x0, y0, x1, y1, ..]
    in pixels (pixel k spans [k, k + 1]). A hole is joined to its outline by a slit."""
    padded = np.pad(coverage, 1)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    pieces, offsets = generator.filled(0.5, 2.0)
    outlines = []
    for points, cuts in zip(pieces, offsets):
        rings = [world.simplify(points[a:b], 0.3) for a, b in zip(cuts[:-1], cuts[1:])]
        rings = [ring for ring in rings if len(ring) > 3 and _ring_area(ring) > 3]
        if not rings:
            continue
        outline = rings[0]
        for hole in rings[1:]:
            distance = np.hypot(*(outline[:, None] - hole[None]).transpose(2, 0, 1))
            i, j = np.unravel_index(distance.argmin(), distance.shape)
            around = np.concatenate([hole[j:-1], hole[: j + 1]])
            outline = np.concatenate([outline[: i + 1], around, outline[i:]])
        # A sample of `padded` is the middle of a pixel, half a pixel from its corner.
        corners = np.clip(outline[:-1] - 0.5, 0, coverage.shape[::-1])
        outlines.append([round(value, 2) for value in corners.reshape(-1).tolist()])
    return outlines


def _ring_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _thing(annotation_id: int, image_id: int, thing: Object) -> dict[str, Any] | None:
    """An annotation of instances_*.json; None when hardly anything can be seen."""
    height, width = thing.coverage.shape
    if len(thing.individuals) > 1:  # a crowd: uncompressed RLE, as officially
        flat = (thing.coverage >= 0.5).reshape(-1, order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
        counts = [0, *counts] if flat[0] else counts
        segmentation: Any = {"counts": counts, "size": [height, width]}
        rle = coco_mask.frPyObjects(segmentation, height, width)
        bbox = coco_mask.toBbox(rle).tolist()
        annotation_id = int(f"9001{image_id:08d}")
    else:
        segmentation = polygons(thing.coverage)
        if not segmentation:
            return None
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        corners = np.concatenate([np.reshape(outline, (-1, 2)) for outline in segmentation])
        low, high = corners.min(axis=0), corners.max(axis=0)
        bbox = [round(value, 2) for value in (*low.tolist(), *(high - low).tolist())]
    area = int(coco_mask.area(rle))
    if area < 20:
        return None
    return {
        "segmentation": segmentation,
        "area": area,
        "iscrowd": int(len(thing.individuals) > 1),
        "image_id": image_id,
        "bbox": bbox,
        "category_id": thing.cls.category_id,
        "id": annotation_id,
    }


def _stuff(first_id: int, image_id: int, labels: np.ndarray) -> list[dict[str, Any]]:
    """The annotations of stuff_*.json: one compressed RLE for each category of the image."""
    annotations = []
    for category in np.unique(labels).tolist():
        rle = coco_mask.encode(np.asfortranarray(labels == category))
        area = int(coco_mask.area(rle))
        if area < 20:
            continue
        annotations.append(
            {
                "segmentation": {"counts": rle["counts"].decode("ascii"), "size": rle["size"]},
                "area": float(area),
                "iscrowd": 0,
                "image_id": image_id,
                "bbox": coco_mask.toBbox(rle).tolist(),
                "category_id": category,
                "id": first_id + len(annotations),
            }
        )
    return annotations


# ---- the layouts -----------------------------------------------------------------------------


class _Made(NamedTuple):
    """Of one scene, for the annotation files."""

    image: dict[str, Any]
    things: list[dict[str, Any]]
    stuff: list[dict[str, Any]]


def _scenes_of(folder: Path, seed: int, task: tuple[str, int, int]) -> list[_Made]:
    """Makes scenes first to last of a split ("train" or "val") and writes their pictures."""
    split, first, last = task
    return [_make(folder, seed, split, index) for index in range(first, last)]


def _make(folder: Path, seed: int, split: str, index: int) -> _Made:
    rng = np.random.default_rng([seed, 1, split == "val", index])
    # Ids ascend with gaps; train and val never share one.
    image_id = 2 * (7 * index + int(rng.integers(7))) + 10 + (split == "val")
    scene = make_scene(rng)
    height, width = scene.labels.shape
    name = f"{image_id:012d}.jpg"
    picture = Image.fromarray(scene.image)
    picture.save(folder / "coco-stuff" / "images" / f"{split}2017" / name, quality=90)
    base = (1 if split == "train" else 5) * 1_000_000 + 10 * index
    stuff = _stuff(10_000_000 + base * 2, image_id, scene.labels)
    things, sketchable = [], []
    for k, thing in enumerate(scene.objects):
        if thing.cls.category_id < 92:
            annotation = _thing(base + k + 1, image_id, thing)
            if annotation:
                things.append(annotation)
        else:
            annotation = next((a for a in stuff if a["category_id"] == thing.cls.category_id), None)
        if annotation and not annotation["iscrowd"]:
            sketchable.append((thing, annotation))
    _sketchycoco(folder / "sketchycoco", split, index, image_id, picture, sketchable, rng)
    image = {
        "license": 1,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/{split}2017/{name}",
        "height": height,
        "width": width,
        "date_captured": "2017-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id,
    }
    return _Made(image, things, stuff)


def _sketchycoco(
    folder: Path,
    split: str,
    index: int,
    image_id: int,
    picture: Image.Image,
    sketchable: list[tuple[Object, dict[str, Any]]],
    rng: np.random.Generator,
) -> None:
    """Part of the scenes also become SketchyCOCO's, each object with a sketch of itself."""
    if split == "val":
        scenes = "val" if index % 4 == 0 else None
    else:
        scenes = {0: "trainInTrain", 4: "trainInTrain", 2: "valInTrain"}.get(index % 12)
    if scenes is None:
        return
    picture.save(folder / "Scene" / "GT" / scenes / f"{image_id}.png", compress_level=1)
    side = (_SKETCHY_SIDE, _SKETCHY_SIDE)
    for k, (thing, annotation) in enumerate(sketchable):
        # Scenes of valInTrain have objects of both parts.
        objects = "val" if split == "val" or (scenes == "valInTrain" and k % 2) else "train"
        x, y, w, h = annotation["bbox"]
        crop = picture.resize(side, Image.Resampling.BILINEAR, (x, y, x + w, y + h))
        drawing = world.draw(thing.individuals[0], rng)
        sketch = Image.fromarray(sketches.rasterise(drawing, _SKETCHY_SIDE)).convert("RGB")
        for kind, content in (("GT", crop), ("Sketch", sketch)):
            place = folder / "Object" / kind / objects / thing.cls.name
            content.save(place / f"{annotation['id']}.png", compress_level=1)


def _drawings_of(folder: Path, settings: Settings, task: tuple[int, str]) -> None:
    """Writes one Quick, Draw! class file."""
    number, name = task
    cls = world.CLASSES[number]
    rng = np.random.default_rng([settings.seed, 2, number, cls.sketch_classes.index(name)])
    arrays = {}
    for split in common.SPLITS:
        count = settings.drawings if split == "train" else settings.eval_drawings
        arrays[split] = np.empty(count, object)
        for i in range(count):
            arrays[split][i] = world.draw(world.individual_of(cls, rng), rng)
    # The one place where this project writes a pickle (numpy does, for arrays of arrays): it is
    # the public format. `prep_data.npz` reads it without unpickling.
    np.savez_compressed(folder / "quickdraw" / f"{name}.npz", **arrays)


def _write_annotations(folder: Path, split: str, made: Sequence[_Made]) -> None:
    info = {
        "description": "A drawn sample in the layout of the COCO 2017 Dataset",
        "url": "",
        "version": "1",
        "year": 2017,
        "contributor": "prep_data.make_sample",
        "date_created": "2017/01/01",
    }
    classes = [(c.name, c.category_id, c.supercategory) for c in world.CLASSES]
    stuff = [*(c for c in classes if c[1] > 91), *world.BACKGROUNDS, world.OTHER]
    for kind, categories, mine in (
        ("instances", [c for c in classes if c[1] < 92], [a for m in made for a in m.things]),
        ("stuff", stuff, [a for m in made for a in m.stuff]),
    ):
        content = {
            "info": info,
            "licenses": [{"url": "", "id": 1, "name": "Drawn by a program"}],
            "images": [m.image for m in made],
            "annotations": mine,
            "categories": [
                {"supercategory": above, "id": number, "name": name}
                for name, number, above in sorted(categories, key=lambda c: c[1])
            ],
        }
        path = folder / "coco-stuff" / "annotations" / f"{kind}_{split}2017.json"
        path.write_text(json.dumps(content), encoding="utf-8")


def _folders(folder: Path, settings: Settings) -> Iterator[Path]:
    yield folder / "quickdraw"
    yield folder / "coco-stuff" / "annotations"
    for split in ("train", "val"):
        yield folder / "coco-stuff" / "images" / f"{split}2017"
        for kind in ("GT", "Sketch"):
            for cls in world.CLASSES:
                yield folder / "sketchycoco" / "Object" / kind / split / cls.name
    for scenes in ("trainInTrain", "valInTrain", "val"):
        yield folder / "sketchycoco" / "Scene" / "GT" / scenes
    for split, count in (("train", settings.sl_train_pairs), ("test", settings.sl_test_pairs)):
        if count:  # the published set has no train
            yield from sample_sl.folders(folder / "sketchycoco-sl" / split)


def write_sample(folder: Path, settings: Settings, workers: int) -> None:
    """Writes all layouts into an empty folder."""
    for place in _folders(folder, settings):
        place.mkdir(parents=True)
    names = [(i, name) for i, c in enumerate(world.CLASSES) for name in c.sketch_classes]
    counts = {"train": settings.train_images, "val": settings.val_images}
    tasks = {
        split: [(split, k, min(k + _BATCH, n)) for k in range(0, n, _BATCH)]
        for split, n in counts.items()
    }
    pairs = [
        (split, index)
        for split, count in (("train", settings.sl_train_pairs), ("test", settings.sl_test_pairs))
        for index in range(count)
    ]
    n_tasks = len(names) + sum(map(len, tasks.values())) + len(pairs)
    ahead = 4 * max(workers, 1)
    with common.worker_pool(workers) as pool, tqdm(total=n_tasks, disable=None) as bar:
        for _ in common.ordered_map(pool, partial(_drawings_of, folder, settings), names, ahead):
            bar.update()
        for split, mine in tasks.items():
            made = []
            work = partial(_scenes_of, folder, settings.seed)
            for part in common.ordered_map(pool, work, mine, ahead):
                made += part
                bar.update()
            _write_annotations(folder, split, made)
        work = partial(sample_sl.write_pair, folder / "sketchycoco-sl", settings.seed)
        for _ in common.ordered_map(pool, work, pairs, ahead):
            bar.update()
    write_json(folder / "sample.json", {"version": _VERSION, **settings._asdict()})


# ---- the command -------------------------------------------------------------------------------


def _is_there(target: Path, settings: Settings) -> bool:
    """Whether the sample is there already. Raises UserError when the place is taken."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise UserError(f"{target} is a file: name another --target-dir")
    note = target / "sample.json"
    if note.is_file():
        if read_json(note) == {"version": _VERSION, **settings._asdict()}:
            return True
        raise UserError(
            f"{target} holds a sample made with other flags: name another --target-dir or remove "
            "that folder"
        )
    if any(target.iterdir()):
        raise UserError(f"{target} is not empty and no sample: name another --target-dir")
    return False


def main(argv: Sequence[str] | None = None) -> None:
    """argv: the flags, sys.argv's when None. Raises UserError."""
    parser = commands.Parser(
        prog="python -m prep_data.make_sample",
        description="Draws a small world in the layouts of Quick, Draw!, COCO-Stuff, SketchyCOCO "
        "and SketchyCOCO-SL.",
    )
    parser.add_argument("--target-dir", type=Path, required=True, help="folder to write to")
    helps = {
        "seed": "of everything",
        "train_images": "photographs of train2017",
        "val_images": "photographs of val2017",
        "drawings": "training drawings of each Quick, Draw! class",
        "eval_drawings": "drawings of valid and of test, of each class",
        "sl_train_pairs": "photographs with a drawing of the scene, train",
        "sl_test_pairs": "the same of test",
    }
    for name, default in Settings()._asdict().items():
        parser.add_argument(
            "--" + name.replace("_", "-"), type=int, default=default, help=helps[name]
        )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one a core; 0: none but this one)",
    )
    args = parser.parse_args(argv)
    settings = Settings(**{name: getattr(args, name) for name in Settings._fields})
    for name in (*Settings._fields, "workers"):
        least = 0 if name in ("seed", "workers", "sl_train_pairs", "sl_test_pairs") else 1
        if getattr(args, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {getattr(args, name)}: it must be at least {least}")
    target = args.target_dir.absolute()
    if _is_there(target, settings):
        print(f"{target}: is complete already, nothing to do")
        return
    make_folder(target.parent, "the folder", "choose another --target-dir")
    with atomic_folder(target) as folder:
        write_sample(folder, settings, args.workers)
    drawings = settings.drawings + 2 * settings.eval_drawings
    print(
        f"{target}: {len(world.CLASSES)} object classes, {settings.train_images} + "
        f"{settings.val_images} photographs, {drawings} drawings of each Quick, Draw! class, "
        f"{settings.sl_train_pairs} + {settings.sl_test_pairs} drawn scenes"
    )


if __name__ == "__main__":
    common.run_script(main)
