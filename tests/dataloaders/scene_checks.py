"""Helpers that the tests of the two loaders of scenes share."""

import numpy as np
import tensorflow as tf

from tests.dataloaders import tiny_sets
from tests.dataloaders.test_scene_graph import slow_canonical


def collect(dataset, count=None):
    batches = dataset if count is None else dataset.take(count)
    # Not as_numpy_iterator, which fails on the masks that a set does not have.
    return [
        tf.nest.map_structure(lambda x: None if x is None else x.numpy(), batch)
        for batch in batches
    ]


def equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b)):
            np.testing.assert_array_equal(x, y)


def stored(folder, split):
    """The split's scenes straight from protobuf: image id -> features."""
    records = tiny_sets.read_split(folder, split)
    scenes = [tf.train.Example.FromString(record).features.feature for record in records]
    return {scene["image_id"].int64_list.value[0]: scene for scene in scenes}


def by_scene(batches):
    """Return each scene as evaluation gives it, free of where in a batch it stood: id -> arrays."""
    scenes = {}
    for batch in batches:
        for n, image_id in enumerate(batch.image_ids):
            photo, query = batch.photo.obj_to_img == n, batch.query.obj_to_img == n
            parts = [batch.images[n], batch.crops[photo]]
            parts += [] if batch.masks is None else [batch.masks[photo]]
            parts += [batch.negative_crops[photo], batch.negative_classes[photo]]
            parts += [batch.sketches[query], _within(batch.query_to_photo[query], photo)]
            for graph, mine in ((batch.photo, photo), (batch.query, query)):
                first = int(np.argmax(mine))
                rows = graph.triples[mine[graph.triples[:, 0]]] - [first, 0, first]
                parts += [graph.classes[mine], graph.boxes[mine], rows]
            scenes[int(image_id)] = parts
    return scenes


def _within(depicted, photo):
    """Photo objects counted from the first of their scene, -1 as it is."""
    return np.where(depicted < 0, -1, depicted - np.argmax(photo))


def equal_scenes(first, second):
    assert list(first) == list(second)
    for a, b in zip(first.values(), second.values()):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


def check_graph(graph, scenes, canonical):
    assert (np.diff(graph.obj_to_img) >= 0).all()
    assert set(graph.obj_to_img.tolist()) == set(range(scenes))  # no scene without objects
    count = len(graph.classes)
    assert ((graph.triples[:, [0, 2]] >= 0) & (graph.triples[:, [0, 2]] < count)).all()
    for n in range(scenes):
        members = np.flatnonzero(graph.obj_to_img == n)
        mine = graph.triples[np.isin(graph.triples[:, 0], members)]
        shift = np.array([members[0], 0, members[0]])
        expected = np.array(slow_canonical(graph.boxes[members])) + shift
        if canonical:
            assert mine.tolist() == expected.tolist()
        else:  # the same pairs, either way round
            assert [set(r[[0, 2]]) for r in mine] == [set(r[[0, 2]]) for r in expected]
