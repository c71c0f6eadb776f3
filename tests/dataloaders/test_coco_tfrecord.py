"""The scenes of stage 2 and their two sides. Partners are marked images (see tiny_sets)."""

import dataclasses
import io
import logging
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UserError
from core.registry import LOADERS
from dataloaders import scene_batches, throughput
from dataloaders.batches import SceneBatch
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import (
    by_scene,
    check_graph,
    collect,
    equal,
    equal_scenes,
    stored,
)

CLASSES = list(tiny_sets.SKETCH_CLASSES)


def make(sets, batch_size=4, seed=0, **attributes):
    loader = LOADERS["coco-tfrecord"]
    hparams = loader.HParams(sets.scenes, sets.indexed, sets.crops)
    dataset = loader(hparams, types.SimpleNamespace(batch_size=batch_size), 96, seed)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture(scope="module")
def batches(sets):
    """Forty batches of training."""
    return collect(make(sets).train_batches(), 40)


def test_positive_and_negative_crops_are_made_alike(sets, monkeypatch):
    """Or a model tells them apart by their sharpness: here every image is the same chequers."""
    grid = np.indices((256, 256)).sum(0) % 2 * 255

    def chequers(encoded, side, channels, kind):
        image = tf.constant(grid[:side, :side, None], tf.uint8)
        return tf.tile(image[None], [tf.size(encoded), 1, 1, channels])

    monkeypatch.setattr(scene_batches, "decode_images", chequers)
    dataset = make(sets)
    dataset.image_size = 24
    batch = collect(dataset.train_batches(), 1)[0]
    assert batch.crops.shape[1:] == batch.negative_crops.shape[1:] == (24, 24, 3)
    # Antialiasing makes chequers grey. Sampling leaves them black and white.
    assert batch.negative_crops.std() < 10
    assert batch.crops.std() < 25


def test_a_training_batch_is_what_it_says(sets, batches):
    dataset = make(sets)
    scenes = stored(sets.scenes, "train")
    for batch in batches[:4]:
        assert isinstance(batch, SceneBatch)
        photo, query = batch.photo, batch.query
        check_graph(photo, 4, canonical=False)
        check_graph(query, 4, canonical=False)
        # The paper's sets: the query copies classes and boxes of the photo.
        np.testing.assert_array_equal(photo.classes[batch.query_to_photo], query.classes)
        np.testing.assert_array_equal(photo.boxes[batch.query_to_photo], query.boxes)
        np.testing.assert_array_equal(batch.query_to_photo, np.arange(len(photo.classes)))
        names = [dataset.vocabulary.names[k] for k in query.classes]
        assert [CLASSES[c] for c in tiny_sets.marks(batch.sketches, 1)[:, 0]] == names
        shown = (tiny_sets.marks(batch.negative_crops, 1)[:, 0] / 20).round()
        np.testing.assert_array_equal(shown, batch.negative_classes)
        assert (batch.negative_classes != photo.classes).all()
        for n, image_id in enumerate(batch.image_ids.tolist()):
            mine, scene = photo.obj_to_img == n, scenes[image_id]
            assert photo.classes[mine].tolist() == list(scene["obj_idx"].int64_list.value)
            boxes = np.array(scene["boxes"].float_list.value, np.float32).reshape(-1, 4)
            np.testing.assert_array_equal(photo.boxes[mine], boxes)
            packed = np.frombuffer(scene["masks"].bytes_list.value[0], np.uint8)
            masks = np.unpackbits(packed).reshape(-1, 16, 16)
            np.testing.assert_array_equal(batch.masks[mine], masks)
            behind = batch.stuff.stuff_to_img == n
            assert batch.stuff.classes[behind].tolist() == list(scene["stuff_idx"].int64_list.value)
            boxes = np.array(scene["stuff_boxes"].float_list.value, np.float32).reshape(-1, 4)
            np.testing.assert_array_equal(batch.stuff.boxes[behind], boxes)
            packed = np.frombuffer(scene["stuff_masks"].bytes_list.value[0], np.uint8)
            masks = np.unpackbits(packed).reshape(-1, 16, 16)
            np.testing.assert_array_equal(batch.stuff.masks[behind], masks)
            encoded = scene["image"].bytes_list.value[0]
            pixels = np.asarray(Image.open(io.BytesIO(encoded))).astype(int)
            assert abs(batch.images[n] - pixels).max() <= 8  # two JPEG decoders


