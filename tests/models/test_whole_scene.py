"""The whole-scene model: cells of maps, training pairs, what is shared, and that it learns."""

import numpy as np
import pytest
import tensorflow as tf

from core.drawings import scene_drawings
from core.pseudo_drawings import pseudo_drawings
from models.whole_scene import cell_means
from tests.models.helpers import SIDE, build, compiled_step, images, scene_batch, step_args

SEED = tf.constant([1, 2], tf.int64)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (6, 3), (2, 4), (8, 1)])
def test_cell_means_against_finer_maps(height, width):
    """Every pixel as 4 x 4 equal ones: then each cell holds whole ones."""
    maps = np.random.default_rng(0).normal(size=(2, height, width, 3))
    fine = maps.repeat(4, axis=1).repeat(4, axis=2)
    expected = fine.reshape(2, 4, height, 4, width, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(cell_means(tf.constant(maps, tf.float32), 4), expected, atol=1e-6)


def pairs(options, batch=None):
    batch = batch or scene_batch(0, [1, 2, 3, 2])
    return batch, [side.numpy() for side in build("whole-scene", options).pairs(batch, SEED)]


def test_pairs_without_changes_are_photographs_and_their_drawings():
    batch, (photos, drawings) = pairs("pseudo_share=0,flip=False")
    np.testing.assert_allclose(
        photos, tf.image.resize(batch.images, (32, 32), antialias=True), atol=1
    )
    np.testing.assert_array_equal(drawings, scene_drawings(batch, SIDE))


def test_drawings_of_the_batch_come_first():
    pages = images(np.random.default_rng(3), 4, 1)
    batch = scene_batch(0, [1, 2, 3, 2])._replace(query=None, sketches=None, drawings=pages)
    np.testing.assert_array_equal(pairs("pseudo_share=0,flip=False", batch)[1][1], pages)


def test_a_share_of_the_drawings_is_made_of_edges():
    batch = scene_batch(0, [1] * 64)
    photos, drawings = pairs("pseudo_share=0.25,flip=False", batch)[1]
    composed = (drawings == scene_drawings(batch, SIDE).numpy()).all(axis=(1, 2, 3))
    assert 8 <= 64 - composed.sum() <= 24  # 16 expected, deviation 3.5
    (_, thresholds, _) = tf.unstack(tf.random.experimental.stateless_split(SEED, 3))
    edges = pseudo_drawings(photos, thresholds).numpy()
    np.testing.assert_array_equal(drawings[~composed], edges[~composed])
    all_edges = pairs("pseudo_share=1,flip=False", batch)[1][1]
    np.testing.assert_array_equal(all_edges, edges)


def test_both_sides_of_a_pair_are_mirrored_or_none():
    plain, turned = (pairs(f"pseudo_share=0,flip={flip}")[1] for flip in (False, True))
    mirrored = [(old != new).any(axis=(1, 2, 3)) for old, new in zip(plain, turned)]
    np.testing.assert_array_equal(*mirrored)
    assert 0 < mirrored[0].sum() < 4
    for old, new in zip(plain, turned):
        np.testing.assert_array_equal(new[mirrored[0]], old[mirrored[0]][:, :, ::-1])


@pytest.mark.parametrize("siamese", [True, False], ids=["siamese", "apart"])
def test_weights_are_shared_or_not_and_statistics_never(siamese):
    model = build("whole-scene", f"siamese={siamese},batch_norm=frozen")
    photo, drawing = model.photo_encoder, model.drawing_encoder
    for name in ("backbone", "cells", "head"):
        assert (getattr(photo, name) is getattr(drawing, name)) == siamese
    model.train_step(scene_batch(0, [1, 2, 3]), *step_args())
    means = photo.norm.moving_mean.numpy(), drawing.norm.moving_mean.numpy()
    assert all(mean.any() for mean in means) and not np.array_equal(*means)


def test_infonce_is_icon_without_smoothing():
    def loss(options):
        step = build("whole-scene", options).train_step(scene_batch(0, [1, 2, 3]), *step_args())
        return float(step["contrastive_loss"])

    assert loss("loss=infonce") == loss("smoothing=0") != loss("")


def test_finds_the_photographs_it_has_learned():
    """Sixty steps on six scenes; vectors have length 1, and eager and compiled ones agree."""
    model = build("whole-scene", "learning_rate=3e-3,flip=False,pseudo_share=0")
    batch = scene_batch(1, [1, 2, 3, 1, 2, 3])
    step = compiled_step(model, batch)
    for number in range(60):
        step(batch, *step_args(number))
    photos, drawings = model.pairs(batch, SEED)
    vectors = model.embed_photographs(photos)["scene"], model.embed_drawings(drawings)["scene"]
    for each in vectors:
        np.testing.assert_allclose(tf.norm(each, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(vectors[0], model.photographs(photos), atol=1e-5)
    similar = tf.matmul(vectors[1], vectors[0], transpose_b=True)
    np.testing.assert_array_equal(tf.argmax(similar, axis=1), np.arange(6))


def test_an_encoder_of_vectors_from_a_file(tmp_path):
    """Its mean colours are the features: no cells are built, and a step trains the heads alone."""
    pictures = tf.keras.Input((SIDE, SIDE, 3))
    vectors = tf.keras.layers.GlobalAveragePooling2D()(pictures)
    net = tf.keras.Model(pictures, tf.keras.layers.Dense(5)(vectors))
    net.save(tmp_path / "net.keras")
    model = build(
        "whole-scene", encoder=str(tmp_path / "net.keras"), pretrained_e_model="saved_model",
        encoder_training="frozen", pretrained_weights="imagenet", backbone_alpha=1.0,
    )  # fmt: skip
    assert len(model.trainable_variables) == 2  # of the head
    photos = images(np.random.default_rng(0), 3, 3)
    features = net(tf.cast(photos, tf.float32) / 255) / np.sqrt(1 + 1e-3)  # statistics 0 and 1
    expected = model.photo_encoder.head(features)
    expected /= tf.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed_photographs(photos)["scene"], expected, atol=1e-5)
    assert np.isfinite(float(model.train_step(scene_batch(0, [1, 2]), *step_args())["total_loss"]))
