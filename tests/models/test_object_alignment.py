"""Stage 1 on frozen encoders."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from core import cli
from core.errors import UserError
from core.model import EncodedObjects
from core.run import Run
from core.run_settings import HParamFlags, Settings
from models.multidomain import Outputs
from tests.dataloaders import tiny_sets
from tests.models.helpers import CLASSES, SMALL, build, step_args, triplet_batch

FROZEN = {**SMALL, "encoder_training": "frozen", "adapter_size": 8}


def aligned(**changes):
    return build("object-alignment", **{**FROZEN, **changes})


def features_of(model, batch):
    photos, sketches = (encoder.encode for encoder in model.frozen_encoders())
    return batch._replace(
        sketches=sketches(batch.sketches),
        positives=photos(batch.positives),
        negatives=photos(batch.negatives),
    )


def test_features_train_as_their_images_do():
    batch = triplet_batch(0, 4)
    seen, read = aligned(), aligned()
    features = features_of(read, batch)
    for step in range(2):
        a, b = seen.train_step(batch, *step_args(step)), read.train_step(features, *step_args(step))
        for name, value in a.items():
            assert float(value) == pytest.approx(float(b[name]), rel=1e-4), name
    found = read.embed_photos(features.positives), read.embed_sketches(features.sketches)
    for a, b in zip(
        found, (read.embed_photos(batch.positives), read.embed_sketches(batch.sketches))
    ):
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)


def test_nothing_of_the_backbone_is_trained_or_on_the_tape():
    model, batch = aligned(), triplet_batch(0, 4)
    backbone = model.objects.photo_encoder.backbone
    with tf.GradientTape() as tape:
        features = model.objects.photo_encoder.features(batch.positives)
        total = tf.reduce_sum(features)
    assert tape.watched_variables() == ()
    assert tape.gradient(total, backbone.variables) == [None] * len(backbone.variables)
    before = [variable.numpy() for variable in backbone.variables]
    model.train_step(batch, *step_args())
    for old, variable in zip(before, backbone.variables):
        np.testing.assert_array_equal(old, variable)


def test_losses_by_hand():
    """A sketch to the north, its pseudo-drawing to the east, its crop to the east, another class's
    to the west; temperature 1, uniform logits."""
    model = aligned(pseudo_loss_weight=1.0, temperature=1.0)
    north, east, west = ([[0.0, 1.0]], [[1.0, 0.0]], [[-1.0, 0.0]])

    def side(*rows):
        embedding = tf.concat(rows, axis=0)
        return EncodedObjects(embedding, embedding, tf.zeros((len(rows), CLASSES)))

    named = model.compute_losses(
        Outputs(side(north, east), side(east), side(west)), triplet_batch(0, 1)
    )
    # Drawings to crops: similarities (0, 0) of the sketch, (1, -1) of the pseudo-drawing, the first
    # is right. The crop to drawings: (0, 1), both are right.
    to_crops = (math.log(2) + math.log(math.e + 1 / math.e) - 1) / 2
    to_drawings = math.log(1 + math.e) - 0.5
    assert float(named["contrastive_loss"]) == pytest.approx((to_crops + to_drawings) / 2)
    assert float(named["pseudo_clas_loss"]) == pytest.approx(math.log(CLASSES))
    assert float(named["enc_sketch_clas_loss"]) == pytest.approx(math.log(CLASSES))
    assert float(named["triplet_loss"]) == pytest.approx(2 - 2 + 0.5)  # of the sketch alone


def test_pseudo_drawings_come_from_the_loader():
    model, batch = aligned(pseudo_loss_weight=0.5), triplet_batch(0, 3)
    with pytest.raises(UserError, match="pseudo_drawings="):
        model.train_step(batch, *step_args())
    features = features_of(model, batch)
    features = features._replace(pseudo_sketches=features.positives[::-1])
    losses = model.train_step(features, *step_args())
    assert all(math.isfinite(value) for value in losses.values())
    assert "pseudo_clas_loss" in losses


def test_trained_evaluated_and_taken_over_by_stage_2(tmp_path):
    """From cached features to a run of stage 2; the cache is made once."""
    sets = tiny_sets.write_all(tmp_path / "sets", scenes=8)
    hparams = ",".join(f"{name}={value}" for name, value in FROZEN.items())
    data = f"qdraw_dir={sets.quickdraw},crops_dir={sets.crops},cache_dir={tmp_path}/cache"
    out = ["-o", str(tmp_path), "--id", "01"]
    base = "batch_size=8,slack_config=,log_every=1"
    cli.train(
        ["object-alignment", "--data-loader", "quickdraw-cococrops-features", *out,
         "--hparams", f"{hparams},pseudo_loss_weight=1",
         "--base-hparams", f"{base},iterations=2,notify_every=2",
         "--data-hparams", f"{data},pseudo_drawings=2"]
    )  # fmt: skip
    root = tmp_path / "object-alignment-01"
    (line,) = map(json.loads, (root / "figures.jsonl").read_text().splitlines())
    assert {figure["metric"] for figure in line["figures"]} == {
        "embedding-obj-accuracy",
        "embedding-skt-accuracy",
    }
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.tfrecord")}
    cli.evaluate(["object-alignment", *out, "--metrics", "embedding-obj-accuracy"])
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.tf*")}

    flags = HParamFlags(
        "batch_size=2",
        f"{hparams},pt_mdomain_model=object-alignment,pt_mdomain_id=01,mask_width=8",
        f"coco_dir={sets.scenes},crops_dir={sets.crops},qdraw_dir={sets.indexed}",
    )
    settings = Settings.merge("graph-attention", "coco-tfrecord", flags, None)
    stage_2 = Run.for_training(settings, settings.open_dataset(), None, tmp_path)
    trained = Run.open(root).model.objects
    for ours, theirs in zip(stage_2.model.objects.variables, trained.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
