"""Prepared sets that were changed: records, framing, block index, meta.json. What is read lies
within its bounds, or is refused by an error that is told as one sentence."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from core.composing import resources_explained
from core.dataset import Vocabulary
from core.errors import UserError
from core.registry import LOADERS
from dataloaders import blocks, records, sources
from tests.dataloaders import tiny_sets
from tests.fuzz.hostile import (
    array_bytes,
    each_replaced,
    members_of,
    mutated,
    refused_or,
    spoilt,
    zipped,
)

RNG = np.random.default_rng(0)
CLASSES, SIDE, MASK = 7, 32, 8
JPEG = tiny_sets.encode(tiny_sets.scene_image(RNG, SIDE), "JPEG")
PNG = tiny_sets.encode(np.zeros((96, 96), np.uint8), "PNG")


def scene(**changes):
    parts = {
        "image": JPEG, "image_id": 1, "obj_idx": [0, 1],
        "boxes": [0.1, 0.1, 0.6, 0.6, 0.2, 0.2, 0.9, 0.9],
        "masks": records.pack_masks(np.ones((2, MASK, MASK))), "annotation_ids": [1, 2],
        "stuff_idx": [5], "stuff_boxes": [0.0, 0.0, 1.0, 1.0],
        "stuff_masks": records.pack_masks(np.ones((1, MASK, MASK))), "sketches": [PNG, PNG],
    }  # fmt: skip
    return records.SceneRecord.encode(**{**parts, **changes})


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def read_scenes(serialized):
    scenes = records.SceneRecord.check(records.SceneRecord.parse(serialized), CLASSES, MASK)
    boxes = scenes.boxes.flat_values
    images = blocks.decode_images(scenes.image, SIDE, 3, "jpeg")
    owners = tf.cast(scenes.obj_idx.value_rowids(), tf.int32)
    crops = blocks.crop_images(images, boxes, owners, 16) if boxes.shape[0] != 0 else images
    return scenes, images, crops, records.unpack_masks(scenes.masks, MASK)


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def read_sketches(serialized):
    sketches = records.SketchRecord.parse(serialized)
    return sketches, blocks.decode_images(sketches.image, 96, 1, "png")


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def read_crops(serialized):
    crops = records.CropRecord.parse(serialized)
    return crops, blocks.decode_images(crops.image, SIDE, 3, "jpeg")


def attempt(read, record):
    """What comes of a record beside a whole one; None when TensorFlow refuses it."""
    try:
        return read(tf.constant([record]))
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
        return None
    except UnicodeDecodeError as error:  # as above, with bytes of the record in what it says
        assert b"Could not parse example" in error.object
        return None


NAN, INF = float("nan"), float("inf")
UNFIT = {
    "NaN in a box": {"boxes": [NAN] * 8},
    "endless boxes": {"boxes": [INF, -INF, 1e30, -1e30] * 2},
    "boxes beyond the image": {"boxes": [0.1, 0.1, 0.5, 1.5] * 2},
    "a box too few": {"boxes": [0.1] * 4},
    "half a box": {"boxes": [0.1] * 6},
    "a class beyond the vocabulary": {"obj_idx": [0, CLASSES]},
    "a class below it": {"obj_idx": [0, -1]},
    "a class of 40 bits": {"obj_idx": [0, 2**40]},
    "no masks": {"masks": b""},
    "a mask too many": {"masks": records.pack_masks(np.ones((3, MASK, MASK)))},
    "a byte of a mask": {"masks": b"abc"},
    "stuff below the vocabulary": {"stuff_idx": [-7]},
    "stuff without a mask": {"stuff_masks": b""},
    "an image of another size": {"image": tiny_sets.encode(np.zeros((8, 8, 3), np.uint8), "JPEG")},
    "no image": {"image": b""},
}


def test_the_scene_that_is_changed_is_one():
    scenes, images, crops, masks = attempt(read_scenes, scene())
    assert images.shape == (1, SIDE, SIDE, 3) and crops.shape == (2, 16, 16, 3)
    assert masks.shape == (2, MASK, MASK) and scenes.obj_idx.to_list() == [[0, 1]]


@pytest.mark.parametrize("what", UNFIT)
def test_scenes_whose_parts_do_not_fit(what):
    assert attempt(read_scenes, scene(**UNFIT[what])) is None


def test_sketches_are_one_for_each_object_or_none():
    record = tf.train.Example.FromString(scene())
    del record.features.feature["sketches"].bytes_list.value[0]
    assert attempt(read_scenes, record.SerializeToString()) is None
    del record.features.feature["sketches"].bytes_list.value[0]
    assert attempt(read_scenes, record.SerializeToString()) is not None


@given(record=mutated(scene()) | st.binary(max_size=60))
def test_damaged_scenes(record):
    read = attempt(read_scenes, record)
    if read is not None:
        scenes, images, _, masks = read
        count = scenes.obj_idx.flat_values.shape[0]
        assert masks.shape[0] == scenes.boxes.flat_values.shape[0] == count
        assert np.isfinite(scenes.boxes.flat_values).all() and images.dtype == tf.uint8


@given(record=mutated(records.SketchRecord.encode(PNG, 1, 2)) | st.binary(max_size=60))
@example(record=records.SketchRecord.encode(PNG[:16] + struct.pack(">II", 30_000, 17_000), 1, 2))
def test_damaged_sketches(record):
    read = attempt(read_sketches, record)
    assert read is None or read[1].shape == (1, 96, 96, 1)


@given(record=mutated(records.CropRecord.encode(JPEG, 1, 2, 3)) | st.binary(max_size=60))
def test_damaged_crops(record):
    read = attempt(read_crops, record)
    assert read is None or read[1].shape == (1, SIDE, SIDE, 3)


# ---- files of a set ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return tiny_sets.write_all(tmp_path_factory.mktemp("sets"), scenes=2)


def framed(*lengths):
    return b"".join(struct.pack("<QI", n, 0) + b"x" * min(n, 40) + b"\0" * 4 for n in lengths)


@given(data=mutated(framed(3, 0, 40)) | st.lists(st.sampled_from(
    [0, 1, 40, 2**31, 2**63, 2**64 - 1, 2**64 - 16, 2**64 - 17]), max_size=4
).map(lambda lengths: framed(*lengths)))  # fmt: skip
def test_framing(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "shard"
    path.write_bytes(data)
    offsets = refused_or(lambda: list(records.record_offsets(path)), size=len(data))
    assert offsets is None or (
        offsets == sorted(set(offsets)) and all(0 <= offset < len(data) for offset in offsets)
    )


def index_of(folder, data):
    """Read an index and, when it passes, all its blocks."""
    whole = (folder / "valid.index.npz").read_bytes()
    try:
        (folder / "valid.index.npz").write_bytes(data)
        if refused_or(records.read_index, folder, "valid", size=len(data)) is None:
            return
        split = blocks.Split(str(folder), "valid")
        for block in range(len(split.index.block_records)):
            try:
                read = split.read(tf.constant([block]))
            except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
                continue  # another place within the shard than that of a record
            except tf.errors.OutOfRangeError:
                continue  # fewer records than stated
            assert read.shape[0] <= records.BLOCK
        blocks.ClassPools(split, tiny_sets.VOCABULARY)
    except (UserError, tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        pass
    finally:
        (folder / "valid.index.npz").write_bytes(whole)


@given(data=st.data())
def test_forged_indexes(sets, data):
    folder = tiny_sets.Path(sets.crops)
    members = members_of((folder / "valid.index.npz").read_bytes())
    name = data.draw(st.sampled_from(sorted(members)))
    texts = st.sampled_from(["", "..", "/etc/passwd", "../../x", "\0", "valid", "a" * 300])
    numbers = st.sampled_from([0, 1, -1, 2, 63, 64, 65, 2**31 - 1, -(2**31)])
    values, kind = (texts, str) if name[:-4] in ("shards", "classes") else (numbers, "<i4")
    arrays = st.lists(values, max_size=6).map(lambda each: array_bytes(np.array(each, kind)))
    members[name] = data.draw(spoilt(members[name]) | arrays)
    index_of(folder, zipped(members))


@pytest.mark.parametrize(
    "name, value",
    [("block_shard", 99), ("block_shard", -1), ("block_records", 0), ("block_records", 65),
     ("block_offset", 10**9), ("block_offset", -1), ("block_class", -1), ("shards", "../../x"),
     ("shard_bytes", -1)],
)  # fmt: skip
def test_an_index_that_points_outside_its_set(sets, tmp_path, name, value):
    index = records.read_index(sets.crops, "valid")._asdict()
    kind = str if name == "shards" else index[name].dtype
    index[name] = np.array([value, *index[name][1:]], kind)
    np.savez(tmp_path / "valid.index.npz", **index)
    with pytest.raises(UserError, match=r"valid\.index\.npz cannot be read"):
        records.read_index(tmp_path, "valid")


@given(data=st.data())
def test_damaged_indexes(sets, data):
    folder = tiny_sets.Path(sets.crops)
    index_of(folder, data.draw(mutated((folder / "valid.index.npz").read_bytes())))


@pytest.mark.parametrize("place", ["scenes", "crops", "indexed", "quickdraw"])
def test_every_value_of_a_meta_replaced_by_each_odd_one(sets, tmp_path, place):
    """Loaders can make of it what they make of a meta.json, or there is a sentence."""
    content = json.loads((tiny_sets.Path(getattr(sets, place)) / "meta.json").read_text())
    vocabulary = Vocabulary(tiny_sets.VOCABULARY)
    for changed in each_replaced(content):
        (tmp_path / "meta.json").write_text(json.dumps(changed))
        meta = refused_or(records.read_meta, tmp_path, records.KINDS)
        if meta is None:
            continue
        refused_or(records.check_same_vocabulary, {"a": meta, "b": content})
        if meta["kind"].startswith("quickdraw"):
            assert sources.joined_classes(meta, getattr(sets, place), vocabulary).dtype == np.int32
            if meta["kind"] == "quickdraw":
                blocks.report_missing(meta["drawings"]["valid"], vocabulary.names, "drawings")
        else:
            made = sources.coco_vocabulary(meta)
            assert len(made.names) == len(np.array(made.ids, np.int32))


@pytest.mark.parametrize("what", ["class", "bytes"])
def test_a_record_that_cannot_be_used_is_named(sets, what):
    """As a training does it: a record with right check sums, in the second place of its shard."""
    folder, name = tiny_sets.Path(sets.scenes), "valid/scenes-00001-of-00002.tfrecord"
    old = {path: path.read_bytes() for path in (folder / name, folder / "valid.index.npz")}
    (whole,) = (record.numpy() for record in tf.data.TFRecordDataset(str(folder / name)))
    record = tf.train.Example.FromString(whole)
    record.features.feature["obj_idx"].int64_list.value[-1] = 99
    changed = {"class": record.SerializeToString(), "bytes": b"\x80\xff"}[what]
    values = {"coco_dir": sets.scenes, "crops_dir": sets.crops, "qdraw_dir": sets.indexed}
    loader = LOADERS["coco-tfrecord"]
    try:
        tiny_sets.write_shards(folder, "valid", {name: [whole, changed]})
        made = loader(loader.HParams(**values), SimpleNamespace(batch_size=2), 32, 0)
        job = SimpleNamespace(folders=lambda: {"crops_dir": sets.crops, "coco_dir": sets.scenes})
        with pytest.raises(UserError) as caught, resources_explained(job):
            list(made.eval_batches("valid"))
        assert f"{folder / name}: " in str(caught.value) and "record 1 " in str(caught.value)
    finally:
        for path, data in old.items():
            path.write_bytes(data)
