"""Preparation and loaders, on the drawn sample (and on real photographs where
SCENE_DESIGNER_DATA names some)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from prep_data.workers import usable_cores
from tests.benchmarks.harness import (
    Bench,
    Numbers,
    Row,
    Setting,
    faster,
    peak_megabytes,
    rate,
    slower,
    stopwatch,
)

RELATIONSHIP = Path("prep_data/quickdraw/quickdraw_to_coco_v2.json")

# ---------------------------------------------------------------- the sets


def sample(setting: Setting) -> Path:
    """The sample in the public layouts, drawn once."""
    folder = setting.folder / ("sample-quick" if setting.quick else "sample")
    if not (folder / "sample.json").exists():
        from prep_data.sample.__main__ import main as make_sample

        sizes = ["--train-images", "40", "--val-images", "20", "--drawings", "8"]
        sizes += ["--eval-drawings", "4", "--sl-train-pairs", "0", "--sl-test-pairs", "0"]
        sizes += ["--fs-pairs", "1"]
        with _quiet():
            make_sample(["--target-dir", str(folder), *(sizes if setting.quick else [])])
    return folder


COMMANDS = {  # name -> (module, source folder of the sample, further flags)
    "quickdraw": ("quickdraw_to_tfrecord", "quickdraw", ()),
    "indexed": ("index_quickdrawtf", "quickdraw", ()),
    "scenes": ("coco_to_tfrecord", "coco-stuff", ("--val-size", "10")),
    "crops": ("cococrops_to_tfrecord", "coco-stuff", ("--val-size", "10")),
}


def _prepare(name: str, source: Path, target: Path) -> None:
    import importlib

    module, _, flags = COMMANDS[name]
    command = importlib.import_module(f"prep_data.{module}")
    with _quiet():
        command.main(["--dataset-dir", str(source), "--target-dir", str(target), *flags])


def prepared(name: str, setting: Setting) -> Path:
    """A prepared set of the sample, made once."""
    target = setting.folder / ("prepared-quick" if setting.quick else "prepared") / name
    if not (target / "meta.json").exists():
        _prepare(name, sample(setting) / COMMANDS[name][1], target)
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


# ---------------------------------------------------------------- loaders


def loader(name: str, setting: Setting, batch_size: int, **more: str):
    """The loader over the prepared sample. more: data hparams."""
    from core.hparams import BaseHParams, parse
    from core.registry import LOADERS

    triplets = {"qdraw_dir": "quickdraw", "crops_dir": "crops"}
    folders = {
        "quickdraw-cococrops-tf": triplets,
        "quickdraw-cococrops-features": triplets,
        "coco-tfrecord": {"coco_dir": "scenes", "qdraw_dir": "indexed", "crops_dir": "crops"},
    }[name]
    cls = LOADERS[name]
    text = ",".join(f"{key}='{prepared(made, setting)}'" for key, made in folders.items())
    base = parse("", BaseHParams, batch_size=batch_size)
    return cls(parse(text, cls.HParams, **more), base, 96, 0)


def _batches_rate(batches, batch_size: int, setting: Setting) -> Numbers:
    iterator = iter(batches)

    def step() -> int:
        next(iterator)
        return batch_size

    rounds = (1, 1, 0.2) if setting.quick else (20, 5, 2.0)
    return {"rate": rate(step, *rounds)}


def _triplets(setting: Setting) -> Numbers:
    return _batches_rate(
        loader("quickdraw-cococrops-tf", setting, 64).train_batches(0), 64, setting
    )


def _scenes(setting: Setting) -> Numbers:
    return _batches_rate(loader("coco-tfrecord", setting, 16).train_batches(0), 16, setting)


def _records(folder: Path):
    """Serialized train records of a set, shuffled, for ever."""
    import tensorflow as tf

    files = sorted(str(path) for path in (folder / "train").glob("*.tfrecord"))
    return tf.data.TFRecordDataset(files).repeat().shuffle(256, seed=0)


def _image(serialized, channels: int):
    import tensorflow as tf

    feature = {"image": tf.io.FixedLenFeature((), tf.string)}
    encoded = tf.io.parse_single_example(serialized, feature)["image"]
    return tf.io.decode_image(encoded, channels, expand_animations=False)


def _naive_triplets(setting: Setting) -> Numbers:
    """Record by record: parse, decode, batch. Positives are not even of the sketch's class."""
    import tensorflow as tf

    crops = _records(prepared("crops", setting))
    data = tf.data.Dataset.zip((_records(prepared("quickdraw", setting)), crops, crops.skip(1)))

    def triplet(sketch, positive, negative):
        return _image(sketch, 1), _image(positive, 3), _image(negative, 3)

    data = data.map(triplet, tf.data.AUTOTUNE).batch(64).prefetch(2)
    return _batches_rate(data, 64, setting)


