"""Encoders from files against the files themselves, and files that are none."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from core import checkpoints, hparams
from core.checkpoints import Checkpoints
from core.errors import UserError
from core.run import Run
from core.run_folder import HParamGroups, RunConfig
from models.encoder_files import read_encoder
from models.encoders import Encoder, EncoderHParams, ObjectRepresentation
from tests.models.helpers import SIDE, batch_for, build, images, step_args

layers = tf.keras.layers


@pytest.fixture(scope="module")
def network():
    """Two convolutions with batch norm, pooled to 6 values; every variable drawn."""
    model = tf.keras.Sequential(
        [
            layers.Input((None, None, 3)),
            layers.Conv2D(4, 3, strides=4, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, strides=2),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
        ]
    )
    draw = np.random.default_rng(0)
    model.set_weights([draw.uniform(0.2, 0.8, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The network in the forms that are taken."""
    folder = tmp_path_factory.mktemp("encoders")
    places = {"saved_model": "net", "keras": "net.keras", "h5": "net.h5"}
    for place in places.values():
        network.save(folder / place)
    return {kind: str(folder / place) for kind, place in places.items()}


def hparams_of(path, trains="frozen", **changes):
    named = {"pretrained_e_model": "saved_model", "encoder": path, "encoder_training": trains}
    return {"image_size": SIDE, **named, **changes}


def stage_one(path, trains, **changes):
    base = {"backbone_alpha": 1.0, "pretrained_weights": "imagenet", "batch_norm": "auto"}
    changes = hparams_of(path, trains, **base, **changes)
    return build("multidomain-representation", learning_rate=1e-2, **changes)


@pytest.mark.parametrize("kind", ["saved_model", "keras", "h5"])
def test_features_are_those_of_the_file(kind, files, network):
    """Of photographs in [0, 1], of drawings in three equal channels; both domains share one."""
    objects = ObjectRepresentation(EncoderHParams(**hparams_of(files[kind])), num_classes=5)
    objects.load_pretrained()  # reads nothing more
    assert objects.photo_encoder.backbone is objects.sketch_encoder.backbone
    for encoder, channels in ((objects.photo_encoder, 3), (objects.sketch_encoder, 1)):
        pixels = images(np.random.default_rng(1), 3, channels)
        expected = network(np.repeat(pixels / 255, 3 // channels, axis=3), training=False)
        features = encoder.features(pixels, training=True)
        np.testing.assert_allclose(features, expected, rtol=1e-4)
        np.testing.assert_allclose(encoder(features), encoder(pixels), rtol=1e-5)  # from a cache


@pytest.mark.parametrize(
    ("kind", "trains", "moved"),
    [
        ("saved_model", "all", [0, 1, 2, 3, 6, 7, 8, 9]),
        ("saved_model", "last", [6, 7, 8, 9]),
        ("saved_model", "frozen", []),
        ("keras", "last", [6, 7, 8, 9]),
        ("keras", "frozen", []),
    ],
)
def test_what_learns(kind, trains, moved, files, network):
    """Kernel, bias, gamma and beta of two convolutions; never the statistics at 4, 5, 10, 11. The
    optimizer has two slots for each, in each domain, and for the heads."""
    model = stage_one(files[kind], trains, adapter_size=3)
    batch = batch_for(model)
    for step in range(2):  # an adapter's first layer waits for its second, which starts at zero
        model.train_step(batch, *step_args(step))
    heads = 2 * (2 + 1) + 2 * 2 + 2 * 2 + 2 * 4  # Dense of heads, shared net, classifiers, adapters
    assert len(model.main_variables()) == heads + 2 * len(moved)
    slots = [v for v in model.optimizers["main"].variables if v.name.startswith(("m/", "v/"))]
    assert len(slots) == 2 * len(model.main_variables())
    before = network.get_weights()
    for encoder in (model.objects.photo_encoder, model.objects.sketch_encoder):
        after = [v.numpy() for v in encoder.backbone.variables]
        after.sort(key=lambda w: min(i for i, b in enumerate(before) if b.shape == w.shape))
        assert all(np.any(v != 0) for v in encoder.adapter.trainable_variables)
        found = [
            i for i, old in enumerate(before) if not any(np.array_equal(old, new) for new in after)
        ]
        assert found == moved


def test_an_adapter_begins_as_the_identity():
    features = tf.constant([[1.0, -2.0]])
    encoder = Encoder(tf.keras.layers.Layer(), [2], tf.identity, adapter_size=1)
    before = encoder(features)
    np.testing.assert_allclose(before, features @ encoder.head.dense[0].kernel, rtol=1e-6)
    encoder.adapter.down.kernel.assign([[3.0], [1.0]])  # 3 - 2 = 1
    encoder.adapter.up.kernel.assign([[0.5, 4.0]])
    changed = tf.constant([[1.5, 2.0]])
    np.testing.assert_allclose(encoder(features), changed @ encoder.head.dense[0].kernel, rtol=1e-6)


def test_stage_two_starts_from_a_moved_encoder_but_from_no_other(files, network, tmp_path):
    first = stage_one(files["saved_model"], "frozen")
    saved = Checkpoints(tmp_path / "checkpoints").save(first, 0, permanent=True)
    moved = shutil.copytree(files["saved_model"], tmp_path / "moved")
    shapes = {"backbone_alpha": 1.0, "pretrained_weights": "imagenet", "batch_norm": "auto"}
    second = build("graph-attention", **hparams_of(str(moved), **shapes))
    second.objects.photo_encoder.backbone.variables[0].assign_add(1.0 + tf.zeros((3, 3, 3, 4)))
    checkpoints.warm_start(second, saved, "multidomain-representation")
    crops = images(np.random.default_rng(0), 2, 3)
    np.testing.assert_array_equal(
        first.embed_photos(crops).vector, second.embed_photos(crops).vector
    )
    assert "encoder" in second.warm_start_may_differ

    rest = [layers.Input((None, None, 3)), *network.layers[:-1], layers.GlobalMaxPooling2D()]
    tf.keras.Sequential(rest).save(tmp_path / "other")  # equal variables, another graph
    with pytest.raises(UserError, match="is not the one that was trained with"):
        checkpoints.load(stage_one(str(tmp_path / "other"), "frozen"), saved)


def test_a_run_opens_with_its_encoder(files, tmp_path):
    """An encoder is found at its path, or at the one given when the run is opened."""
    place = shutil.copytree(files["saved_model"], tmp_path / "net")
    model = stage_one(str(place), "frozen")
    loader = "quickdraw-cococrops-tf"
    groups = HParamGroups(
        hparams.to_dict(hparams.BaseHParams()),
        hparams.to_dict(model.hparams),
        {loader: {"qdraw_dir": "/drawings", "crops_dir": "/crops"}},
    )
    RunConfig(model.name, loader, groups).write(tmp_path / "config.json")
    Checkpoints(tmp_path / "checkpoints").save(model, 3, permanent=True)
    place.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"there is no encoder .*encoder=PATH"):
        Run.open(tmp_path)
    run = Run.open(tmp_path, model_hparams=f"encoder={tmp_path / 'moved'}")
    crops = images(np.random.default_rng(0), 2, 3)
    np.testing.assert_array_equal(
        run.model.embed_photos(crops).vector, model.embed_photos(crops).vector
    )


class Exported(tf.Module):
    """A module to save with a signature of images alone."""

    def __init__(self, function, shape, dtype=tf.float32):
        super().__init__()
        self.scale = tf.Variable(2.0)
        self.serve = tf.function(
            lambda images: {"features": function(images) * self.scale},
            input_signature=[tf.TensorSpec(shape, dtype, "images")],
        )

    def save(self, folder):
        tf.saved_model.save(self, folder, signatures=self.serve)


def pooled(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])


