"""Inputs and outputs of the encoders, and the rules between their hparams."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import distance_transform_edt

from core.errors import HParamError
from models.encoders import EncoderHParams, ObjectRepresentation, distance_map
from models.graph_attention import GraphAttentionHParams
from tests.models.helpers import build, images


def test_none_reads_nothing():
    hparams = EncoderHParams(image_size=32, backbone_alpha=0.35, pretrained_weights="none")
    ObjectRepresentation(hparams, num_classes=5).load_pretrained()


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


FILE = {"pretrained_e_model": "saved_model", "encoder": "/net"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained_e_model": "shallow"}, "pretrained_weights=none"),
        ({"pretrained_e_model": "inception", "image_size": 74}, "at least 75 pixels"),
        ({"pretrained_e_model": "resnet", "image_size": 31}, "at least 32 pixels"),
        ({"pretrained_e_model": "resnet", "backbone_alpha": 0.5}, "leave out backbone_alpha=0.5"),
        ({"pretrained_e_model": "saved_model"}, "needs encoder=PATH"),
        ({"encoder": "/net"}, "encoder=/net is read with pretrained_e_model=saved_model only"),
        ({**FILE, "pretrained_weights": "none"}, "leave out pretrained_weights=none"),
        ({**FILE, "backbone_alpha": 0.5}, "leave out backbone_alpha=0.5"),
        ({**FILE, "batch_norm": "trained"}, "batch_norm=trained needs a named backbone"),
        ({"encoder_training": "last", "batch_norm": "trained"}, "with encoder_training=all"),
        ({"g_enc_n_heads": 7}, "does not divide"),
        ({"no_global_contrastive": True, "retrieval_vector": "projection"}, "no projection"),
        ({"no_global_contrastive": True, "abbl_skip_transformer": True}, "nothing to train"),
        ({"abbl_no_mask_gan": True, "abbl_include_feat_loss": True}, "give one of them"),
        ({"abbl_no_mask_gan": True, "abbl_mask_recon_loss": 0.0}, "nothing to train the masks"),
    ],
)
def test_rules_between_hparams(changes, message):
    with pytest.raises(HParamError, match=message):
        GraphAttentionHParams(**changes)


def drawings() -> np.ndarray:
    """uint8 (3, 40, 40, 1): scattered points, one grey line and one light line, a blank sheet."""
    sheets = np.full((3, 40, 40, 1), 255, np.uint8)
    sheets[0][np.random.default_rng(0).random((40, 40, 1)) < 0.01] = 0
    sheets[1, 5:30, 12], sheets[1, 35, 2:30] = 127, 128
    return sheets


def test_distance_map_equals_scipy():
    """In batches of any size, compiled; half a side is 20 pixels."""
    spec = [tf.TensorSpec((None, 40, 40, 1), tf.uint8)]
    maps = tf.function(distance_map, input_signature=spec)(drawings()).numpy()
    for sheet, made in zip(drawings()[:2], maps):
        expected = np.minimum(distance_transform_edt(sheet[..., 0] >= 128) / 20, 1)
        assert expected.max() > 0.4
        np.testing.assert_allclose(made[..., 0], expected, atol=1e-6)
    np.testing.assert_array_equal(maps[2], 1)  # no line anywhere


def test_distance_map_by_hand():
    sheet = np.full((1, 8, 8, 1), 255, np.uint8)
    sheet[0, 0, 0] = 0
    made = distance_map(tf.constant(sheet))[0, ..., 0]
    # of half a side, 4 px: 3 px down, 4 px across; sqrt(2^2 + 2^2); too far
    assert float(made[0, 0]) == 0
    assert float(made[3, 0]) == 0.75
    assert float(made[2, 2]) == pytest.approx(8**0.5 / 4)
    assert float(made[0, 4]) == float(made[7, 7]) == 1


def test_distance_maps_reach_the_sketch_encoder_alone():
    drawn, mapped = (
        build("multidomain-representation", use_euclidean_distance_map=on) for on in (False, True)
    )
    sketches = images(np.random.default_rng(0), 2, 1)
    assert np.any(drawn.embed_sketches(sketches).vector != mapped.embed_sketches(sketches).vector)
    crops = images(np.random.default_rng(0), 2, 3)
    np.testing.assert_array_equal(
        drawn.embed_photos(crops).vector, mapped.embed_photos(crops).vector
    )
    # Stage 2 takes these encoders over, so it must show them the same.
    assert "use_euclidean_distance_map" in GraphAttentionHParams.__dataclass_fields__
    assert "use_euclidean_distance_map" not in type(drawn).warm_start_may_differ


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
