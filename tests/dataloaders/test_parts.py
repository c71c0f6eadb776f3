"""The parts of a batch that several devices read are the batch, cut by scenes or triplets."""

import numpy as np
import pytest
import tensorflow as tf

from core.dataset import Parts
from core.errors import UsageError
from core.hparams import BaseHParams
from core.registry import LOADERS
from tests.models.splitting import split


@pytest.fixture
def folders(sets, pairs):
    return {
        "qdraw_dir": sets.quickdraw, "crops_dir": sets.crops, "coco_dir": sets.scenes,
        "sl_dir": pairs, "indexed": sets.indexed,
    }  # fmt: skip


def loader(folders, name, batch_size=4, **more):
    chosen = dict(folders)
    if name == "coco-tfrecord":
        chosen["qdraw_dir"] = folders["indexed"]
    cls = LOADERS[name]
    known = {key: value for key, value in chosen.items() if key in cls.HParams.__annotations__}
    return cls(cls.HParams(**known, **more), BaseHParams(batch_size=batch_size), 32, seed=5)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("coco-tfrecord", {}),
        ("sketchycoco-sl", {"query_jitter": 0.2, "query_dropped": 0.5}),
    ],
)
def test_parts_are_those_of_the_batch(folders, name, more):
    """At steps 62 to 65, two windows; read as one process with both parts does, and as the second
    of two does."""
    made = loader(folders, name, **more)
    whole = list(made.train_batches(62).take(4))
    both = list(made.train_batches(62, Parts(range(2), 2)).take(4))
    second = list(made.train_batches(62, Parts(range(1, 2), 2)).take(4))
    for batch, parts, (last,) in zip(whole, both, second):
        expected = split(batch, 2)
        for part, wanted in zip((*parts, last), (*expected, expected[1])):
            tf.nest.map_structure(np.testing.assert_array_equal, part, wanted)
    if name == "coco-tfrecord":
        assert any(len(a.crops) != len(b.crops) for a, b in both)


def test_a_batch_that_cannot_be_split_evenly(folders):
    with pytest.raises(UsageError, match="batch_size=4 cannot be split evenly over 3 devices"):
        loader(folders, "quickdraw-cococrops-tf").train_batches(0, Parts(range(3), 3))