ANY = (None, None, None, 3)


def test_a_signature_is_enough_when_frozen(tmp_path):
    Exported(pooled, ANY).save(tmp_path)
    pixels = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    encoder = read_encoder(str(tmp_path), SIDE, "frozen")
    np.testing.assert_allclose(encoder(pixels), 2 * pixels.mean((1, 2)), rtol=1e-5)
    with pytest.raises(UserError, match="encoder_training=frozen"):
        read_encoder(str(tmp_path), SIDE, "last")


@pytest.mark.parametrize(
    ("function", "shape", "dtype", "message"),
    [
        (pooled, ANY, tf.uint8, r"is images uint8 \(None, None, None, 3\) -> features float32"),
        (pooled, (1, None, None, 3), tf.float32, r"an encoder is float32 \(N, H, W, 3\)"),
        (tf.reduce_sum, ANY, tf.float32, "export it as an image feature vector"),
        (pooled, (None, 48, 48, 3), tf.float32, f"give image_size=48, not {SIDE}"),
        (
            lambda x: pooled(tf.reshape(x, (-1, 48, 48, 3))),
            ANY,
            tf.float32,
            f"does not take images of {SIDE} pixels a side .*give image_size",
        ),
        (lambda x: tf.math.log(pooled(x) - 2), ANY, tf.float32, "gives NaN or infinity"),
    ],
    ids=["bytes", "one image", "no vector", "fixed side", "side within", "NaN"],
)
def test_another_kind_of_saved_model(function, shape, dtype, message, tmp_path):
    Exported(function, shape, dtype).save(tmp_path)
    refused(tmp_path, message)


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        read_encoder(str(path), SIDE, "frozen")
    assert "\n" not in str(caught.value)


def test_what_is_no_encoder(files, network, tmp_path):
    refused(tmp_path / "nowhere", "there is no encoder .*encoder=PATH")
    refused(tmp_path, "in which saved_model.pb lies")
    (tmp_path / "saved_model.pb").write_bytes(b"not a SavedModel")
    refused(tmp_path, "cannot be read")
    tf.saved_model.save(tf.Module(), tmp_path / "bare")
    refused(tmp_path / "bare", "neither a function of images nor a serving_default")
    network.save_weights(tmp_path / "only.weights.h5")
    refused(tmp_path / "only.weights.h5", "not its weights alone")
    code = tf.keras.Sequential([layers.Input((SIDE, SIDE, 3)), layers.Lambda(lambda x: x + 1)])
    for name in ("code.h5", "code.keras"):
        code.save(tmp_path / name)
        refused(tmp_path / name, "Lambda")


def test_the_real_encoder(real_data):
    """At its own size: features as the file itself gives them."""
    path = real_data / "weights" / "imagenet_encoder"
    encoder = read_encoder(str(path), 224, "frozen")
    photographs = sorted((real_data / "coco-stuff" / "images" / "val2017").glob("*.jpg"))[:2]
    pixels = tf.stack(
        [
            tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(str(p)), channels=3), (224, 224))
            for p in photographs
        ]
    )
    features = encoder(pixels / 255).numpy()
    assert features.shape == (2, 1280)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(
        features, tf.saved_model.load(str(path))(pixels / 255, training=False), rtol=1e-5
    )
    refused(real_data / "weights" / "coco_detector", "is input_tensor uint8")
