"""Backbones against Keras' own, and weights that cannot be had."""

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from core.model import Numerics
from models.backbones import InceptionV3, MobileNetV2, ResNet50V2, read_weights
from models.encoders import EncoderHParams, ObjectRepresentation

ALPHA = 0.35


@pytest.fixture(scope="module")
def keras_model():
    """Keras' MobileNetV2 with every variable drawn anew: fresh statistics would hide mistakes."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=ALPHA, include_top=False, weights=None
    )
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            size = layer.gamma.shape
            draw = np.random.default_rng(1).uniform
            layer.set_weights([draw(0.8, 1.2, size) for _ in range(4)])
    return model


@pytest.fixture(scope="module")
def weights_file(keras_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    keras_model.save_weights(path)
    return path


@pytest.mark.parametrize("side", [96, 47])
def test_mobilenet_equals_keras(keras_model, side):
    """Up to block_16_project_BN; an odd side meets odd maps at every stride."""
    ours = MobileNetV2(ALPHA, freeze_statistics=True)
    pixels = tf.random.stateless_uniform((2, side, side, 3), [0, 1], -1, 1)
    ours(pixels)
    ours.load_from(keras_model)
    if side != 96:
        theirs = tf.keras.applications.MobileNetV2(
            input_shape=(side, side, 3), alpha=ALPHA, include_top=False, weights=None
        )
        theirs.set_weights(keras_model.get_weights())
    else:
        theirs = keras_model
    cut = tf.keras.Model(theirs.input, theirs.get_layer("block_16_project_BN").output)
    expected = cut(pixels, training=False).numpy()
    np.testing.assert_allclose(ours(pixels), expected, rtol=1e-3, atol=1e-3 * expected.std())
    assert len(ours.variables) == len(cut.variables)


@pytest.mark.parametrize(("precision", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_mobilenet_in_mixed_precision(keras_model, precision, unit):
    """Of 52 convolutions one after the other, kernel and map are rounded, each by half a unit at
    most: 20 % and 2.5 % of the maps' length, were all of one sign. Every gradient exists."""
    with Numerics(precision).layers():
        low = MobileNetV2(ALPHA, freeze_statistics=True)
    exact = MobileNetV2(ALPHA, freeze_statistics=True)
    pixels = tf.random.stateless_uniform((2, 32, 32, 3), [0, 1], -1, 1)
    for net in (low, exact):
        net(pixels)
        net.load_from(keras_model)
    with tf.GradientTape() as tape:
        maps = low(pixels, training=True)
    gradients = tape.gradient(maps, low.trainable_variables)
    assert maps.dtype == tf.as_dtype(precision)
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    expected = exact(pixels, training=True).numpy()
    error = np.linalg.norm(maps.numpy().astype(np.float32) - expected) / np.linalg.norm(expected)
    assert 0 < error < 52 * unit


def representation(**changes):
    hparams = {"image_size": 32, "backbone_alpha": ALPHA, **changes}
    return ObjectRepresentation(EncoderHParams(**hparams), num_classes=5)


def test_weights_file_reaches_both_encoders(keras_model, weights_file):
    objects = representation(pretrained_weights=str(weights_file))
    objects.load_pretrained()
    expected = keras_model.get_layer("block_16_project").get_weights()[0]
    for encoder in (objects.photo_encoder, objects.sketch_encoder):
        np.testing.assert_array_equal(encoder.backbone.convs()[-1].kernel, expected)


def refused(weights, alpha=ALPHA, backbone=None):
    backbone = backbone or MobileNetV2(alpha, freeze_statistics=True)
    with pytest.raises(UserError) as caught:
        read_weights(backbone, str(weights), image_size=96)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("imagenet", "path", "none"))
    return message


def test_missing_truncated_and_foreign_weights(weights_file, tmp_path):
    assert "there is no weights file" in refused(tmp_path / "nowhere.h5")
    broken = tmp_path / "broken.weights.h5"
    broken.write_bytes(weights_file.read_bytes()[:-100_000])
    refused(broken)
    text = tmp_path / "text.weights.h5"
    text.write_text("not an HDF5 file")
    assert "text.weights.h5" in refused(text)
    refused(weights_file, alpha=0.5)
    other = tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(2,))])
    other.save_weights(tmp_path / "other.weights.h5")
    refused(tmp_path / "other.weights.h5")


