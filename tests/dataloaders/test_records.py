"""Records, block index, meta.json: round trips, hand-worked layouts, and damaged files by name."""

import json
import struct

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from dataloaders import records


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
    records.write_index(
        tmp_path, "train", ["train/a-0.tfrecord", "train/b-0.tfrecord"], ["hot dog", "b"], [0, 1]
    )
    return tmp_path


def test_sketches_round_trip():
    serialized = [records.SketchRecord.encode(b"png%d" % i, i, 10 + i) for i in range(3)]
    back = records.SketchRecord.parse(tf.constant(serialized))
    assert back.image.numpy().tolist() == [b"png0", b"png1", b"png2"]
    assert back.coco_class.numpy().tolist() == [0, 1, 2]
    assert back.sketch_class.numpy().tolist() == [10, 11, 12]


def test_crops_round_trip():
    big = 900_100_000_000  # crowd ids of COCO do not fit 32 bits
    back = records.CropRecord.parse(tf.constant([records.CropRecord.encode(b"jpg", 5, 9, big)]))
    assert [field.numpy().tolist() for field in back] == [[b"jpg"], [5], [9], [big]]


def test_scenes_round_trip_also_in_a_graph():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 8, 8)) > 0.5
    first = records.SceneRecord.encode(
        b"j1", 7, [3, 4], np.arange(8) / 8, records.pack_masks(masks[:2]), [70, 71], [], [], b""
    )
    second = records.SceneRecord.encode(
        b"j2", 8, [5], np.arange(4) / 4, records.pack_masks(masks[2:]), [80],
        [1, 2], np.arange(8) / 16, records.pack_masks(masks[:2]),
    )  # fmt: skip
    for parse in (records.SceneRecord.parse, tf.function(records.SceneRecord.parse)):
        scenes = parse(tf.constant([first, second]))
        assert scenes.image_id.numpy().tolist() == [7, 8]
        assert scenes.obj_idx.to_list() == [[3, 4], [5]]
        assert scenes.annotation_ids.to_list() == [[70, 71], [80]]
        np.testing.assert_array_equal(scenes.boxes[0].numpy(), np.arange(8).reshape(2, 4) / 8)
        np.testing.assert_array_equal(scenes.boxes[1].numpy(), [[0, 0.25, 0.5, 0.75]])
        assert scenes.stuff_idx.to_list() == [[], [1, 2]]
        assert scenes.stuff_boxes.row_lengths().numpy().tolist() == [0, 2]
        np.testing.assert_array_equal(records.unpack_masks(scenes.masks, 8).numpy(), masks)
        np.testing.assert_array_equal(
            records.unpack_masks(scenes.stuff_masks, 8).numpy(), masks[:2]
        )


def test_mask_bits_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 3] = mask[0, 2, 1] = 1
    # rows 0 and 1: 1000 0001 = 129; rows 2 and 3: 0100 0000 = 64
    assert records.pack_masks(mask) == bytes([129, 64])
    unpacked = records.unpack_masks(tf.constant([b"", bytes([129, 64])]), 4)
    assert unpacked.dtype == tf.uint8
    np.testing.assert_array_equal(unpacked.numpy(), mask)
    assert records.unpack_masks(tf.constant([b"", b""]), 4).shape == (0, 4, 4)


def test_equal_records_have_equal_bytes():
    def encode():
        return records.CropRecord.encode(b"jpg", 5, 9, 3)

    assert encode() == encode()


def test_index_by_hand(indexed):
    index = records.read_index(indexed, "train")
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


def test_blocks_can_be_read_at_their_offset(indexed):
    index = records.read_index(indexed, "train")
    data = (indexed / "train/a-0.tfrecord").read_bytes()
    offset = int(index.block_offset[1])
    assert struct.unpack_from("<Q", data, offset)[0] == 64 % 7


def test_index_of_an_ungrouped_set_and_of_empty_shards(tmp_path):
    write_shard(tmp_path, "valid/s-0.tfrecord", [])
    write_shard(tmp_path, "valid/s-1.tfrecord", [b"a"])
    records.write_index(tmp_path, "valid", ["valid/s-0.tfrecord", "valid/s-1.tfrecord"])
    index = records.read_index(tmp_path, "valid")
    assert index.classes.shape == (0,)
    assert index.block_class.tolist() == [-1]
    assert index.block_shard.tolist() == [1]