def _naive_scenes(setting: Setting) -> Numbers:
    """Scene by scene: parse, decode, cut crops and unpack masks, decode a sketch and a negative an
    object one by one (of any class, and no graph)."""
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "boxes": tf.io.VarLenFeature(tf.float32),
        "masks": tf.io.FixedLenFeature((), tf.string),
    }

    def scene(serialized, sketches, crops):
        record = tf.io.parse_single_example(serialized, features)
        image = tf.io.decode_jpeg(record["image"], 3)
        boxes = tf.reshape(tf.sparse.to_dense(record["boxes"]), [-1, 4])
        n = tf.shape(boxes)[0]
        corners = tf.gather(boxes, [1, 0, 3, 2], axis=1)
        cut = tf.image.crop_and_resize(image[None], corners, tf.zeros([n], tf.int32), (96, 96))
        packed = tf.io.decode_raw(record["masks"], tf.uint8)
        bits = tf.bitwise.right_shift(
            packed[:, None], tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)
        )
        masks = tf.reshape(tf.bitwise.bitwise_and(bits, 1), [n, 64, 64])
        one, three = (
            tf.map_fn(
                lambda record, c=channels: _image(record, c),
                records[:n],
                fn_output_signature=tf.TensorSpec((None, None, channels), tf.uint8),
            )
            for records, channels in ((sketches, 1), (crops, 3))
        )
        return image, boxes, cut, masks, one, three

    data = tf.data.Dataset.zip(
        (
            _records(prepared("scenes", setting)),
            _records(prepared("indexed", setting)).batch(8),
            _records(prepared("crops", setting)).batch(8),
        )
    )
    data = data.map(scene, tf.data.AUTOTUNE).ragged_batch(16).prefetch(2)
    return _batches_rate(data, 16, setting)


def _loader_rows(found: dict[str, Numbers]) -> list[Row]:
    def row(what: str, unit: str, part: str, aim: int) -> Row:
        value, naive = found[part]["rate"], found[f"naive {part}"]["rate"]
        return faster(what, unit, value, naive, f"at least {aim:,}")

    return [
        row("loader quickdraw-cococrops-tf", "triplets/s", "triplets", 5 * 1089),
        row("loader coco-tfrecord", "scenes/s", "scenes", 5 * 120),
    ]


# ---------------------------------------------------------------- preparation


def _source(setting: Setting, name: str) -> Path:
    real = os.environ.get("SCENE_DESIGNER_DATA")
    photographs = Path(real) / "coco-stuff" if real else sample(setting) / "coco-stuff"
    return photographs if name in ("scenes", "crops") else sample(setting) / "quickdraw"


