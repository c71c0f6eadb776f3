"""Loaders of one set: sketches alone, crops alone."""

import types

import numpy as np
import pytest

from core.registry import LOADERS
from tests.dataloaders import tiny_sets


def make(name, folder, batch_size):
    loader = LOADERS[name]
    base = types.SimpleNamespace(batch_size=batch_size)
    return loader(loader.HParams(folder), base, 96, 0)


@pytest.mark.parametrize(
    ("name", "which", "per_mark"),
    [
        ("quickdraw-tfrecord", "quickdraw", 1),
        ("indexed-quickdraw", "indexed", 1),
        ("cococrops-tfrecord", "crops", 20),
    ],
)
def test_single_source(sets, name, which, per_mark):
    dataset = make(name, getattr(sets, which), 50)
    batches = list(dataset.train_batches().take(2).as_numpy_iterator())
    images = np.concatenate([b[0] for b in batches])
    classes = np.concatenate([b.classes for b in batches])
    marks = tiny_sets.marks(images, 2)
    np.testing.assert_array_equal((marks[:, 0] / per_mark).round(), classes)
    assert np.bincount(classes).tolist() == [20] * 5  # 100 records, each once
    resumed = next(dataset.train_batches(1).as_numpy_iterator())
    for a, b in zip(resumed, batches[1]):
        np.testing.assert_array_equal(a, b)
    valid = list(dataset.eval_batches("valid").as_numpy_iterator())
    assert [len(b.classes) for b in valid] == [50]
    assert (np.diff(valid[0].classes) >= 0).all()
    assert isinstance(valid[0], dataset.batch_type)


def test_labels_are_of_the_sets_own_vocabulary(sets):
    names = make("quickdraw-tfrecord", sets.quickdraw, 5).vocabulary.names
    assert names == tuple(tiny_sets.SKETCH_CLASSES)
    assert make("cococrops-tfrecord", sets.crops, 5).vocabulary.names == tiny_sets.VOCABULARY
