"""Backbones against Keras' own, and weights that cannot be had."""

import numpy as np
import pytest
import tensorflow as tf

from core.errors import HParamError, UserError
from models import encoders
from models.encoders import (
    EncoderHParams,
    MobileNetV2,
    ObjectRepresentation,
    read_mobilenet_weights,
)
from models.graph_attention import GraphAttentionHParams
from tests.models.helpers import build, images, triplet_batch

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


def representation(**changes):
    hparams = {"image_size": 32, "backbone_alpha": ALPHA, **changes}
    return ObjectRepresentation(EncoderHParams(**hparams), num_classes=5)


def test_weights_file_reaches_both_encoders(keras_model, weights_file):
    objects = representation(pretrained_weights=str(weights_file))
    objects.load_pretrained()
    expected = keras_model.get_layer("block_16_project").get_weights()[0]
    for encoder in (objects.photo_encoder, objects.sketch_encoder):
        np.testing.assert_array_equal(encoder.backbone.convs()[-1].kernel, expected)


def refused(weights, alpha=ALPHA):
    with pytest.raises(UserError) as caught:
        read_mobilenet_weights(str(weights), alpha, image_size=96)
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


def test_none_reads_nothing():
    representation(pretrained_weights="none").load_pretrained()


@pytest.mark.parametrize(
    ("batch_norm", "weights", "frozen"),
    [
        ("auto", "imagenet", True),
        ("auto", "some/file.h5", True),
        ("auto", "none", False),
        ("frozen", "none", True),
        ("trained", "imagenet", False),
    ],
)
def test_one_hparam_decides_on_batch_norm(batch_norm, weights, frozen):
    hparams = EncoderHParams(batch_norm=batch_norm, pretrained_weights=weights)
    assert hparams.freeze_statistics == frozen


def test_rules_between_hparams():
    with pytest.raises(HParamError, match="pretrained_weights=none"):
        EncoderHParams(pretrained_e_model="shallow")
    with pytest.raises(HParamError, match="does not divide"):
        GraphAttentionHParams(g_enc_n_heads=7)


def test_embeddings_have_norm_one_and_images_are_scaled():
    model = build("multidomain-representation")
    crops = images(np.random.default_rng(0), 4, 3)
    encoded = model.embed_photos(crops)
    np.testing.assert_allclose(np.linalg.norm(encoded.embedding, axis=1), 1, rtol=1e-5)
    assert encoded.logits.shape == (4, 7)
    seen = []
    model.objects.photo_encoder.backbone = lambda pixels, training: seen.append(pixels) or pixels
    model.objects.sketch_encoder.backbone = lambda pixels, training: seen.append(pixels) or pixels
    ends = tf.constant([0, 255], tf.uint8)[:, None, None, None]
    for encoder, channels in (
        (model.objects.photo_encoder, 3),
        (model.objects.sketch_encoder, 1),
    ):
        encoder.head = tf.identity
        encoder(tf.tile(ends, [1, 2, 2, channels]))
    assert [float(pixels[i, 0, 0, 0]) for pixels in seen for i in (0, 1)] == [-1, 1, 0, 1]


def test_each_image_is_encoded_once_a_step(monkeypatch):
    model, batch = build("multidomain-representation"), triplet_batch(0, 3)
    counts = []
    call = encoders.Encoder.call

    def counting(self, inputs, training=False):
        counts.append((int(inputs.shape[0]), int(inputs.shape[-1])))
        return call(self, inputs, training=training)

    monkeypatch.setattr(encoders.Encoder, "call", counting)
    model.forward(batch, training=True)
    assert sorted(counts) == [(3, 1), (6, 3)]


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
