"""Reading blocks, pools and windows; damaged input."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from dataloaders import blocks, prepared_sets, random_draws
from tests.dataloaders import tiny_sets


def numbered(count, prefix=""):
    return [f"{prefix}{i:05d}".encode() for i in range(count)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Ungrouped split of 3 shards: 130 + 64 + 10 records, blocks of 64 64 2 64 10."""
    folder = tmp_path_factory.mktemp("plain")
    everything = numbered(204)
    shards = {"train/a": everything[:130], "train/b": everything[130:194]}
    tiny_sets.write_shards(folder, "train", {**shards, "train/c": everything[194:]})
    return blocks.Split(str(folder), "train")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Classes: cat of 300 records in two shards, dog of 3, ghost of 5 (not in the vocabulary)."""
    folder = tmp_path_factory.mktemp("grouped")
    cats = numbered(300, "cat")
    shards = {"cat0": cats[:100], "ghost": numbered(5, "ghost"), "dog": numbered(3, "dog")}
    shards["cat1"] = cats[100:]
    tiny_sets.write_shards(
        folder, "train", {f"train/{k}": v for k, v in shards.items()}, ("cat", "dog", "ghost"),
        [0, 2, 1, 0],
    )  # fmt: skip
    return blocks.Split(str(folder), "train")


def test_blocks_are_read_in_the_order_asked(plain):
    assert plain.num_records == 204
    got = plain.read(tf.constant([3, 2, 0])).numpy().tolist()
    everything = numbered(204)
    assert got == everything[130:194] + everything[128:130] + everything[:64]
    rows = [(int(place), record.numpy()) for place, record in plain.sequential()]
    assert rows == list(enumerate(everything))


@pytest.mark.parametrize("take", [1, 2, 3, 4])
def test_ring_covers_every_block_once_an_epoch(plain, take):
    ring = blocks.Ring(plain, take, 5)
    stream = np.concatenate([ring.block_numbers(tf.constant(w, tf.int64)) for w in range(20)])
    epochs = [tuple(stream[i : i + 5].tolist()) for i in range(0, len(stream) - 4, 5)]
    assert all(sorted(e) == [0, 1, 2, 3, 4] for e in epochs)
    assert len(set(epochs)) > 1  # each epoch in another order
    seen = Counter()
    for w in range(5):
        seen.update(ring.pool(tf.constant(w, tf.int64)).numpy().tolist())
    assert set(seen) == set(numbered(204))  # 5 windows of `take` blocks: each record `take` times
    assert set(seen.values()) == {take}


def test_a_small_split_is_its_own_pool(plain):
    ring = blocks.Ring(plain, 9, 5)
    assert ring.whole is not None
    assert ring.pool(tf.constant(77, tf.int64)).numpy().tolist() == numbered(204)


def test_class_pools(grouped):
    pools = blocks.ClassPools(grouped, ["dog", "mouse", "cat"])
    assert pools.classes.tolist() == [0, 2]
    assert pools.row_of_class.tolist() == [0, -1, 1]
    seen = set()
    for w in range(6):  # cat has blocks of 64 36 64 64 64 8
        pool = pools.window(tf.constant(w, tf.int64))
        starts, counts = pool.starts.numpy(), pool.counts.numpy()
        texts = pool.records.numpy()
        assert counts[0] == 3 and counts[1] == [64, 36, 64, 64, 64, 8][w]
        assert all(t.startswith(b"dog") for t in texts[starts[0] : starts[0] + counts[0]])
        cats = texts[starts[1] : starts[1] + counts[1]]
        assert all(t.startswith(b"cat") for t in cats)
        seen.update(cats.tolist())
    assert seen == set(numbered(300, "cat"))


def test_evaluation_pool_is_spread_over_a_class(grouped):
    pool = blocks.ClassPools(grouped, ["dog", "cat"]).evaluation()
    assert pool.counts.numpy().tolist() == [3, 64 + 64 + 64 + 8]
    texts = pool.records.numpy().tolist()
    assert texts[3] == b"cat00000" and texts[-1] == b"cat00299"


def test_classes_unknown_to_the_vocabulary_alone_are_an_error(grouped):
    with pytest.raises(UserError, match="no records of any known class"):
        blocks.ClassPools(grouped, ["mouse"])


def test_pick_takes_a_record_of_the_class_asked(grouped):
    pools = blocks.ClassPools(grouped, ["dog", "cat"])
    rows = tf.constant([0, 1] * 200)
    pool = pools.window(tf.constant(0, tf.int64))
    picked = blocks.pick(pool, rows, random_draws.bits(0, tf.range(400))).numpy()
    assert {p[:3] for p in picked[::2]} == {b"dog"} and {p[:3] for p in picked[1::2]} == {b"cat"}
    assert len(set(picked[::2].tolist())) == 3 and len(set(picked[1::2].tolist())) > 50


def test_window_rows_take_every_usable_row_before_any_again():
    usable = tf.constant([True, False, True, True, False, True, True])
    rows = blocks.window_rows(usable, 3, "records", 1).numpy().reshape(-1)
    assert rows.shape == (blocks.WINDOW * 3,)
    for i in range(0, len(rows) - 4, 5):
        assert sorted(rows[i : i + 5].tolist()) == [0, 2, 3, 5, 6]


def test_a_window_without_usable_rows_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no usable class") as caught:
        blocks.window_rows(tf.constant([False, False]), 3, "records of a/set", 1)
    with pytest.raises(UserError) as told, blocks.reading_errors_explained([]):
        raise caught.value
    assert str(told.value) == (
        f"{blocks.WINDOW * 3} records of a/set in a row have no usable class: the set must be in "
        "random order"
    )


def test_windowed_gives_each_step_its_window():
    first = list(blocks.windowed(lambda w: w * 10, 0).take(150).as_numpy_iterator())
    assert first == [(t, t // blocks.WINDOW * 10) for t in range(150)]
    later = list(blocks.windowed(lambda w: w * 10, 70).take(80).as_numpy_iterator())
    assert later == first[70:]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_decoding_any_number_of_images(count):
    images = np.stack([tiny_sets.marked(96, i, 2 * i) for i in range(count)])
    encoded = tf.constant([tiny_sets.encode(i, "PNG") for i in images])
    for shape in ([None], [count]):
        decode = tf.function(
            lambda e: blocks.decode_images(e, 96, 1, "png"),
            input_signature=[tf.TensorSpec(shape, tf.string)],
        )
        assert (decode(encoded).numpy()[..., 0] == images).all()


def slow_crop(image, box, side):
    """Bilinear samples from border to border of the box, one pixel at a time."""
    size = image.shape[0]
    out = np.zeros((side, side, 3))
    for i in range(side):
        y = (box[1] + (box[3] - box[1]) * i / (side - 1)) * (size - 1)
        for j in range(side):
            x = (box[0] + (box[2] - box[0]) * j / (side - 1)) * (size - 1)
            top, left = min(int(y), size - 2), min(int(x), size - 2)
            v, u = y - top, x - left
            part = image[top : top + 2, left : left + 2].astype(float)
            out[i, j] = (part[0, 0] * (1 - u) + part[0, 1] * u) * (1 - v) + (
                part[1, 0] * (1 - u) + part[1, 1] * u
            ) * v
    return out


def test_crops_equal_the_slow_reference():
    rng = np.random.default_rng(0)
    images = np.stack([tiny_sets.scene_image(rng, 64) for _ in range(2)])
    boxes = np.concatenate([tiny_sets.scene_boxes(rng, 3), [[0, 0, 1, 1]]]).astype(np.float32)
    owners = np.array([0, 0, 1, 1], np.int32)
    crops = blocks.crop_images(images, boxes, owners, 24).numpy().astype(float)
    for crop, box, owner in zip(crops, boxes, owners):
        assert abs(crop - slow_crop(images[owner], box, 24)).max() <= 1


def test_resizing_is_skipped_when_there_is_nothing_to_do():
    images = tf.zeros([2, 8, 8, 1], tf.uint8)
    assert blocks.resize_images(images, 8) is images
    grey = tf.fill([1, 8, 8, 3], tf.constant(77, tf.uint8))
    smaller = blocks.resize_images(grey, 4)
    assert smaller.dtype == tf.uint8 and (smaller.numpy() == 77).all()
    assert smaller.shape == (1, 4, 4, 3)


def test_missing_classes_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        blocks.report_missing(["cat"], ["cat", "dog", "bus"], "crops in the valid split")
    assert caplog.messages == ["2 classes have no crops in the valid split: bus, dog"]


# ---- damage ----------------------------------------------------------------------------------


@pytest.fixture
def crops(tmp_path):
    return tiny_sets.write_crops(tmp_path / "crops", per_class=5)


def test_a_damaged_shard_is_named(crops):
    shard = Path(crops) / "train" / "cat-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[list(prepared_sets.record_offsets(shard))[3] + 40] ^= 1
    shard.write_bytes(data)
    split = blocks.Split(crops, "train")
    message = f"{shard} is damaged: delete it and run the preparation again"
    with pytest.raises(UserError, match=message), blocks.reading_errors_explained([crops]):
        split.read(tf.range(len(split.index.block_records)))


def test_a_shard_that_vanishes_is_named(crops):
    split = blocks.Split(crops, "train")
    (Path(crops) / "train" / "cat-00000-of-00001.tfrecord").unlink()
    expected = pytest.raises(UserError, match=r"a shard cannot be read .*cat-00000-of-00001")
    with expected, blocks.reading_errors_explained([crops]):
        list(split.sequential())


def test_other_errors_are_not_explained_away(crops):
    for error in (
        tf.errors.InvalidArgumentError(None, None, "something else"),
        tf.errors.NotFoundError(None, None, "a checkpoint"),
        ValueError("no"),
    ):
        with pytest.raises(type(error)), blocks.reading_errors_explained([crops]):
            raise error


def test_a_truncated_shard_is_named_at_once(crops):
    shard = Path(crops) / "train" / "cat-00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match="cat-00000-of-00001"):
        blocks.Split(crops, "train")


def test_an_empty_split_is_an_error(tmp_path):
    tiny_sets.write_shards(tmp_path, "valid", {"valid/none": []})
    with pytest.raises(UserError, match=r"valid split .* is empty"):
        blocks.Split(str(tmp_path), "valid")