def test_truncated_and_missing_shards_are_named(indexed):
    shard = indexed / "train/b-0.tfrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"b-0.tfrecord has 53 bytes .* 54"):
        records.read_index(indexed, "train")
    with pytest.raises(UserError, match=r"b-0.tfrecord ends within a record \(byte 36"):
        list(records.record_offsets(shard))
    shard.unlink()
    with pytest.raises(UserError, match=r"b-0.tfrecord is missing"):
        records.read_index(indexed, "train")


def test_bad_index_files_are_named(indexed):
    with pytest.raises(UserError, match=r"valid.index.npz is missing"):
        records.read_index(indexed, "valid")
    path = indexed / "train.index.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train.index.npz cannot be read"):
        records.read_index(indexed, "train")
    np.savez(path, shards=np.array([{"a": 1}], dtype=object))  # would need pickle
    with pytest.raises(UserError, match=r"train.index.npz cannot be read"):
        records.read_index(indexed, "train")


def test_meta_checks(tmp_path):
    def write(**meta):
        (tmp_path / "meta.json").write_text(json.dumps(meta))

    with pytest.raises(UserError, match="is not a folder"):
        records.read_meta(tmp_path / "none", "coco-crops")
    with pytest.raises(UserError, match=r"has no meta.json"):
        records.read_meta(tmp_path, "coco-crops")
    whole = {"kind": "coco-crops", "schema": records.SCHEMA, "a": 1}
    whole.update(obj_idx_to_name=["cat", "dog"], concrete_objs=["cat"], mask_size=64)
    whole.update(obj_idx_to_ID=[17, 18])
    write(**whole)
    assert records.read_meta(tmp_path, "coco-crops")["a"] == 1
    assert records.read_meta(str(tmp_path), ("quickdraw", "coco-crops"))["a"] == 1
    with pytest.raises(UserError, match="is a coco-crops set where a quickdraw set was expected"):
        records.read_meta(tmp_path, "quickdraw")
    for key, bad in (
        ("obj_idx_to_name", 3),
        ("obj_idx_to_name", ["cat", 3]),
        ("concrete_objs", None),
        ("obj_idx_to_ID", None),
        ("obj_idx_to_ID", [17, "18"]),
        ("obj_idx_to_ID", [17]),
    ):
        write(**{**whole, key: bad})
        with pytest.raises(UserError, match=f"'{key}' is missing or of another type"):
            records.read_meta(tmp_path, "coco-crops")
    write(**{**whole, "kind": "coco-scenes", "mask_size": "x"})
    with pytest.raises(UserError, match="'mask_size' is missing or of another"):
        records.read_meta(tmp_path, "coco-scenes")
    write(kind=["coco-crops"], schema=records.SCHEMA)
    with pytest.raises(UserError, match="set was expected"):
        records.read_meta(tmp_path, "coco-crops")
    write(kind="coco-crops", schema=records.SCHEMA + 1)
    with pytest.raises(UserError, match="schema"):
        records.read_meta(tmp_path, "coco-crops")
    write(kind="coco-crops")
    with pytest.raises(UserError, match="does not describe"):
        records.read_meta(tmp_path, "coco-crops")
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        records.read_meta(tmp_path, "coco-crops")


def test_vocabularies_of_sets_used_together():
    def coco(*names):
        return {"kind": "coco-scenes", "obj_idx_to_name": list(names)}

    def sketch(*names):
        return {"kind": "quickdraw-indexed", "coco_classes": list(names)}

    same = {"a": coco("cat", "dog"), "b": coco("cat", "dog"), "q": sketch("dog", "yak")}
    records.check_same_vocabulary(same)
    with pytest.raises(UserError, match=r"of a .* and b .* index 1 is 'dog' .* 'cow'"):
        records.check_same_vocabulary({"a": coco("cat", "dog"), "b": coco("cat", "cow")})
    with pytest.raises(UserError, match=r"index 1 is nothing .* 'dog'"):
        records.check_same_vocabulary({"a": coco("cat"), "b": coco("cat", "dog")})
    with pytest.raises(UserError, match=r"index 0 is 'dog'"):
        records.check_same_vocabulary({"a": sketch("dog"), "b": sketch("cat")})
    with pytest.raises(UserError, match="no class in common"):
        records.check_same_vocabulary({"a": coco("cat"), "q": sketch("yak")})
