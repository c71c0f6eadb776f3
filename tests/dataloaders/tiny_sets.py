"""Tiny prepared sets, written directly with dataloaders.records: no preparation command runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from core.dataset import SPLITS
from dataloaders import prepared_sets, records
from dataloaders.scene_graph import PREDICATES

# Things have the names of the real lists; `sky-other` is stuff, `__image__` always comes last.
THINGS = ("person", "bus", "cat", "dog", "traffic light")
VOCABULARY = (*THINGS, "sky-other", "__image__")
# (COCO class, its sketch classes); coco_classes of a sketch set are in another order on purpose.
SKETCH_CLASSES = {"bus": ("bus", "school bus"), "cat": ("cat",), "person": ("yoga",),
                  "dog": ("dog",), "traffic light": ("traffic light",)}  # fmt: skip
COUNTS = {"train": 1.0, "valid": 0.5, "test": 0.5}  # share of the train records in each split


class TinySets(NamedTuple):
    """Folders of four sets that fit together."""

    quickdraw: str
    indexed: str
    crops: str
    scenes: str


def encode(image: np.ndarray, kind: str) -> bytes:
    """uint8 (S, S) or (S, S, 3) -> 'PNG' or 'JPEG' bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


def marked(side: int, *numbers: int) -> np.ndarray:
    """A grey image that carries numbers 0..255 as flat squares of 16 pixels: uint8 (side, side),
    so that a decoded image still says which record it was. Read them with `marks`."""
    image = np.full((side, side), 255, np.uint8)
    for k, number in enumerate(numbers):
        image[:16, 16 * k : 16 * (k + 1)] = number
    return image


def marks(images: np.ndarray, count: int) -> np.ndarray:
    """The first `count` numbers of images (n, S, S, c): int (n, count)."""
    squares = [images[:, 4:12, 16 * k + 4 : 16 * k + 12, 0] for k in range(count)]
    return np.stack([s.mean((1, 2)).round() for s in squares], 1).astype(int)


def write_shards(
    folder: Path,
    split: str,
    shards: dict[str, list[bytes]],
    classes: tuple[str, ...] = (),
    shard_classes: list[int] | None = None,
) -> None:
    """shards: relative path -> records; then the split's index."""
    for name, serialized in shards.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in serialized:
                writer.write(record)
    prepared_sets.write_index(folder, split, list(shards), classes, shard_classes)


def read_split(folder: str | Path, split: str) -> list[bytes]:
    """All records of a split, each against its checksums (DataLossError)."""
    shards = prepared_sets.read_index(folder, split).shards.tolist()
    files = [str(Path(folder) / shard) for shard in shards]
    return list(tf.data.TFRecordDataset(files).as_numpy_iterator())


def flip_bit(shard: Path, record: int) -> None:
    """Flip one bit in the data of a record."""
    data = bytearray(shard.read_bytes())
    data[list(prepared_sets.record_offsets(shard))[record] + 40] ^= 1
    shard.write_bytes(data)


def write_meta(folder: Path, kind: str, **keys: object) -> None:
    """meta.json of a complete set."""
    meta = {"schema": prepared_sets.SCHEMA, "kind": kind, **keys}
    (folder / "meta.json").write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")


def _sketch_meta(classes: dict[str, tuple[str, ...]]) -> dict[str, object]:
    names = list(classes)
    return {
        "coco_classes": names,
        "sketch_classes": sorted(s for kinds in classes.values() for s in kinds),
        "coco_classes_to_idx": {name: i for i, name in enumerate(names)},
        "coco_to_sketch": {name: list(kinds) for name, kinds in classes.items()},
        "sketch_to_coco": {s: name for name, kinds in classes.items() for s in kinds},
    }


def _coco_meta(vocabulary: tuple[str, ...], **keys: object) -> dict[str, object]:
    return {
        "obj_idx_to_name": list(vocabulary),
        "obj_idx_to_ID": [*range(1, len(vocabulary)), 0],
        "pred_idx_to_name": list(PREDICATES),
        "concrete_objs": [name for name in vocabulary if name in THINGS],
        "image_size": 256,
        "mask_size": 64,
        "crop_size": 96,
        **keys,
    }