def test_weights_with_nan(keras_model, tmp_path):
    poisoned = tf.keras.models.clone_model(keras_model)
    poisoned.set_weights(keras_model.get_weights())
    kernel = poisoned.get_layer("Conv1").kernel
    kernel.assign(kernel * np.nan)
    poisoned.save_weights(tmp_path / "nan.weights.h5")
    assert "NaN" in refused(tmp_path / "nan.weights.h5")


def test_download_that_fails(monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure on https://storage... : None -- [Errno -2]")

    monkeypatch.setattr(tf.keras.applications, "MobileNetV2", offline)
    assert "could not be downloaded" in refused("imagenet")


@pytest.mark.parametrize(("kind", "side"), [(ResNet50V2, 32), (InceptionV3, 75)])
def test_keras_backbones(kind, side, weights_file, tmp_path):
    """Weights from a file, sketches tiled to three channels, and what frozen means."""
    source, backbone = (kind(1.0, freeze_statistics=True) for _ in range(2))
    draw = np.random.default_rng(0)
    for variable in source.net.weights:  # fresh statistics would hide mistakes
        if "normalization" in variable.name or "_bn" in variable.name:
            variable.assign(draw.uniform(0.8, 1.2, variable.shape))
    path = tmp_path / "drawn.weights.h5"
    keras_model = source.published(None)
    keras_model.set_weights(source.net.get_weights())
    keras_model.save_weights(path)
    backbone.load_from(read_weights(backbone, str(path), side))
    sketch = tf.random.stateless_uniform((2, side, side, 1), [0, 1])
    with tf.GradientTape() as tape:
        maps = backbone(sketch, training=True)
        loss = tf.reduce_mean(maps**2)
    expected = source.net(tf.tile(sketch, [1, 1, 1, 3]), training=False)
    assert maps.shape[-1] == 2048
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)
    # Frozen statistics: all else has its gradient.
    assert all(g is not None for g in tape.gradient(loss, backbone.trainable_variables))
    for ours, theirs in zip(backbone.net.weights, source.net.weights):
        np.testing.assert_array_equal(ours, theirs)

    # An optimizer's state is saved by the order of the variables: the same in every build.
    first, second = (
        [[w is v for w in b.net.weights].index(True) for v in b.trainable_variables]
        for b in (source, backbone)
    )
    assert first == second

    # Trained statistics: the first batch norm moves a tenth of the way to the batch's mean.
    backbone.freeze_statistics = False
    norms = [n for n in backbone.net.layers if isinstance(n, tf.keras.layers.BatchNormalization)]
    seen = tf.keras.Model(backbone.net.input, norms[0].input)(tf.tile(sketch, [1, 1, 1, 3]))
    target = 0.9 * norms[0].moving_mean.numpy() + 0.1 * seen.numpy().mean((0, 1, 2))
    backbone(sketch, training=True)
    np.testing.assert_allclose(norms[0].moving_mean, target, rtol=1e-3, atol=1e-5)
    assert all(
        np.any(n.moving_mean != source.net.get_layer(index=i).moving_mean)
        for i, n in enumerate(backbone.net.layers)
        if n in norms
    )

    assert kind.title in refused(weights_file, backbone=backbone)
    assert "there is no weights file" in refused(tmp_path / "nowhere.h5", backbone=backbone)


def test_real_weights(real_data):
    """The given ImageNet weights load, and the features of two photographs differ."""
    path = real_data / "weights" / "mobilenet_v2_1.0_imagenet_96_no_top.weights.h5"
    hparams = EncoderHParams(pretrained_weights=str(path))
    objects = ObjectRepresentation(hparams, num_classes=3)
    objects.load_pretrained()
    photographs = sorted((real_data / "coco-stuff" / "images" / "val2017").glob("*.jpg"))[:2]
    crops = [
        tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(str(p)), channels=3), (96, 96))
        for p in photographs
    ]
    pixels = tf.stack(crops) / 127.5 - 1.0
    theirs = tf.keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), include_top=False, weights=None
    )
    theirs.load_weights(path)
    cut = tf.keras.Model(theirs.input, theirs.get_layer("block_16_project_BN").output)
    expected = cut(pixels, training=False).numpy()
    features = objects.photo_encoder.backbone(pixels).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-3 * expected.std())
    pooled = features.mean((1, 2))
    assert np.linalg.norm(pooled[0] - pooled[1]) > 0.1 * np.linalg.norm(pooled[0])
