"""The model 'spade': one step of generator and discriminators on small drawn layouts."""

import numpy as np
import pytest
import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import UsageError, UserError
from core.hparams import parse
from core.registry import EXPERIMENTS
from models.optimizers import LateFallingRate
from models.spade import Spade, mirror_some
from tests.models.helpers import build, compiled_step, scene_batch, step_args

COLOURS = np.array([[230, 40, 40], [30, 200, 60], [40, 60, 220]], np.uint8)


def _build(**changes) -> Spade:
    return build("spade", **changes)


def _batch(pictures: int = 2):
    """Blocks of three classes, each of one colour: class 0 is an object, 1 and 2 are stuff."""
    blocks = np.random.default_rng(pictures).integers(0, 3, (pictures, 4, 4))
    masks = (blocks[:, None] == np.arange(3)[:, None, None]).astype(np.uint8)
    scenes = np.arange(pictures, dtype=np.int32)
    batch = scene_batch(0, [1] * pictures)
    behind = batch.stuff._replace(
        classes=tf.constant(np.tile([1, 2], pictures), tf.int32),
        boxes=tf.constant([[0.0, 0.0, 1.0, 1.0]] * 2 * pictures),
        masks=tf.constant(masks[:, 1:].reshape(-1, 4, 4)),
        stuff_to_img=tf.constant(scenes.repeat(2)),
    )
    return batch._replace(
        images=tf.constant(COLOURS[np.kron(blocks, np.ones((16, 16), int))]),
        photo=batch.photo._replace(
            classes=tf.zeros(pictures, tf.int32),
            boxes=tf.constant([[0.0, 0.0, 1.0, 1.0]] * pictures),
        ),
        masks=tf.constant(masks[:, 0]),
        stuff=behind,
    )


def _losses(step, batch, number=0):
    return {key: float(value) for key, value in step(batch, *step_args(number)).items()}


def _error(model, batch) -> float:
    """Mean absolute difference of the generated pictures and the photographs, of 0..2."""
    photos = tf.cast(batch.images, tf.float32) / 127.5 - 1
    return float(tf.reduce_mean(tf.abs(model.generate(*model.layouts(batch)) - photos)))


def test_one_step_changes_every_trainable_variable():
    model = _build()
    before = [variable.numpy() for variable in model.trainable_variables]
    found = _losses(model.train_step, _batch())
    assert set(found) == {"g_gan_loss", "g_feat_loss", "d_loss", "total_loss"}
    assert found["total_loss"] == pytest.approx(found["g_gan_loss"] + 10 * found["g_feat_loss"])
    assert all(np.isfinite(value) for value in found.values())
    # Biases before a batch norm have no gradient: see the generator's own tests.
    for old, variable in zip(before, model.trainable_variables):
        if not variable.name.endswith("bias:0"):
            assert np.any(old != variable.numpy()), variable.name
    assert {int(each.iterations) for each in model.optimizers.values()} == {1}


def test_losses_by_hand():
    """Two scales of two layers; the first half of every map is of pictures. Hinge: -(2 + 6) / 2.
    Features: mean differences 1 and 3 of the first scale, 0 and 2 of the second: (4 + 2) / 2."""

    def maps(made, real):
        return tf.constant([made, real], tf.float32)[:, None, None, None]

    found = [
        (maps(2.0, 9.0), [maps(0.0, 1.0), maps(5.0, 2.0)]),
        (maps(6.0, 9.0), [maps(4.0, 4.0), maps(1.0, 3.0)]),
    ]
    named = _build().compute_losses(found, None, None)
    assert {name: float(loss) for name, loss in named.items()} == {
        "g_gan_loss": -4,
        "g_feat_loss": 3,
    }


def test_ablated_feature_matching_is_not_logged():
    model = _build(feature_weight=0.0)
    assert set(_losses(model.train_step, _batch())) == {"g_gan_loss", "d_loss", "total_loss"}


def test_layouts_are_of_the_true_masks_with_coco_labels():
    """Ids 1, 92 and 182: labels 0, 91 and 181; the object is number 1. Blocks of 16 x 16 pixels,
    looked at in the middle. Id 183, in the place of 182, is none of SPADE's: the nearest stuff."""
    names = ("person", "banner", "wood", "__image__")
    vocabulary = Vocabulary(names, ids=(1, 92, 182, 0))
    small = parse("generator_width=2,spade_hidden=2,discriminator_width=2", Spade.HParams)
    batch = _batch(3)
    labels, instances = (each.numpy() for each in Spade(small, vocabulary, 9).layouts(batch))
    assert labels.shape == instances.shape == (3, 64, 64)
    blocks = np.random.default_rng(3).integers(0, 3, (3, 4, 4))
    np.testing.assert_array_equal(labels[:, 8::16, 8::16], np.array([0, 91, 181])[blocks])
    np.testing.assert_array_equal(instances[:, 8::16, 8::16], blocks + 1)
    other = Spade(small, Vocabulary(names, ids=(1, 92, 183, 0)), 9)
    assert set(np.unique(other.layouts(batch)[0])) == {0, 91}