def write_sketches(
    folder: Path,
    *,
    indexed: bool,
    per_class: int = 20,
    classes: dict[str, tuple[str, ...]] = SKETCH_CLASSES,
    absent: dict[str, tuple[str, ...]] = {},  # noqa: B006 (read only)
    seed: int = 0,
) -> str:
    """A sketch set; a drawing is marked (coco class, number in its class mod 200, split number).
    absent: split -> COCO classes without records there."""
    names, kinds = list(classes), _sketch_meta(classes)["sketch_classes"]
    drawings: dict[str, dict[str, int]] = {}
    for s, split in enumerate(SPLITS):
        by_class: dict[int, list[bytes]] = {}
        for c, name in enumerate(names):
            if name in absent.get(split, ()):
                continue
            for i in range(max(1, int(per_class * COUNTS[split]))):
                kind = classes[name][i % len(classes[name])]
                image = encode(marked(96, c, i % 200, s), "PNG")
                record = records.SketchRecord.encode(image, c, kinds.index(kind))
                by_class.setdefault(c, []).append(record)
        drawings[split] = {names[c]: len(rows) for c, rows in by_class.items()}
        if indexed:
            shards = {
                f"{split}/{names[c].replace(' ', '_')}-00000-of-00001.tfrecord": by_class[c]
                for c in by_class
            }
            write_shards(folder, split, shards, tuple(names), list(by_class))
        else:
            mixed = [r for c in by_class for r in by_class[c]]
            if split == "train":
                np.random.default_rng(seed).shuffle(mixed)
            half = len(mixed) // 2
            shards = {
                f"{split}/sketches-{i:05d}-of-00002.tfrecord": part
                for i, part in enumerate((mixed[:half], mixed[half:]))
            }
            write_shards(folder, split, shards)
    kind = "quickdraw-indexed" if indexed else "quickdraw"
    write_meta(folder, kind, drawings=drawings, **_sketch_meta(classes))
    return str(folder)


def write_crops(
    folder: Path,
    *,
    per_class: int = 20,
    vocabulary: tuple[str, ...] = VOCABULARY,
    absent: dict[str, tuple[str, ...]] = {},  # noqa: B006 (read only)
    things: tuple[str, ...] = THINGS,
) -> str:
    """A crop set; a crop is marked (vocabulary index x 20, number in its class mod 200)."""
    for split in SPLITS:
        classes = [n for n in vocabulary if n in things and n not in absent.get(split, ())]
        shards = {}
        for name in classes:
            k = vocabulary.index(name)
            shards[f"{split}/{name.replace(' ', '_')}-00000-of-00001.tfrecord"] = [
                records.CropRecord.encode(
                    encode(np.repeat(marked(96, 20 * k, i % 200)[..., None], 3, 2), "JPEG"),
                    k,
                    1000 * k + i,
                    i,
                )
                for i in range(max(1, int(per_class * COUNTS[split])))
            ]
        write_shards(folder, split, shards, tuple(classes), list(range(len(classes))))
    write_meta(folder, "coco-crops", **_coco_meta(vocabulary))
    return str(folder)