def test_dtypes_and_shapes(sets, batches):
    batch = batches[0]
    o, q = len(batch.photo.classes), len(batch.query.classes)
    expected = SceneBatch(
        ((4,), np.int64), ((4, 256, 256, 3), np.uint8), None, ((o, 96, 96, 3), np.uint8),
        ((o, 16, 16), np.uint8), None, ((q, 96, 96, 1), np.uint8), ((q,), np.int32),
        ((o, 96, 96, 3), np.uint8), ((o,), np.int32),
    )  # fmt: skip
    for name, want in expected._asdict().items():
        if want is not None:
            value = getattr(batch, name)
            assert (value.shape, value.dtype.type) == want, name
    for graph in (batch.photo, batch.query):
        types_ = [a.dtype.type for a in graph]
        assert types_ == [np.int32, np.float32, np.int32, np.int32]
    static = make(sets).train_batches().element_spec
    assert static.images.shape[0] == 4  # one trace for all batches


def test_crops_are_cut_from_the_image(batches):
    batch = batches[0]
    o = 0
    image = batch.images[batch.photo.obj_to_img[o]].astype(float)
    x0, y0, x1, y1 = batch.photo.boxes[o].astype(float) * 255
    for i, j in ((0, 0), (95, 95), (10, 80), (47, 3)):
        y, x = y0 + (y1 - y0) * i / 95, x0 + (x1 - x0) * j / 95
        t, l = min(int(y), 254), min(int(x), 254)  # noqa: E741
        v, u = y - t, x - l
        value = (image[t, l] * (1 - u) + image[t, l + 1] * u) * (1 - v)
        value += (image[t + 1, l] * (1 - u) + image[t + 1, l + 1] * u) * v
        assert abs(batch.crops[o, i, j] - value).max() <= 1


def test_sides_draw_their_directions_apart(batches):
    """The original gives both sides the same flips: a fingerprint of the scene."""
    same = total = 0
    for batch in batches:
        different = batch.photo.triples[:, 0] != batch.photo.triples[:, 2]
        photo, query = batch.photo.triples[different], batch.query.triples[different]
        same += (photo[:, 0] == query[:, 0]).sum()
        total += len(photo)
    assert total > 400 and abs(same / total - 0.5) < 0.1


@pytest.mark.parametrize("start", [1, 70])
def test_resuming_gives_the_same_batches_whatever_the_parallelism(sets, start):
    whole = collect(make(sets, parallel_calls=1, prefetch=1).train_batches(), start + 3)
    resumed = make(sets, parallel_calls=6, prefetch=3).train_batches(start)
    equal(collect(resumed, 3), whole[start:])


def test_every_scene_comes_once_a_pass(batches):
    ids = np.concatenate([b.image_ids for b in batches[:12]])
    for i in range(0, 48, 24):
        assert sorted(ids[i : i + 24].tolist()) == list(range(100, 124))
    assert ids[:24].tolist() != ids[24:].tolist()


def test_evaluation_does_not_depend_on_batch_size_or_limit(sets):
    whole = collect(make(sets, 5).eval_batches("valid"))
    assert [len(b.image_ids) for b in whole] == [5, 5, 2]
    assert np.concatenate([b.image_ids for b in whole]).tolist() == list(range(100, 112))
    for batch in whole:
        check_graph(batch.photo, len(batch.image_ids), canonical=True)
        check_graph(batch.query, len(batch.image_ids), canonical=True)
    ones = collect(make(sets, 3, parallel_calls=7).eval_batches("valid"))
    equal_scenes(by_scene(ones), by_scene(whole))
    few = by_scene(collect(make(sets, 3).eval_batches("valid", limit=4)))
    assert len(few) == 4
    equal_scenes(few, {k: v for k, v in by_scene(whole).items() if k in few})