def test_data_without_masks_or_ids():
    batch = _batch()
    bare = _build().layouts(batch._replace(stuff=None))[0].numpy()
    assert set(np.unique(bare)) == {0, 255}
    with pytest.raises(UserError, match="no masks"):
        _build().train_step(batch._replace(masks=None), *step_args())
    with pytest.raises(UserError, match="multiple of 32; these photographs have 48 pixels"):
        _build().train_step(batch._replace(images=batch.images[:, :48, :48]), *step_args())
    with pytest.raises(UserError, match="COCO-Stuff ids"):
        Spade(_build().hparams, Vocabulary(("a", "b")), 9)


def test_no_experiment_that_encodes_objects_takes_it():
    for name in ("scene-layouts", "generate-images", "extract-features"):
        with pytest.raises(UsageError, match=f"{name} takes graph-attention.*, not spade"):
            EXPERIMENTS[name].check_fit(Spade)


def test_photographs_and_layouts_are_mirrored_together():
    """Of 64 examples about half, the same of every tensor, and others at the next step."""
    names = np.arange(64 * 9).reshape(64, 3, 3)
    maps, photos = tf.constant(names), tf.constant(np.stack([names] * 3, axis=-1))
    drawn = []
    for step in (0, 1, 0):
        found = mirror_some((maps, maps + 1, photos), tf.constant([7, step], tf.int64))
        mirrored = found[0].numpy()[:, 0, 0] == names[:, 0, 2]
        expected = np.where(mirrored[:, None, None], names[:, :, ::-1], names)
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], expected + 1)
        np.testing.assert_array_equal(found[2], np.stack([expected] * 3, axis=-1))
        assert 20 < mirrored.sum() < 44
        drawn.append(mirrored.tolist())
    assert drawn[0] == drawn[2] != drawn[1]


def test_step_on_a_mirrored_scene():
    """Step 0 of seed 0 mirrors the first scene: it is the step on a scene mirrored beforehand."""
    batch = _batch(1)._replace(stuff=None)
    mirrored = batch._replace(images=batch.images[:, :, ::-1], masks=batch.masks[:, :, ::-1])
    before, plain, drawn = (
        _losses(_build(flip=flip).train_step, example)
        for flip, example in ((False, mirrored), (False, batch), (True, batch))
    )
    assert drawn == pytest.approx(before, rel=1e-6)
    assert abs(drawn["total_loss"] / plain["total_loss"] - 1) > 1e-4


def test_learns_colours():
    """On a layout it has not seen, too, and only where it is asked for: a layout of other classes
    gives another picture."""
    model, batch = _build(learning_rate=2e-3), _batch(4)
    step = compiled_step(model, batch)
    start = _error(model, batch)
    for number in range(50):
        step(batch, *step_args(number))
    unseen = _batch(5)
    swapped = unseen._replace(
        photo=unseen.photo._replace(classes=unseen.photo.classes + 1),
        stuff=unseen.stuff._replace(classes=(unseen.stuff.classes + 1) % 3),
    )
    assert _error(model, batch) < 0.5 * start
    assert _error(model, unseen) < 0.6 * _error(model, swapped)


def test_rate_by_hand():
    # T = 200: constant for 100 steps, then along a line: 0.4 x (1 - 150 / 200) x 2 at 150.
    rate = LateFallingRate(0.4, 200)
    for step, value in ((0, 0.4), (100, 0.4), (150, 0.2), (199, 0.004), (200, 0.0)):
        assert float(rate(tf.constant(step))) == pytest.approx(value, abs=1e-7)


def test_rates_follow_the_saved_steps():
    """So a resumed run goes on with the right ones; the discriminator's is four times as high."""
    model = _build(learning_rate=0.4)
    for name, part, rate in (
        ("main", model.generator, 0.2),
        ("discriminator", model.discriminator, 0.8),
    ):
        optimizer = model.optimizers[name].inner_optimizer
        optimizer.iterations.assign(75)  # of 100
        optimizer.apply_gradients((tf.zeros_like(v), v) for v in part.trainable_variables)
        assert float(optimizer.learning_rate) == pytest.approx(rate)


def test_perceptual_loss_with_given_weights(tmp_path):
    model = _build(vgg19_weights=str(tmp_path / "vgg19.weights.h5"))
    with pytest.raises(UserError, match=r"there is no weights file .*vgg19_weights"):
        model.load_pretrained()
    full = model.perceptual.published(None)
    full.save_weights(tmp_path / "vgg19.weights.h5")
    model.load_pretrained()
    first, last = full.get_layer("block1_conv1"), full.get_layer("block5_conv1")
    for theirs, ours in (
        (first, model.perceptual.net.layers[1]),
        (last, model.perceptual.net.layers[-1]),
    ):
        np.testing.assert_array_equal(theirs.kernel, ours.kernel)
    frozen = model.perceptual.net.get_weights()
    found = _losses(model.train_step, _batch())
    assert found["g_perceptual_loss"] > 0
    total = found["g_gan_loss"] + 10 * found["g_feat_loss"] + 10 * found["g_perceptual_loss"]
    assert found["total_loss"] == pytest.approx(total, rel=1e-5)
    for old, new in zip(frozen, model.perceptual.net.get_weights()):
        np.testing.assert_array_equal(old, new)
    (tmp_path / "vgg19.weights.h5").write_text("<html>")
    with pytest.raises(UserError, match="not a readable weights file of VGG19"):
        model.load_pretrained()
