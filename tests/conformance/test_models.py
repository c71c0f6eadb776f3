"""Promises that every registered model must keep."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from core.model import ObjectEncoder
from core.registry import MODELS
from models.encoders import Encoder
from tests.models.helpers import batch_for, build, compiled_step, step_args

SCENES, OBJECTS, WHOLE = "graph-attention", "multidomain-representation", "whole-scene"
ALIGNED = "object-alignment"
GAN = {"g_mask_loss", "g_mask_sketch_loss", "d_mask_loss"}
CLASSIFIERS = {"photo_classifier", "sketch_classifier"}
ENCODER_CLASSES = {"enc_obj_clas_loss", "enc_sketch_clas_loss"}

# (model, hparams, losses no longer logged, parts of model.objects that nothing trains any more).
# The idle parts come from stage 1, which stage 2 takes over whole.
OPTIONS = (
    (OBJECTS, "", set(), set()),
    (OBJECTS, "use_focal_loss=True,use_euclidean_distance_map=True,batch_norm=frozen",
     set(), set()),
    (OBJECTS, "triplet_loss_weight=0", {"triplet_loss"}, {"representation", "projection"}),
    (OBJECTS, "pretrained_e_model=mobilenet2,backbone_alpha=0.1", set(), set()),
    (OBJECTS, "pretrained_e_model=resnet,backbone_alpha=1,batch_norm=frozen", set(), set()),
    (OBJECTS, "pretrained_e_model=inception,backbone_alpha=1,batch_norm=frozen,image_size=75",
     set(), set()),
    (OBJECTS, "encoder_training=last,batch_norm=auto", set(), set()),
    (OBJECTS, "encoder_training=frozen,batch_norm=auto", set(), set()),
    (ALIGNED, "", set(), set()),
    (ALIGNED, "contrastive_loss_weight=0,triplet_loss_weight=0",
     {"contrastive_loss", "triplet_loss"}, {"representation", "projection"}),
    (SCENES, "", set(), set()),
    (SCENES, "gconv_pooling=sum,gcn_activation=relu,use_pos_on_graph=True,mlp_normalization=batch,"
     "g_mask_norm=instance,d_layout_norm=none,use_lab_smooth=False,layout_d_arch=small",
     set(), set()),
    (SCENES, "use_pos_encoding=False,use_giou_loss=False,recon_on_sketch=False,g_mask_norm=none,"
     "use_sn_mask_dis=False,abbl_no_shuffled_negative=True,abbl_include_feat_loss=True",
     set(), set()),
    (SCENES, "abbl_skip_transformer=True", set(), set()),
    (SCENES, "abbl_skip_graph=True,retrieval_vector=projection", set(), set()),
    (SCENES, "abbl_no_skt_mask_loss=True,clas_on_final=False,abbl_mask_recon_loss=0",
     {"g_mask_sketch_loss", "end_clas_loss", "mask_recon_loss"}, set()),
    (SCENES, "abbl_clas_loss=0,abbl_triplet_loss=0",
     {*ENCODER_CLASSES, "obj_triplet_loss"}, {*CLASSIFIERS, "projection"}),
    (SCENES, "obj_emb_weight=0,abbl_no_mask_gan=True,no_global_contrastive=True",
     {*GAN, *ENCODER_CLASSES, "obj_triplet_loss", "global_triplet_loss"},
     {*CLASSIFIERS, "projection"}),
    (WHOLE, "", set(), set()),
    (WHOLE, "siamese=False,loss=infonce,flip=False,pseudo_share=0", set(), set()),
)  # fmt: skip

IMAGES = ("positives", "negatives", "crops", "negative_crops", "sketches")  # of both batch types


@pytest.fixture(params=MODELS.names())
def name(request):
    return request.param


@pytest.fixture(params=[name for name in MODELS if issubclass(MODELS[name], ObjectEncoder)])
def encoder(request):
    """Of the models that encode objects."""
    return request.param


def losses_of(step, batch, number=0, seed=0):
    return {key: float(value) for key, value in step(batch, *step_args(number, seed)).items()}


def test_declares_what_the_machinery_reads(name):
    model = build(name)
    assert model.name == name
    assert model.batch_type in ("TripletBatch", "SceneBatch")
    assert model.optimizers
    assert set(model.warm_start_parts()) == (
        {"objects"} if isinstance(model, ObjectEncoder) else set()
    )


@functools.lru_cache
def logged_by_default(name):
    model = build(name)
    return set(losses_of(model.train_step, batch_for(model)))


@pytest.mark.parametrize(
    ("name", "options", "ablated", "idle"),
    OPTIONS,
    ids=[f"{row[0]}: {row[1]}" for row in OPTIONS],
)
def test_one_step_changes_every_trainable_variable(name, options, ablated, idle):
    """Finite losses; what is ablated is not logged, and what nothing trains any more stays."""
    model = build(name, options, batch_norm="trained")
    batch = batch_for(model)
    before = [variable.numpy() for variable in model.trainable_variables]
    losses = losses_of(model.train_step, batch)
    assert all(np.isfinite(value) for value in losses.values()), losses
    more = {"g_mask_feat_loss"} if "abbl_include_feat_loss" in options else set()
    assert set(losses) == logged_by_default(name) - ablated | more

    still = {v.ref() for part in idle for v in getattr(model.objects, part).trainable_variables}
    assert len(still) == 2 * len(idle)  # each a Dense layer
    for old, variable in zip(before, model.trainable_variables):
        assert np.all(np.isfinite(variable.numpy())), variable.name
        changed = np.any(old != variable.numpy())
        assert changed != (variable.ref() in still), variable.name
    for key, optimizer in model.optimizers.items():
        assert int(optimizer.iterations) == 1, key


def test_every_option_has_a_row():
    """All hparams that choose between ways to compute, and every ablation."""
    for name in (OBJECTS, SCENES):
        tried = "".join(row[1] for row in OPTIONS if row[0] == name or name == SCENES)
        for field in dataclasses.fields(MODELS[name].HParams):
            chooses = isinstance(field.default, bool) or field.metadata["choices"]
            if chooses or field.name.startswith("abbl_"):
                assert f"{field.name}=" in tried, field.name


def test_each_image_is_encoded_once_a_step(encoder, monkeypatch):
    model, counts = build(encoder), []
    call = Encoder.call

    def counting(self, inputs, training=False):
        counts.append(inputs.shape[0])
        return call(self, inputs, training=training)

    monkeypatch.setattr(Encoder, "call", counting)
    batch = batch_for(model)
    model.train_step(batch, *step_args())
    images = {name: len(rows) for name, rows in batch._asdict().items() if name in IMAGES}
    assert sorted(counts) == sorted([images.pop("sketches"), sum(images.values())])


def test_frozen_statistics_stay(encoder):
    """Mask net and spectral norm move their state in training, the frozen encoders must not."""
    model = build(encoder, batch_norm="frozen")
    state = [v for v in model.objects.variables if not v.trainable]
    assert state
    before = [variable.numpy() for variable in state]
    model.train_step(batch_for(model), *step_args())
    for old, variable in zip(before, state):
        np.testing.assert_array_equal(old, variable.numpy())


def test_trained_statistics_move(encoder):
    model = build(encoder, batch_norm="trained")
    state = [v for v in model.objects.variables if not v.trainable]
    before = [variable.numpy() for variable in state]
    model.train_step(batch_for(model), *step_args())
    assert all(np.any(old != variable.numpy()) for old, variable in zip(before, state))


def test_eager_equals_function_and_no_retracing(name):
    """Two steps, eager and compiled; then other sizes through the same trace."""
    eager, compiled = build(name), build(name)
    first = batch_for(eager, 0)
    step = compiled_step(compiled, first)
    for number in range(2):
        a = losses_of(eager.train_step, first, number)
        b = losses_of(step, first, number)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=2e-4, abs=1e-5), key
    for seed in (1, 2):
        losses_of(step, batch_for(compiled, seed), 2 + seed)
    assert step.experimental_get_tracing_count() == 1


def test_randomness_is_seed_and_step(name):
    batch = batch_for(build(name))
    first = losses_of(build(name).train_step, batch, 5, seed=1)
    assert first == losses_of(build(name).train_step, batch, 5, seed=1)
    if name == "graph-attention":  # dropout and the discriminator's noisy targets
        other_step = losses_of(build(name).train_step, batch, 6, seed=1)
        other_seed = losses_of(build(name).train_step, batch, 5, seed=2)
        assert len({run["end_clas_loss"] for run in (first, other_step, other_seed)}) == 3
        assert len({run["d_mask_loss"] for run in (first, other_step, other_seed)}) == 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, "") for name in MODELS.names()),
        (SCENES, "abbl_skip_graph=True,abbl_skip_transformer=True,abbl_no_mask_gan=True"),
        (SCENES, "no_global_contrastive=True,abbl_clas_loss=0,clas_on_final=False"),
    ],
)
def test_saved_and_loaded_goes_on_alike(name, options, tmp_path):
    """A restored model gives the same second step: weights, statistics and optimizers are all in
    the checkpoint."""
    model, other = build(name, options), build(name, options)
    batch = batch_for(model)
    losses_of(model.train_step, batch, 0)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    after = losses_of(model.train_step, batch, 1)

    for variable in other.trainable_variables:
        variable.assign(variable + 1.0)
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    assert losses_of(other.train_step, batch, 1) == pytest.approx(after, rel=1e-6)
    assert [int(o.iterations) for o in other.optimizers.values()] == [
        int(o.iterations) for o in model.optimizers.values()
    ]


def test_overfits_one_batch(encoder):
    """Fifty steps on one batch take the total loss far down."""
    model = build(encoder, batch_norm="trained", learning_rate=2e-3, backbone_alpha=0.5)
    batch = batch_for(model, 1)
    step = compiled_step(model, batch)
    start = losses_of(step, batch)["total_loss"]
    for number in range(1, 60):
        step(batch, *step_args(number))
    end = losses_of(step, batch, 60)
    # What cannot be overfitted: masks of pure noise, and a game between two players.
    games = ("mask_recon_loss", "g_mask_loss", "g_mask_sketch_loss")
    rest = end["total_loss"] - sum(
        model.loss_weights()[key] * end[key] for key in games if key in end
    )
    assert rest < 0.25 * start, (start, end)


def test_stage_one_parts_fit_every_other_model(name):
    """Warm start copies by name: the parts must have equal variables."""
    first = build("multidomain-representation").warm_start_parts()
    parts = build(name).warm_start_parts()
    for key, part in parts.items():
        ours = [variable.shape for variable in part.variables]
        assert ours == [variable.shape for variable in first[key].variables]
