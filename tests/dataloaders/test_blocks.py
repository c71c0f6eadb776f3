"""Reading blocks, pools and windows; damaged input."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from dataloaders import blocks
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
    return blocks.PreparedSplit(folder, "train")


def test_blocks_are_read_in_the_order_asked(plain):
    assert plain.num_records == 204
    got = plain.read(tf.constant([3, 2, 0])).numpy().tolist()
    everything = numbered(204)
    assert got == everything[130:194] + everything[128:130] + everything[:64]
    rows = [(int(place), record.numpy()) for place, record in plain.sequential()]
    assert rows == list(enumerate(everything))


@pytest.mark.parametrize("take", [1, 2, 3, 4])
def test_pools_cover_every_block_once_an_epoch(plain, take):
    pools = blocks.RecordPools(plain, take, 5)
    stream = np.concatenate([pools.block_numbers(tf.constant(w, tf.int64)) for w in range(20)])
    epochs = [tuple(stream[i : i + 5].tolist()) for i in range(0, len(stream) - 4, 5)]
    assert all(sorted(e) == [0, 1, 2, 3, 4] for e in epochs)
    assert len(set(epochs)) > 1  # each epoch in another order
    seen = Counter()
    for w in range(5):
        seen.update(pools.pool(tf.constant(w, tf.int64)).numpy().tolist())
    assert set(seen) == set(numbered(204))  # 5 windows of `take` blocks: each record `take` times
    assert set(seen.values()) == {take}


def test_a_small_split_is_its_own_pool(plain):
    pools = blocks.RecordPools(plain, 9, 5)
    assert pools.whole is not None
    assert pools.pool(tf.constant(77, tf.int64)).numpy().tolist() == numbered(204)


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
    first = list(blocks.steps_with_pools(lambda w: w * 10, 0).take(150).as_numpy_iterator())
    assert first == [(t, t // blocks.WINDOW * 10) for t in range(150)]
    later = list(blocks.steps_with_pools(lambda w: w * 10, 70).take(80).as_numpy_iterator())
    assert later == first[70:]


# ---- damage ----------------------------------------------------------------------------------


@pytest.fixture
def crops(tmp_path):
    return tiny_sets.write_crops(tmp_path / "crops", per_class=5)


def test_a_damaged_shard_is_named(crops):
    shard = Path(crops) / "train" / "cat-00000-of-00001.tfrecord"
    tiny_sets.flip_bit(shard, 3)
    split = blocks.PreparedSplit(Path(crops), "train")
    message = f"{shard} is damaged: delete it and run the preparation again"
    with pytest.raises(UserError, match=message), blocks.reading_errors_explained([crops]):
        split.read(tf.range(len(split.index.block_records)))


def test_a_shard_that_vanishes_is_named(crops):
    split = blocks.PreparedSplit(Path(crops), "train")
    (Path(crops) / "train" / "cat-00000-of-00001.tfrecord").unlink()
    expected = pytest.raises(UserError, match=r"a shard cannot be read: .*cat-00000-of-00001")
    with expected, blocks.reading_errors_explained([crops]):
        list(split.sequential())


def test_too_many_open_files_are_no_lack_of_memory(crops):
    error = tf.errors.ResourceExhaustedError(None, None, "cat.tfrecord; Too many open files")
    expected = pytest.raises(UserError, match=r"cat\.tfrecord; Too many open files; raise the")
    with expected, blocks.reading_errors_explained([crops]):
        raise error


def test_other_errors_are_not_explained_away(crops):
    for error in (
        tf.errors.InvalidArgumentError(None, None, "something else"),
        tf.errors.NotFoundError(None, None, "a checkpoint"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor"),
        ValueError("no"),
    ):
        with pytest.raises(type(error)), blocks.reading_errors_explained([crops]):
            raise error


def test_an_empty_split_is_an_error(tmp_path):
    tiny_sets.write_shards(tmp_path, "valid", {"valid/none": []})
    with pytest.raises(UserError, match=r"valid split .* is empty"):
        blocks.PreparedSplit(tmp_path, "valid")
