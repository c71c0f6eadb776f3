"""Pools of sets grouped by class."""

import logging

import pytest
import tensorflow as tf

from core.errors import UserError
from dataloaders import class_pools, random_draws
from dataloaders.blocks import PreparedSplit
from dataloaders.class_pools import ClassPools
from tests.dataloaders import tiny_sets


def numbered(count, prefix=""):
    return [f"{prefix}{i:05d}".encode() for i in range(count)]


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
    return PreparedSplit(folder, "train")


def test_class_pools(grouped):
    pools = ClassPools(grouped, ["dog", "mouse", "cat"])
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
    pool = ClassPools(grouped, ["dog", "cat"]).evaluation()
    assert pool.counts.numpy().tolist() == [3, 64 + 64 + 64 + 8]
    texts = pool.records.numpy().tolist()
    assert texts[3] == b"cat00000" and texts[-1] == b"cat00299"


def test_classes_unknown_to_the_vocabulary_alone_are_an_error(grouped):
    with pytest.raises(UserError, match="no records of any known class"):
        ClassPools(grouped, ["mouse"])


def test_pick_takes_a_record_of_the_class_asked(grouped):
    pools = ClassPools(grouped, ["dog", "cat"])
    rows = tf.constant([0, 1] * 200)
    pool = pools.window(tf.constant(0, tf.int64))
    picked = pool.pick(rows, random_draws.bits(0, tf.range(400))).numpy()
    assert {p[:3] for p in picked[::2]} == {b"dog"} and {p[:3] for p in picked[1::2]} == {b"cat"}
    assert len(set(picked[::2].tolist())) == 3 and len(set(picked[1::2].tolist())) > 50


def test_missing_classes_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        class_pools.report_missing(["cat"], ["cat", "dog", "bus"], "crops in the valid split")
    assert caplog.messages == ["2 classes have no crops in the valid split: bus, dog"]
