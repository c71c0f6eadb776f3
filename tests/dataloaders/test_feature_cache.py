"""Features of the triplets of stage 1. The encoders are simple: every 16th pixel of an image, which
float16 holds exactly."""

import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UsageError, UserError
from core.model import FrozenEncoder
from core.registry import LOADERS
from dataloaders import qd_cc_features
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import collect, equal
from tests.models.helpers import build


def some_pixels(images):
    return tf.reshape(tf.cast(images[:, ::16, ::16, 0], tf.float32), [-1, 36])


def fake_model(encode=some_pixels, digest="pixels"):
    encoder = FrozenEncoder(encode, 36, digest)
    return types.SimpleNamespace(frozen_encoders=lambda: (encoder, encoder))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return tiny_sets.write_all(tmp_path_factory.mktemp("sets"), scenes=8)


def make(sets, name="quickdraw-cococrops-features", batch_size=4, **more):
    hparams = LOADERS[name].HParams(sets.quickdraw, sets.crops, **more)
    base = types.SimpleNamespace(batch_size=batch_size)
    return LOADERS[name](hparams, base, image_size=96, seed=3)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def faded(images, seed):
    """Return what stands for pseudo-drawings here: of each seed another grey."""
    return images[..., :1] // tf.cast(2 + seed[0], tf.uint8)


def test_features_are_those_of_the_images_of_the_same_step(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(qd_cc_features, "pseudo_drawings", faded)
    cached = make(sets, cache_dir=str(tmp_path), pseudo_drawings=3)
    cached.prepare_for(fake_model())
    images, chosen = make(sets, "quickdraw-cococrops-tf"), set()
    for read in (lambda data: data.train_batches(62), lambda data: data.eval_batches("valid")):
        for features, shown in zip(collect(read(cached), 5), collect(read(images), 5)):
            for field in ("sketches", "positives", "negatives"):
                expected = some_pixels(getattr(shown, field))
                np.testing.assert_array_equal(getattr(features, field), expected)
            np.testing.assert_array_equal(features.classes, shown.classes)
            np.testing.assert_array_equal(features.negative_classes, shown.negative_classes)
            kinds = np.stack([some_pixels(faded(shown.positives, [i])) for i in range(3)], axis=1)
            same = (kinds == features.pseudo_sketches[:, None]).all(axis=2)  # (B, 3)
            assert (same.sum(axis=1) == 1).all()
            chosen |= set(same.argmax(axis=1).tolist())
    assert chosen == {0, 1, 2}


def test_scenes_of_training_are_read_as_features(sets, tmp_path):
    def scenes(**more):
        loader = LOADERS["coco-tfrecord"]
        folders = (sets.scenes, sets.indexed, sets.crops)
        hparams = loader.HParams(*folders, query_jitter=0.2, query_dropped=0.3, **more)
        return loader(hparams, types.SimpleNamespace(batch_size=4), image_size=96, seed=3)

    cached = scenes(cache_features=True, cache_dir=str(tmp_path))
    with pytest.raises(UsageError, match="prepare_for"):
        cached.train_batches()
    cached.prepare_for(fake_model())
    assert not files(tmp_path)  # evaluation needs none
    for features, shown in zip(*(collect(d.train_batches(62), 5) for d in (cached, scenes()))):
        encoded = {
            name: some_pixels(getattr(shown, name))
            for name in ("crops", "sketches", "negative_crops")
        }
        equal([features], [shown._replace(images=None, **encoded)])
    assert {path.parent.name for path in tmp_path.rglob("*.tfrecord")} == {"train"}
    equal(*(collect(d.eval_batches("valid")) for d in (cached, scenes())))


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(sets, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make(sets, cache_dir=str(whole)).prepare_for(fake_model())
    calls = []

    def dying(images):
        calls.append(len(images))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return some_pixels(images)

    cached = make(sets, cache_dir=str(killed))
    with pytest.raises(KeyboardInterrupt):
        cached.prepare_for(fake_model(dying))
    before = files(killed)
    assert before and before.items() < files(whole).items()
    cached.prepare_for(fake_model(dying))
    assert files(killed) == files(whole)
    total = len(calls)
    cached.prepare_for(fake_model(dying))
    assert len(calls) == total


def test_another_encoder_or_set_has_another_cache(sets, tmp_path):
    make(sets, cache_dir=str(tmp_path)).prepare_for(fake_model())
    assert len(list(tmp_path.iterdir())) == 2
    other = make(sets, cache_dir=str(tmp_path))
    other.prepare_for(fake_model(lambda images: 255.0 - some_pixels(images), "negative"))
    assert len(list(tmp_path.iterdir())) == 4
    images = make(sets, "quickdraw-cococrops-tf")
    (features,), (shown,) = (collect(each.train_batches(), 1) for each in (other, images))
    np.testing.assert_array_equal(features.sketches, 255.0 - some_pixels(shown.sketches))


def test_it_lies_within_the_sets_unless_told(sets, tmp_path):
    moved = tiny_sets.TinySets(*(shutil.copytree(s, tmp_path / Path(s).name) for s in sets))
    make(moved).prepare_for(fake_model())
    for folder in (moved.quickdraw, moved.crops):
        assert len(list(folder.glob("features-*"))) == 1


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda x: some_pixels(x) / 0.0, "not all finite"),
        (lambda x: some_pixels(x) * 1e4, "65,504"),
    ],
    ids=["nan", "large"],
)
def test_features_that_float16_cannot_hold(sets, tmp_path, encode, message):
    with pytest.raises(UserError, match=message):
        make(sets, cache_dir=str(tmp_path)).prepare_for(fake_model(encode))


def test_what_cannot_be_used(sets, tmp_path):
    with pytest.raises(UsageError, match="encoder_training=frozen"):
        make(sets).prepare_for(build("multidomain-representation"))
    with pytest.raises(UsageError, match="prepare_for"):
        make(sets).train_batches()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match=r"cannot write to .*cache_dir"):
        make(sets, cache_dir=str(blocked)).prepare_for(fake_model())
    cached = make(sets, cache_dir=str(tmp_path))
    cached.prepare_for(fake_model())
    shard = next(tmp_path.glob("features-*/train/*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"delete {shard.parents[1]}"):
        cached.prepare_for(fake_model())
