"""What every registered model must do."""

import numpy as np
import pytest
import tensorflow as tf

from core.registry import MODELS
from tests.models.helpers import batch_for, build, compiled_step, step_args

# Variables whose gradient is zero by arithmetic, by a part of their name, with the reason. None.
ANALYTIC_ZEROS: tuple[str, ...] = ()


@pytest.fixture(params=MODELS.names())
def name(request):
    return request.param


def losses_of(step, batch, number=0, seed=0):
    return {key: float(value) for key, value in step(batch, *step_args(number, seed)).items()}


def test_declares_what_the_machinery_reads(name):
    model = build(name)
    assert model.name == name
    assert model.batch_type in ("TripletBatch", "SceneBatch")
    assert model.optimizers
    assert set(model.warm_start_parts()) == {"objects"}


def test_one_step_changes_every_trainable_variable(name):
    model = build(name, batch_norm="trained")
    batch = batch_for(model)
    before = [variable.numpy() for variable in model.trainable_variables]
    losses = losses_of(model.train_step, batch)
    assert all(np.isfinite(value) for value in losses.values()), losses
    for old, variable in zip(before, model.trainable_variables):
        assert np.all(np.isfinite(variable.numpy())), variable.name
        changed = np.any(old != variable.numpy())
        expected = not any(part in variable.name for part in ANALYTIC_ZEROS)
        assert changed == expected, variable.name
    for key, optimizer in model.optimizers.items():
        assert int(optimizer.iterations) == 1, key


def test_frozen_statistics_stay(name):
    """Mask net and spectral norm move their state in training, the frozen encoders must not."""
    model = build(name, batch_norm="frozen")
    state = [v for v in model.objects.variables if not v.trainable]
    assert state
    before = [variable.numpy() for variable in state]
    model.train_step(batch_for(model), *step_args())
    for old, variable in zip(before, state):
        np.testing.assert_array_equal(old, variable.numpy())


def test_trained_statistics_move(name):
    model = build(name, batch_norm="trained")
    state = [v for v in model.objects.variables if not v.trainable]
    before = [variable.numpy() for variable in state]
    model.train_step(batch_for(model), *step_args())
    assert all(np.any(old != variable.numpy()) for old, variable in zip(before, state))


def test_eager_equals_function_and_no_retracing(name):
    """The same two steps, eager and compiled; then other sizes through the same trace."""
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
    other_step = losses_of(build(name).train_step, batch, 6, seed=1)
    other_seed = losses_of(build(name).train_step, batch, 5, seed=2)
    if name == "graph-attention":  # dropout and the discriminator's noisy targets
        assert len({run["end_clas_loss"] for run in (first, other_step, other_seed)}) == 3
        assert len({run["d_mask_loss"] for run in (first, other_step, other_seed)}) == 3


def test_saved_and_loaded_goes_on_alike(name, tmp_path):
    """A restored model gives the same second step: weights, statistics and optimizers are all in
    the checkpoint."""
    model, batch = build(name), batch_for(build(name))
    losses_of(model.train_step, batch, 0)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    after = losses_of(model.train_step, batch, 1)

    other = build(name)
    for variable in other.trainable_variables:
        variable.assign(variable + 1.0)
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    assert losses_of(other.train_step, batch, 1) == pytest.approx(after, rel=1e-6)
    assert [int(o.iterations) for o in other.optimizers.values()] == [
        int(o.iterations) for o in model.optimizers.values()
    ]


def test_overfits_one_batch(name):
    """Fifty steps on one batch take the total loss far down."""
    model = build(name, batch_norm="trained", learning_rate=2e-3, backbone_alpha=0.5)
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
