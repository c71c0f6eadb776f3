"""The model 'spade': one step of generator and discriminators on small drawn layouts."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import UserError
from core.hparams import parse
from models.optimizers import LateFallingRate
from models.spade import Spade
from tests.models.helpers import compiled_step, step_args

SMALL = {
    "generator_width": 2,
    "spade_hidden": 8,
    "discriminator_width": 4,
    "learning_rate": 1e-3,
}


class Photographs(NamedTuple):
    """What a batch must have."""

    images: tf.Tensor
    labels: tf.Tensor
    instances: tf.Tensor


def _build(**changes) -> Spade:
    tf.keras.utils.set_random_seed(0)
    hparams = parse("", Spade.HParams, **{**SMALL, **changes})
    return Spade(hparams, Vocabulary(("person", "__image__"), ("__in_image__",)), 200)


def _batch(pictures: int = 2) -> Photographs:
    """Blocks of three classes, each of one colour."""
    rng = np.random.default_rng(pictures)
    blocks = rng.integers(0, 3, (pictures, 4, 4))
    drawn = np.kron(blocks, np.ones((16, 16), int))
    colours = np.array([[230, 40, 40], [30, 200, 60], [40, 60, 220]], np.uint8)
    labels = np.array([0, 123, 255], np.uint8)[drawn]
    return Photographs(*(tf.constant(x) for x in (colours[drawn], labels, drawn.astype(np.int32))))


def _losses(step, batch, number=0):
    return {key: float(value) for key, value in step(batch, *step_args(number)).items()}


def _error(model, batch) -> float:
    """Mean absolute difference of the generated pictures and the photographs, of 0..2."""
    photos = tf.cast(batch.images, tf.float32) / 127.5 - 1
    return float(tf.reduce_mean(tf.abs(model.generate(batch.labels, batch.instances) - photos)))


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


def test_ablated_feature_matching_is_not_logged():
    model = _build(feature_weight=0.0)
    assert set(_losses(model.train_step, _batch())) == {"g_gan_loss", "d_loss", "total_loss"}


def test_eager_equals_function_and_goes_on_after_a_restore(tmp_path):
    eager, compiled, batch = _build(), _build(), _batch()
    step = compiled_step(compiled, batch)
    for number in range(2):
        a, b = _losses(eager.train_step, batch, number), _losses(step, batch, number)
        assert a == pytest.approx(b, rel=2e-3)
    path = tf.train.Checkpoint(model=compiled).write(str(tmp_path / "ckpt"))
    after = _losses(step, batch, 2)
    for variable in compiled.trainable_variables:
        variable.assign(variable + 1.0)
    tf.train.Checkpoint(model=compiled).read(path).assert_consumed()
    assert _losses(step, batch, 2) == pytest.approx(after, rel=1e-6)
    _losses(step, _batch(3), 3)
    assert step.experimental_get_tracing_count() == 1


def test_learns_colours():
    """On a layout it has not seen, too, and only where it is asked for: a layout of other classes
    gives another picture."""
    model, batch = _build(learning_rate=2e-3), _batch(4)
    step = compiled_step(model, batch)
    start = _error(model, batch)
    for number in range(50):
        step(batch, *step_args(number))
    unseen = _batch(5)
    swapped = unseen._replace(labels=tf.where(unseen.labels == 0, tf.constant(123, tf.uint8), 0))
    assert _error(model, batch) < 0.5 * start
    assert _error(model, unseen) < 0.6 * _error(model, swapped)


def test_rate_by_hand():
    # T = 200: constant for 100 steps, then along a line: 0.4 x (1 - 150 / 200) x 2 at 150.
    rate = LateFallingRate(0.4, 200)
    for step, value in ((0, 0.4), (100, 0.4), (150, 0.2), (199, 0.004), (200, 0.0)):
        assert float(rate(tf.constant(step))) == pytest.approx(value, abs=1e-7)


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