def _enlarged(source: Path, target: Path, times: int) -> None:
    """A set `times` as large: photographs and annotations again under other ids, or drawings
    again as other classes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if (source / "images").is_dir():
        (target / "images").symlink_to((source / "images").resolve())
        (target / "annotations").mkdir()
        for path in (source / "annotations").glob("*.json"):
            content = json.loads(path.read_text())
            images, annotations = content["images"], content["annotations"]
            content["images"] = [
                {**image, "id": image["id"] + k * 10**9} for k in range(times) for image in images
            ]
            content["annotations"] = [
                {**a, "id": a["id"] + k * 10**14, "image_id": a["image_id"] + k * 10**9}
                for k in range(times)
                for a in annotations
            ]
            (target / "annotations" / path.name).write_text(json.dumps(content))
        return
    names = sorted(json.loads(RELATIONSHIP.read_text()))  # of the drawings that are used
    files = sorted(source.glob("*.npz"))
    for i, name in enumerate(names[: len(files) * times]):
        (target / f"{name}.npz").symlink_to(files[i % len(files)].resolve())


def _enlarging(name: str, times: int):
    """The part that makes the source of `_preparation`: by itself, for it takes memory too."""

    def part(setting: Setting) -> Numbers:
        _enlarged(_source(setting, name), setting.folder / f"source-{name}", times)
        return {}

    return part


def _preparation(name: str):
    """The part that prepares the enlarged set."""

    def part(setting: Setting) -> Numbers:
        source = setting.folder / f"source-{name}"
        target = setting.folder / f"target-{name}"
        shutil.rmtree(target, ignore_errors=True)
        passed = stopwatch()
        _prepare(name, source, target)
        seconds = passed()
        peak = peak_megabytes()  # before the records are read again

        from dataloaders import prepared_sets

        indices = [prepared_sets.read_index(target, split) for split in ("train", "valid", "test")]
        count = int(sum(index.block_records.sum() for index in indices))
        size = sum(int(index.shard_bytes.sum()) for index in indices)
        shutil.rmtree(target)
        shutil.rmtree(source)
        return {"rate": count / seconds, "bytes": size / count, "count": count, **peak}

    return part


def _float_features(**arrays: np.ndarray):
    import tensorflow as tf

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(
                    float_list=tf.train.FloatList(value=np.asarray(array, np.float32).ravel())
                )
                for name, array in arrays.items()
            }
        )
    ).SerializeToString()


def _written(examples: Iterator[bytes], setting: Setting) -> Numbers:
    """Rate and record size of a single process writing gzipped float records."""
    import tensorflow as tf

    path = setting.folder / "naive.tfrecord"
    count, passed = 0, stopwatch()
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for example in examples:
            writer.write(example)
            count += 1
    seconds, size = passed(), path.stat().st_size
    path.unlink()
    return {"rate": count / seconds, "bytes": size / count, "count": count}


def _naive_drawings(setting: Setting) -> Numbers:
    """Drawing by drawing with Pillow, four times as large and reduced; float32 pixels."""
    from PIL import Image, ImageDraw

    from prep_data.npz import read_drawings

    def examples() -> Iterator[bytes]:
        left = setting.size(1500, 60)
        for path in sorted(_source(setting, "quickdraw").glob("*.npz")):
            for strokes in read_drawings(path, "train"):
                if left == 0:
                    return
                left -= 1
                points = np.cumsum(strokes[:, :2].astype(float), axis=0)
                points -= points.min(0)
                points *= 4 * 88 / max(points.max(), 1)
                canvas = Image.new("L", (384, 384), 255)
                draw = ImageDraw.Draw(canvas)
                lifted = strokes[:, 2] != 0
                for i in range(1, len(points)):
                    if not lifted[i - 1]:
                        draw.line([tuple(points[i - 1] + 16), tuple(points[i] + 16)], 0, 8)
                yield _float_features(image=np.asarray(canvas.reduce(4)) / 255)

    return _written(examples(), setting)


def _naive_photographs(setting: Setting) -> Iterator[tuple[np.ndarray, list]]:
    """(image float 256 x 256, [(box in [0, 1], mask float 64 x 64)]) of photographs, in one loop
    over the annotation file's own JSON."""
    from PIL import Image
    from pycocotools import mask as coco

    source = _source(setting, "scenes")
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for entry in content["images"][: setting.size(150, 8)]:
        photo = Image.open(source / "images" / "train2017" / entry["file_name"]).convert("RGB")
        width, height = photo.size
        objects = []
        for annotation in by_image.get(entry["id"], []):
            x, y, w, h = annotation["bbox"]
            if w * h < 0.05 * width * height:
                continue
            shape = annotation["segmentation"]
            if isinstance(shape, list):
                shape = coco.merge(coco.frPyObjects(shape, height, width))
            elif isinstance(shape["counts"], list):
                shape = coco.frPyObjects(shape, height, width)
            whole = Image.fromarray(255 * coco.decode(shape))
            mask = whole.crop((int(x), int(y), int(x + w) + 1, int(y + h) + 1)).resize((64, 64))
            box = np.array([x / width, y / height, (x + w) / width, (y + h) / height])
            objects.append((box, np.asarray(mask) > 127))
        if objects:
            yield np.asarray(photo.resize((256, 256))) / 127.5 - 1, objects


