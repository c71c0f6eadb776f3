"""Damaged records: named, and left out when asked, without moving any other."""

import logging
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from dataloaders import blocks, damage, qd_cc_tfrecord, records
from tests.dataloaders import tiny_sets


def numbered(count, prefix=""):
    return [f"{prefix}{i:05d}".encode() for i in range(count)]


EVERYTHING = numbered(204)
BYTES = 5 + 16  # of a record with its framing


@pytest.fixture
def plain(tmp_path):
    """An ungrouped split of 3 shards: 130 + 64 + 10 records, blocks of 64 64 2 64 10."""
    shards = {"train/a": EVERYTHING[:130], "train/b": EVERYTHING[130:194]}
    tiny_sets.write_shards(tmp_path, "train", {**shards, "train/c": EVERYTHING[194:]})
    return tmp_path


def change(shard, place, value=None):
    """Flip a bit of a byte, or write zeros over a range."""
    data = bytearray(shard.read_bytes())
    if value is None:
        data[place] ^= 4
    else:
        data[place : place + value] = bytes(value)
    shard.write_bytes(data)


def cut(shard, size):
    shard.write_bytes(shard.read_bytes()[:size])


# Who does what to shard a or b -> places in the split that are lost, pieces of the notice.
CASES = {
    "data": (lambda a, b: change(a, 5 * BYTES + 13), {5}, ["train/a record 5 (wrong checksum"]),
    "two": (
        lambda a, b: (change(a, 70 * BYTES + 13), change(a, 71 * BYTES + 20)),
        {70, 71},
        ["2 of 204", "train/a record 70 (", "train/a record 71 ("],
    ),
    # Where a length is damaged, the rest of its block cannot be told apart: records 66..127.
    "length": (
        lambda a, b: change(a, 66 * BYTES + 1),
        set(range(66, 128)),
        ["62 of 204", "train/a records 66-127 ("],
    ),
    "length of the last of a block": (
        lambda a, b: change(a, 63 * BYTES + 9), {63}, ["train/a record 63 ("],
    ),
    "zeros": (
        # Within record 10, to within record 70: the second block begins there too.
        lambda a, b: change(a, 10 * BYTES + 14, 60 * BYTES),
        set(range(10, 128)),
        ["train/a record 10 (", "train/a records 11-63 (", "train/a records 64-127 ("],
    ),
    "truncated": (
        lambda a, b: cut(b, 7 * BYTES + 3), set(range(137, 194)), ["train/b records 7-63 ("],
    ),
    "truncated between records": (
        lambda a, b: cut(a, 128 * BYTES), {128, 129}, ["train/a records 128-129 ("],
    ),
    "nothing left of it": (lambda a, b: cut(b, 0), set(range(130, 194)), ["records 0-63 ("]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damaged_records_are_left_out_with_one_notice(plain, caplog, case):
    spoil, lost, pieces = CASES[case]
    spoil(plain / "train/a", plain / "train/b")
    with caplog.at_level(logging.INFO):
        split = blocks.Split(str(plain), "train", "skip")
    (notice,) = caplog.messages
    for piece in (f"{plain}: {len(lost)} of 204 records of the train split are damaged", *pieces):
        assert piece in notice
    left = [(i, record) for i, record in enumerate(EVERYTHING) if i not in lost]
    assert [(int(i), r.numpy()) for i, r in split.sequential()] == left
    # Block by block: what is left of each, in its place.
    bounds = [(0, 64), (64, 128), (128, 130), (130, 194), (194, 204)]
    expected = [[r for i, r in left if low <= i < high] for low, high in bounds]
    expected = [block for block in expected if block]
    for number in range(len(expected)):
        assert split.read(tf.constant([number])).numpy().tolist() == expected[number]
    order = [len(expected) - 1, 0, 1]
    together = [r for number in order for r in expected[number]]
    assert split.read(tf.constant(order)).numpy().tolist() == together
    assert split.index.block_records.tolist() == [len(block) for block in expected]
    assert split.num_records == 204
    # And by default it is an error that names the first.
    record = min(lost) - (130 if min(lost) >= 130 else 0)
    if "truncated" in case or "nothing" in case:
        with pytest.raises(UserError, match=rf"is truncated, from record {record} on; .*=skip"):
            blocks.Split(str(plain), "train")
    else:
        with pytest.raises(tf.errors.DataLossError) as caught:
            blocks.Split(str(plain), "train").read(tf.range(5))
        told = blocks.explain(caught.value, [str(plain)])
        assert f"train/a: record {record} is damaged" in told and "on_corrupt=skip" in told


def test_skipping_in_a_whole_set_changes_nothing(plain, caplog):
    split = blocks.Split(str(plain), "train", "skip")
    assert not caplog.messages
    assert split.read(tf.range(5)).numpy().tolist() == EVERYTHING
    assert [r.numpy() for _, r in split.sequential()] == EVERYTHING


def test_a_set_without_a_readable_record_is_an_error(plain):
    for shard in "abc":
        cut(plain / "train" / shard, 0)
    with pytest.raises(UserError, match=r"no record of the train split .* can be read"):
        blocks.Split(str(plain), "train", "skip")


def test_a_shard_that_grew_or_has_gone_is_an_error_all_the_same(plain):
    shard = plain / "train/b"
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"train/b has .*: it was changed"):
        blocks.Split(str(plain), "train", "skip")
    shard.unlink()
    with pytest.raises(UserError, match="train/b is missing"):
        blocks.Split(str(plain), "train", "skip")


def test_a_class_of_which_nothing_is_left_is_left_out(tmp_path):
    shards = {"train/cat": numbered(70, "cat"), "train/dog": numbered(3, "dog")}
    tiny_sets.write_shards(tmp_path, "train", shards, ("cat", "dog"), [0, 1])
    cut(tmp_path / "train/dog", 0)
    change(tmp_path / "train/cat", 2 * 24 + 13)
    split = blocks.Split(str(tmp_path), "train", "skip")
    pools = blocks.ClassPools(split, ["dog", "cat"])
    assert pools.classes.tolist() == [1] and pools.row_of_class.tolist() == [-1, 0]
    for window, expected in ((0, numbered(64, "cat")), (1, numbered(70, "cat")[64:])):
        pool = pools.window(tf.constant(window, tf.int64))
        expected = [record for record in expected if record != b"cat00002"]
        assert pool.records.numpy().tolist() == expected
        assert (pool.starts.numpy().tolist(), pool.counts.numpy().tolist()) == (
            [0],
            [len(expected)],
        )


# ---- a whole loader --------------------------------------------------------------------------


def loader(sets, on_corrupt):
    base = types.SimpleNamespace(batch_size=2, on_corrupt=on_corrupt)
    hparams = qd_cc_tfrecord.HParams(sets.quickdraw, sets.crops)
    return qd_cc_tfrecord.QuickdrawCococrops(hparams, base, 96, 7)


def test_a_training_without_the_damaged_ones_is_as_repeatable(tmp_path):
    """A drawing and a crop are damaged: no batch shows them, batch t comes wherever reading starts,
    and windows that meet no damaged block are those of the whole set, bit for bit."""
    sets = tiny_sets.TinySets(
        tiny_sets.write_sketches(tmp_path / "quickdraw", indexed=False, per_class=100),
        "", tiny_sets.write_crops(tmp_path / "crops"), "",
    )  # fmt: skip
    window = blocks.WINDOW
    whole = list(loader(sets, "stop").train_batches().take(3 * window).as_numpy_iterator())
    shard = sorted((Path(sets.quickdraw) / "train").iterdir())[0]
    offsets = list(records.record_offsets(shard))
    damaged = records.SketchRecord.parse(
        tf.constant([next(iter(tf.data.TFRecordDataset(str(shard)).skip(70))).numpy()])
    ).image[0]
    gone = tiny_sets.marks(tf.io.decode_png(damaged)[None].numpy(), 2).tolist()[0]
    change(shard, offsets[70] + 30)
    with pytest.raises(tf.errors.DataLossError):
        for _ in loader(sets, "stop").train_batches().take(4 * window):
            pass
    assert [d.record for d in damage.verify(sets.quickdraw, "train")] == [70]

    skipping = loader(sets, "skip")
    batches = list(skipping.train_batches().take(3 * window).as_numpy_iterator())
    shown = np.concatenate([tiny_sets.marks(batch.sketches, 2) for batch in batches])
    assert gone not in shown.tolist()
    assert gone in np.concatenate([tiny_sets.marks(b.sketches, 2) for b in whole]).tolist()
    same = [all(np.array_equal(x, y) for x, y in zip(a, b)) for a, b in zip(batches, whole)]
    by_window = [all(same[w * window : (w + 1) * window]) for w in range(3)]
    assert 0 < sum(by_window) < 3
    again = loader(sets, "skip").train_batches(window + 9).take(4).as_numpy_iterator()
    for expected, batch in zip(batches[window + 9 :], again):
        assert all(np.array_equal(x, y) for x, y in zip(expected, batch))


def test_a_loader_takes_what_is_left_of_truncated_shards(tmp_path):
    sets = tiny_sets.TinySets(
        tiny_sets.write_sketches(tmp_path / "quickdraw", indexed=False),
        "", tiny_sets.write_crops(tmp_path / "crops"), "",
    )  # fmt: skip
    for folder in (sets.quickdraw, sets.crops):
        shard = sorted((Path(folder) / "train").iterdir())[0]
        cut(shard, shard.stat().st_size // 2)
    with pytest.raises(UserError, match="is truncated, from record"):
        loader(sets, "stop").train_batches()
    (batch,) = loader(sets, "skip").train_batches().take(1)
    assert batch.sketches.shape == (2, 96, 96, 1)