def scene_image(rng: np.random.Generator, side: int = 256) -> np.ndarray:
    """A smooth coloured picture, kind to JPEG: uint8 (side, side, 3)."""
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def scene_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 (count, 4) with sides of a fifth of the image at least."""
    size = rng.uniform(0.2, 0.7, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (1 - size)
    return np.concatenate([low, low + size], 1).astype(np.float32)


def write_scenes(
    folder: Path,
    *,
    scenes: int = 24,
    vocabulary: tuple[str, ...] = VOCABULARY,
    objects: tuple[int, int] = (1, 5),
    mask_side: int = 64,
    side: int = 256,
    seed: int = 0,
    lossless: bool = False,
    paired: bool = False,
) -> str:
    """A scene set; image ids are 100, 101, ... in the order of the files. lossless: PNG bytes in
    place of JPEG, for tests that compare pixels. paired: a `sketchycoco-scenes` set, the same but
    for the sketches; these are marked (image id, number of the object, vocabulary index)."""
    rng = np.random.default_rng(seed)
    things = [k for k, name in enumerate(vocabulary) if name in THINGS]
    for split in SPLITS:
        total = max(1, int(scenes * COUNTS[split]))
        serialized = []
        for i in range(total):
            count = int(rng.integers(objects[0], objects[1] + 1))
            classes = rng.choice(things, count)
            masks = rng.integers(0, 2, (count, mask_side, mask_side))
            pieces = i % 3  # of stuff
            stuff_masks = np.tril(np.ones((mask_side, mask_side), np.uint8))[None].repeat(pieces, 0)
            serialized.append(
                records.SceneRecord.encode(
                    encode(scene_image(rng, side), "PNG" if lossless else "JPEG"),
                    100 + i,
                    classes.tolist(),
                    scene_boxes(rng, count).reshape(-1).tolist(),
                    records.pack_masks(masks),
                    list(range(count)),
                    [vocabulary.index("sky-other")] * pieces,
                    [0.0, 0.0, 1.0, 0.5, 0.2, 0.6, 0.9, 1.0][: 4 * pieces],
                    records.pack_masks(stuff_masks),
                    [encode(marked(96, 100 + i, o, k), "PNG") for o, k in enumerate(classes)]
                    if paired
                    else None,
                )
            )
        half = total // 2
        shards = {
            f"{split}/scenes-{i:05d}-of-00002.tfrecord": part
            for i, part in enumerate((serialized[:half], serialized[half:]))
        }
        write_shards(folder, split, shards)
    kind = "sketchycoco-scenes" if paired else "coco-scenes"
    write_meta(folder, kind, **_coco_meta(vocabulary, mask_size=mask_side))
    return str(folder)


SL_NUMBERS = {"cat": 7, "dog": 8, "traffic light": 5}  # of those above


def sl_table(path: Path, objects: list[tuple[int, list[float]]]) -> None:
    """A features file of SketchyCOCO-SL. objects: class number and box in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["id,className,bboxleft,bboxtop,bboxright,bboxbottom"]
    lines += [",".join(map(str, (k, c, *box))) for k, (c, box) in enumerate(objects)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sl(folder: Path, *, test: int = 9, train: int = 7, seed: int = 0) -> str:
    """Pairs in the layout of SketchyCOCO-SL: pictures of several sizes, boxes of either side drawn
    apart, a drawing a crossed rectangle for each box (not to its edges); ids 101, 104, ..."""
    rng = np.random.default_rng(seed)
    numbers = list(SL_NUMBERS.values())
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            image_id = 101 + 3 * i + (split == "test")
            for side, suffix in (("image", "jpg"), ("sketch", "png")):
                width, height = rng.integers(120, 200, 2).tolist()
                boxes = scene_boxes(rng, int(rng.integers(1, 5))) * ([width, height] * 2)
                boxes = boxes if side == "image" else boxes.round()
                objects = [(int(rng.choice(numbers)), box.tolist()) for box in boxes]
                sl_table(folder / split / side / "GraphFeatures" / f"{image_id}.csv", objects)
                if side == "image":
                    picture = Image.fromarray(scene_image(rng)).resize((width, height))
                else:
                    picture = Image.new("RGB", (width, height), "white")
                    pen = ImageDraw.Draw(picture)
                    for _, (x0, y0, x1, y1) in objects:
                        inner = (x0 + 2, y0 + 3, x1 - 4, y1 - 3)
                        pen.rectangle(inner, outline=(40, 40, 40), width=2)
                        pen.line(inner, fill="black", width=int(rng.integers(1, 4)))
                place = folder / split / side / "Image"
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{image_id:012d}.{suffix}", quality=95)
    return str(folder)


def write_fs_coco(folder: Path, users: int = 4, each: int = 5, seed: int = 0) -> str:
    """Pairs in the layout of FS-COCO: ids 101, 103, ... of which user 1 drew the first `each`;
    every third one is in val_normal.txt, those of the last user are in val_unseen_user.txt."""
    rng, ids = np.random.default_rng(seed), range(101, 101 + 2 * users * each, 2)
    for i, image_id in enumerate(ids):
        width, height = rng.integers(120, 300, 2).tolist()
        drawing = Image.new("L", (width, height), "white")
        corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * (width, height)
        ImageDraw.Draw(drawing).line(corners.ravel().tolist(), "black", int(rng.integers(2, 5)))
        photo = Image.fromarray(scene_image(rng)).resize((width, height))
        for kind, picture in (("images", photo), ("raster_sketches", drawing)):
            path = folder / kind / str(1 + i // each) / f"{image_id:012d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=95)
    for name, listed in (("normal", ids[::3]), ("unseen_user", ids[-each:])):
        lines = "".join(f"{image_id:012d}\n" for image_id in listed)
        (folder / f"val_{name}.txt").write_text(lines, encoding="utf-8")
    return str(folder)


def write_all(folder: Path, **scene_options: object) -> TinySets:
    """One of each set."""
    return TinySets(
        write_sketches(folder / "quickdraw", indexed=False),
        write_sketches(folder / "indexed", indexed=True),
        write_crops(folder / "crops"),
        write_scenes(folder / "scenes", **scene_options),
    )