def test_queries_of_training_can_be_jittered_and_thinned(sets):
    """Off by default; both change the query's graph and nothing else of the batch."""
    plain, fair = make(sets, 12), make(sets, 12)
    fair.hparams = dataclasses.replace(fair.hparams, query_jitter=0.2, query_dropped=0.4)
    kept = objects = 0
    for batch, changed in zip(collect(plain.train_batches(), 6), collect(fair.train_batches(), 6)):
        equal(
            [batch.photo, batch.crops, batch.masks], [changed.photo, changed.crops, changed.masks]
        )
        own, query = changed.query_to_photo, changed.query
        check_graph(query, 12, canonical=False)  # at least one object a scene
        np.testing.assert_array_equal(query.classes, batch.photo.classes[own])
        np.testing.assert_array_equal(changed.sketches, batch.sketches[own])
        old, new = batch.photo.boxes[own], query.boxes
        size = np.tile(old[:, 2:] - old[:, :2], 2)
        # A border moves with the centre, at most 0.2 of the size, and by half the scale, 0.1 of it.
        assert (abs(new - old) <= 0.3 * size + 1e-6).all()
        assert (abs(new - old).max(1) > 0).all()
        kept, objects = kept + len(own), objects + len(batch.photo.classes)
    sizes = np.bincount(batch.photo.obj_to_img)
    # Of n objects 0.6 n stay, and one more time in 0.4^n, when all would go.
    expected = np.mean(0.6 * sizes + 0.4**sizes) / np.mean(sizes)
    assert abs(kept / objects - expected) < 0.1
    assert collect(fair.eval_batches("valid"))[0].query_to_photo.tolist() == list(
        range(len(collect(plain.eval_batches("valid"))[0].photo.classes))
    )


def test_seed_changes_the_drawn_sketches(sets):
    first = collect(make(sets, 12).eval_batches("test"))[0]
    second = collect(make(sets, 12, seed=1).eval_batches("test"))[0]
    assert (tiny_sets.marks(first.sketches, 2) != tiny_sets.marks(second.sketches, 2)).any()
    np.testing.assert_array_equal(first.image_ids, second.image_ids)


def test_objects_without_sketches_leave_the_query(tmp_path, sets, caplog):
    absent = {"train": ("dog", "bus"), "valid": ("cat",)}
    indexed = tiny_sets.write_sketches(tmp_path / "i", indexed=True, absent=absent)
    dataset = make(sets._replace(indexed=indexed))
    names = np.array(dataset.vocabulary.names)
    with caplog.at_level(logging.WARNING):
        batches = collect(dataset.train_batches(), 8)
        collect(dataset.train_batches(), 1)
    kept = 0
    for batch in batches:
        check_graph(batch.photo, 4, canonical=False)
        check_graph(batch.query, 4, canonical=False)  # no scene without a query
        drawable = ~np.isin(names[batch.photo.classes], ["dog", "bus"])
        np.testing.assert_array_equal(batch.query_to_photo, np.flatnonzero(drawable))
        np.testing.assert_array_equal(batch.query.classes, batch.photo.classes[drawable])
        assert len(batch.sketches) == drawable.sum() < len(batch.crops)
        kept += drawable.sum()
    assert kept
    assert len([m for m in caplog.messages if "bus, dog" in m and "train split" in m]) == 1
    ids = {i for b in collect(dataset.eval_batches("valid")) for i in b.image_ids.tolist()}
    cat = dataset.vocabulary.names.index("cat")
    expected = {
        i
        for i, scene in stored(sets.scenes, "valid").items()
        if set(scene["obj_idx"].int64_list.value) != {cat}
    }
    assert ids == expected


def test_nothing_usable_is_an_error(tmp_path, sets):
    everything = {"train": tiny_sets.THINGS[1:]}
    scenes = tiny_sets.write_scenes(tmp_path / "s", scenes=6, objects=(1, 1), seed=5)
    present = {
        tiny_sets.VOCABULARY[s["obj_idx"].int64_list.value[0]]
        for s in stored(scenes, "train").values()
    }
    only = next(n for n in tiny_sets.THINGS if n not in present)
    everything = {"train": tuple(n for n in tiny_sets.THINGS if n != only)}
    indexed = tiny_sets.write_sketches(tmp_path / "i", indexed=True, absent=everything)
    with pytest.raises(UserError, match="can be used"):
        make(sets._replace(scenes=scenes, indexed=indexed)).train_batches()


def test_throughput_names_a_damaged_shard(tmp_path, sets, capsys):
    scenes = tiny_sets.write_scenes(tmp_path / "s", scenes=8)
    shard = Path(scenes) / "train" / "scenes-00001-of-00002.tfrecord"
    tiny_sets.flip_bit(shard, 2)
    folders = f"coco_dir={scenes},qdraw_dir={sets.indexed},crops_dir={sets.crops}"
    assert throughput.main("coco-tfrecord", "scenes", ["--data-hparams", folders]) == 1
    assert f"{shard} is damaged" in capsys.readouterr().err
