"""Loaders over sets of 10,000, 30,000 and 100,000 records, and over indices as large as those of
the paper's sets: what grows with the size of a set.

The records hold few different pictures over and over, for a loader does not care; they are written
with dataloaders.records and read as real sets. The 'full' sets are those of 100,000 records with
an index that names each block of drawings 90 times and each block of crops 4 times.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import statistics
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.data import RELATIONSHIP
from tests.benchmarks.harness import Bench, Numbers, Row, Setting, faster, rate, slower, stopwatch

SIZES = {"10k": (10_000, 300), "30k": (30_000, 600), "100k": (100_000, 1200)}  # full, quick
TIMES = {"quickdraw": 90, "indexed": 90, "crops": 4, "scenes": 1}  # of the 'full' indices
LOADERS = {
    "quickdraw-cococrops-tf": ({"qdraw_dir": "quickdraw", "crops_dir": "crops"}, 64),
    "coco-tfrecord": ({"coco_dir": "scenes", "qdraw_dir": "indexed", "crops_dir": "crops"}, 16),
}  # name -> (its folders, batch size)
SHARDS = 5  # of an ungrouped set, as the commands write by default


# ---------------------------------------------------------------- the sets


def _folder(setting: Setting) -> Path:
    return setting.folder / "scale"


def _write(size: str, setting: Setting) -> Numbers:
    """Four sets with that many train records each, in place of those that were there."""
    from dataloaders import records
    from prep_data.coco_classes import CocoHParams, Vocabulary, read_class_lists
    from prep_data.quickdraw_drawings import read_classes
    from tests.dataloaders import tiny_sets

    folder, count = _folder(setting), setting.size(*SIZES[size])
    shutil.rmtree(folder, ignore_errors=True)
    passed = stopwatch()
    rng = np.random.default_rng(0)
    drawings = read_classes(RELATIONSHIP)
    lists = read_class_lists(CocoHParams().excluded_meta_file)
    names = (*sorted({*lists.objects, *lists.materials, *lists.fully_excluded}), "__image__")
    photo = tiny_sets.encode(tiny_sets.scene_image(rng), "JPEG")
    crop = tiny_sets.encode(tiny_sets.scene_image(rng, 96), "JPEG")
    sketch = tiny_sets.encode(tiny_sets.marked(96, 0, 100), "PNG")

    sketches = [records.SketchRecord.encode(sketch, k, k) for k in range(len(drawings.coco))]
    crops = [records.CropRecord.encode(crop, names.index(n), 1, 1) for n in lists.objects]
    _write_mixed(folder / "quickdraw", "sketches", sketches, count)
    _write_grouped(folder / "indexed", drawings.coco, sketches, count)
    _write_grouped(folder / "crops", lists.objects, crops, count)
    things = [names.index(name) for name in lists.objects]
    scenes = [_scene(photo, rng, things, 1 + i % 8) for i in range(64)]
    _write_mixed(folder / "scenes", "scenes", scenes, count)

    coco = Vocabulary((*range(1, len(names)), 0), names).meta(lists, ())
    coco |= {"mask_size": 64, "crop_size": 96}
    drawn = {split: dict.fromkeys(drawings.coco, 1) for split in ("train", "valid", "test")}
    for name, kind, meta in (
        ("quickdraw", "quickdraw", {**drawings.meta(), "drawings": drawn}),
        ("indexed", "quickdraw-indexed", {**drawings.meta(), "drawings": drawn}),
        ("crops", "coco-crops", coco),
        ("scenes", "coco-scenes", coco),
    ):
        tiny_sets.write_meta(folder / name, kind, **meta)
    size_on_disk = sum(file.stat().st_size for file in folder.rglob("*.tfrecord"))
    return {"seconds": passed(), "bytes": size_on_disk}


def _scene(photo: bytes, rng: np.random.Generator, things: list[int], objects: int) -> bytes:
    from dataloaders import records
    from tests.dataloaders import tiny_sets

    masks = records.pack_masks(np.ones((objects, 64, 64)))
    boxes = tiny_sets.scene_boxes(rng, objects).reshape(-1).tolist()
    classes = rng.choice(things, objects).tolist()
    ids = list(range(objects))
    return records.SceneRecord.encode(photo, 1, classes, boxes, masks, ids, [], [], b"")


def _write_mixed(folder: Path, stem: str, examples: list[bytes], count: int) -> None:
    from tests.dataloaders import tiny_sets

    for split, total in (("train", count), ("valid", len(examples)), ("test", len(examples))):
        rows = [examples[i % len(examples)] for i in range(total)]
        cuts = np.linspace(0, total, SHARDS + 1).astype(int).tolist()
        shards = {
            f"{split}/{stem}-{k:05d}-of-{SHARDS:05d}.tfrecord": rows[cuts[k] : cuts[k + 1]]
            for k in range(SHARDS)
        }
        tiny_sets.write_shards(folder, split, shards)


def _write_grouped(folder: Path, classes: Sequence[str], examples: list[bytes], count: int) -> None:
    from prep_data.set_writer import file_stem
    from tests.dataloaders import tiny_sets

    for split, each in (("train", -(-count // len(classes))), ("valid", 1), ("test", 1)):
        shards = {
            f"{split}/{file_stem(name)}-00000-of-00001.tfrecord": [example] * each
            for name, example in zip(classes, examples)
        }
        tiny_sets.write_shards(folder, split, shards, classes, list(range(len(classes))))


def _multiply(setting: Setting) -> Numbers:
    """The indices of the 'full' sets. Returns what reading the one of the drawings takes."""
    from dataloaders import prepared_sets

    for name, times in TIMES.items():
        folder = _folder(setting) / name
        index = prepared_sets.read_index(folder, "train")
        blocks = {
            key: np.repeat(values, times)
            for key, values in index._asdict().items()
            if key.startswith("block_")
        }
        np.savez(folder / "train.index.npz", **index._replace(**blocks)._asdict())
    passed = stopwatch()
    index = prepared_sets.read_index(_folder(setting) / "indexed", "train")
    return {"seconds": passed(), "records": int(index.block_records.sum())}


def _remove(setting: Setting) -> Numbers:
    shutil.rmtree(_folder(setting))
    return {}


# ---------------------------------------------------------------- measuring


@contextlib.contextmanager
def open_files() -> Iterator[list[int]]:
    """A list that grows by the number of open files of this process every millisecond."""
    counts: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            counts.append(sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1)  # less this one

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def _load(name: str, setting: Setting) -> Numbers:
    passed = stopwatch()
    from core import registry
    from core.hparams import BaseHParams, parse

    folders, batch_size = LOADERS[name]
    cls = registry.LOADERS[name]
    imported = passed()
    text = ",".join(f"{key}='{_folder(setting) / made}'" for key, made in folders.items())
    base = parse("", BaseHParams, batch_size=setting.size(batch_size, 2))
    with open_files() as counts:
        dataset = cls(parse(text, cls.HParams), base, 96, 0)
        opened = passed()
        batches = iter(dataset.train_batches(0))
        next(batches)
        first = passed()

        def step() -> int:
            next(batches)
            return 1

        before = len(counts)
        speed = rate(step, *((1, 1, 0.1) if setting.quick else (64, 5, 2.0)))
    return {
        "import": imported,
        "constructor": opened - imported,
        "start": first - imported,
        "rate": speed,
        "files": statistics.median(counts[before:]),
        "most_files": max(counts),
    }


def _rows(found: dict[str, Numbers]) -> list[Row]:
    drawings = found["write full"]["records"]
    rows = []
    for name in LOADERS:
        small, full = found[f"10k {name}"], found[f"full {name}"]
        for make, key, what, unit, aim in (
            (slower, "start", "start to the first batch, imports apart", "s", "+ 1 s at most"),
            (slower, "most_files", "open files at most", "files", "equal"),
            (slower, "peak", "peak memory", "MB", "+ 100 MB at most"),
            (faster, "rate", "speed", "batches/s", "equal"),
        ):
            what = f"{name}, {drawings:,.0f} drawings (naive: 10,000): {what}"
            rows.append(make(what, unit, full[key], small[key], aim))
    return rows


def _parts() -> dict:
    parts = {}
    for size in (*SIZES, "full"):
        parts[f"write {size}"] = _multiply if size == "full" else functools.partial(_write, size)
        for name in LOADERS:
            parts[f"{size} {name}"] = functools.partial(_load, name)
    return {**parts, "remove": _remove}


BENCHES = {"scale": Bench(_parts(), _rows)}
