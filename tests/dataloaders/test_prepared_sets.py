"""Prepared sets as folders: the block index by hand, meta.json, and damaged files by name."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from core import provenance
from core.errors import UserError
from core.registry import LOADERS
from dataloaders import prepared_sets
from dataloaders.prepared_sets import PhotoSetMeta, SketchSetMeta, read_meta


def write_shard(folder, path, payloads):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / path)) as writer:
        for payload in payloads:
            writer.write(payload)


@pytest.fixture
def indexed(tmp_path):
    """Two shards of 130 and 3 records; record i of the first holds i % 7 bytes."""
    write_shard(tmp_path, "train/a-0.tfrecord", [b"x" * (i % 7) for i in range(130)])
    write_shard(tmp_path, "train/b-0.tfrecord", [b"yy", b"yy", b"yy"])
    prepared_sets.write_index(
        tmp_path, "train", ["train/a-0.tfrecord", "train/b-0.tfrecord"], ["hot dog", "b"], [0, 1]
    )
    return tmp_path


def test_index_by_hand(indexed):
    index = prepared_sets.read_index(indexed, "train")
    assert index.shards.tolist() == ["train/a-0.tfrecord", "train/b-0.tfrecord"]
    assert index.classes.tolist() == ["hot dog", "b"]
    # A record of n bytes takes 16 + n; seven of them 7 * 16 + 21 = 133. 64 records are 9 rounds
    # and one of 0 bytes: 9 * 133 + 16 = 1213. The next 64 begin with sizes 1..6: 9 rounds and 1:
    # 9 * 133 + 17 = 1214.
    assert index.block_offset.tolist() == [0, 1213, 2427, 0]
    assert index.block_records.tolist() == [64, 64, 2, 3]
    assert index.block_shard.tolist() == [0, 0, 0, 1]
    assert index.block_class.tolist() == [0, 0, 0, 1]
    assert index.shard_bytes.tolist() == [2427 + 18 + 19, 3 * 18]
    types = [np.int64, np.int32, np.int64, np.int32, np.int32]
    arrays = [index.shard_bytes, *index[3:]]
    assert [array.dtype for array in arrays] == types


def test_index_of_an_ungrouped_set_and_of_empty_shards(tmp_path):
    write_shard(tmp_path, "valid/s-0.tfrecord", [])
    write_shard(tmp_path, "valid/s-1.tfrecord", [b"a"])
    prepared_sets.write_index(tmp_path, "valid", ["valid/s-0.tfrecord", "valid/s-1.tfrecord"])
    index = prepared_sets.read_index(tmp_path, "valid")
    assert index.classes.shape == (0,)
    assert index.block_class.tolist() == [-1]
    assert index.block_shard.tolist() == [1]


def test_truncated_and_missing_shards_are_named(indexed):
    shard = indexed / "train/b-0.tfrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"b-0.tfrecord has 53 bytes .* 54"):
        prepared_sets.read_index(indexed, "train")
    with pytest.raises(UserError, match=r"b-0.tfrecord ends within a record \(byte 36"):
        list(prepared_sets.record_offsets(shard))
    shard.unlink()
    with pytest.raises(UserError, match=r"b-0.tfrecord is missing"):
        prepared_sets.read_index(indexed, "train")


def test_bad_index_files_are_named(indexed):
    with pytest.raises(UserError, match=r"valid.index.npz is missing"):
        prepared_sets.read_index(indexed, "valid")
    path = indexed / "train.index.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        UserError, match=r"train.index.npz is not an index .*run the preparation again"
    ):
        prepared_sets.read_index(indexed, "train")
    np.savez(path, shards=np.array([{"a": 1}], dtype=object))  # would need pickle
    with pytest.raises(
        UserError, match=r"train.index.npz is not an index .*run the preparation again"
    ):
        prepared_sets.read_index(indexed, "train")


CROPS = {
    "kind": "coco-crops", "schema": prepared_sets.SCHEMA, "obj_idx_to_name": ["cat", "dog"],
    "obj_idx_to_ID": [17, 18], "concrete_objs": ["cat"], "mask_size": 64, "crop_size": 96, "a": 1,
}  # fmt: skip


def test_meta_of_a_set_of_photographs(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps(CROPS))
    for kinds in (("coco-crops",), ("quickdraw", "coco-crops")):
        vocabulary = read_meta(tmp_path, *kinds).vocabulary
        assert (vocabulary.names, vocabulary.ids) == (("cat", "dog"), (17, 18))
        assert vocabulary.objects == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no meta.json"),
        ("{", "cannot be read"),
        ({**CROPS, "kind": "coco-scenes"}, "is a coco-scenes set where a coco-crops set was"),
        ({**CROPS, "schema": 999}, "was prepared with schema 999"),
        ({**CROPS, "obj_idx_to_name": ["cat", 3]}, "cannot be read .*obj_idx_to_name"),
    ],
)
def test_unusable_meta_files(tmp_path, content, message):
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_meta(tmp_path, "coco-crops")


def photos(*names):
    return PhotoSetMeta(list(names), [1] * len(names), [], 64, 96)


def sketches(*names):
    return SketchSetMeta(list(names), {})


@pytest.mark.parametrize(
    ("metas", "message"),
    [
        ({"a": photos("cat", "dog"), "b": photos("cat", "dog"), "q": sketches("dog", "yak")}, None),
        ({"a": photos("cat", "dog"), "b": photos("cat", "cow")},
         r"of a .* and b .* index 1 is 'dog' .* 'cow'"),
        ({"a": photos("cat"), "b": photos("cat", "dog")}, r"index 1 is nothing .* 'dog'"),
        ({"a": sketches("dog"), "b": sketches("cat")}, r"index 0 is 'dog'"),
        ({"a": photos("cat"), "q": sketches("yak")}, "no class in common"),
    ],
)  # fmt: skip
def test_vocabularies_of_sets_used_together(metas, message):
    if message is None:
        prepared_sets.check_same_vocabulary(metas)
    else:
        with pytest.raises(UserError, match=message):
            prepared_sets.check_same_vocabulary(metas)


@pytest.mark.parametrize("loader", sorted(LOADERS))
def test_files_that_no_loader_reads_are_no_part_of_its_data(tmp_path, loader):
    """Names that Explorer, Finder and network storage leave in folders."""
    set_files = ["meta.json", "train.index.npz", "train/a.tfrecord"]
    published = {
        "sl_dir": ["test/image/Image/001.jpg", "test/image/GraphFeatures/1.csv"],
        "fs_coco_dir": ["images/7/001.jpg", "raster_sketches/7/001.jpg", "val_normal.txt"],
        "cache_dir": [],
    }
    junk = ["Thumbs.db", "train/desktop.ini", "@eaDir/meta.json", "train/@eaDir/a.tfrecord/x",
            "train/._a.tfrecord", "test/image/Image/Thumbs.db", "test/image/Image/._001.jpg",
            "test/image/Image/@eaDir/001.jpg/x.jpg",
            "images/@eaDir/001.jpg", "images/7/@eaDir/001.jpg/x.jpg", "images/7/._001.jpg",
            "lost+found/x", ".thumbnails/1.jpg"]  # fmt: skip
    for name in (*set_files, *(each for names in published.values() for each in names), *junk):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for field in dataclasses.fields(LOADERS[loader].HParams):
        if patterns := field.metadata["folder"]:
            expected = published.get(field.name, set_files)
            assert set(provenance.data_files(tmp_path, patterns)) == set(expected)