def _naive_scene_records(setting: Setting) -> Numbers:
    return _written(
        (
            _float_features(
                image=image, boxes=[o[0] for o in objects], masks=[o[1] for o in objects]
            )
            for image, objects in _naive_photographs(setting)
        ),
        setting,
    )


def _naive_crop_records(setting: Setting) -> Numbers:
    from PIL import Image

    def examples() -> Iterator[bytes]:
        for image, objects in _naive_photographs(setting):
            whole = Image.fromarray(np.uint8((image + 1) * 127.5))
            for box, _ in objects:
                crop = whole.crop(tuple(256 * box)).resize((96, 96), Image.Resampling.BILINEAR)
                yield _float_features(image=np.asarray(crop) / 127.5 - 1)

    return _written(examples(), setting)


def _preparation_rows(noun: str, floats: int, aim_rate: int, size_aim: str):
    """floats: of the float32 record, for the size it would have without compression."""

    def rows(found: dict[str, Numbers]) -> list[Row]:
        large, small, naive = found["large"], found["small"], found["naive"]
        workers = usable_cores()
        peak, before = (n["peak"] + workers * n["largest_child"] for n in (large, small))
        return [
            faster(
                f"preparation of {large['count']:,.0f} {noun}",
                f"{noun}/s",
                large["rate"],
                naive["rate"],
                f"at least {aim_rate}",
            ),
            slower(
                f"record of a {noun[:-1]} (naive: gzipped float32)",
                "bytes",
                large["bytes"],
                naive["bytes"],
                f"{size_aim} (float32 alone: {4 * floats:,})".strip(),
            ),
            Row(
                f"peak memory, {noun}: {large['count']:,.0f} (naive: {small['count']:,.0f})",
                peak,
                "MB",
                before,
                None,
                "equal: independent of the size",
            ),
        ]

    return rows


def _preparation_bench(
    name: str, noun: str, floats: int, aim: int, naive, size_aim: str = ""
) -> Bench:
    parts = {
        "large source": _enlarging(name, 6),
        "large": _preparation(name),
        "small source": _enlarging(name, 2),
        "small": _preparation(name),
        "naive": naive,
    }
    return Bench(parts, _preparation_rows(noun, floats, aim, size_aim))


BENCHES = {
    "loaders": Bench(
        {
            "triplets": _triplets,
            "naive triplets": _naive_triplets,
            "scenes": _scenes,
            "naive scenes": _naive_scenes,
        },
        _loader_rows,
    ),
    "drawings": _preparation_bench("quickdraw", "drawings", 96 * 96, 4 * 610, _naive_drawings),
    "scenes": _preparation_bench(
        "scenes", "scenes", 256 * 256 * 3 + 2 * 64 * 64, 55, _naive_scene_records, "under 58,000"
    ),
    "crops": _preparation_bench(
        "crops", "crops", 96 * 96 * 3, 4 * 69, _naive_crop_records, "under 5,750"
    ),
}
