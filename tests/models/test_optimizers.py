"""Adam, clipping, the loss scale, learning rate schedules."""

import numpy as np
import pytest
import tensorflow as tf

from models.optimizers import FallingRate, adam, minimise


def test_falling_rate_by_hand():
    rate = FallingRate(1e-4, 1000)
    # 1 - 0.9 t / T, never below 0.2 (reached at t = 8/9 T)
    for step, expected in ((0, 1.0), (500, 0.55), (1000, 0.2), (5000, 0.2)):
        assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(1e-4 * expected)


def built(optimizer, *values):
    """The optimizer with variables of these values."""
    variables = [tf.Variable(value, dtype=tf.float32) for value in values]
    optimizer.build(variables)
    return optimizer, variables


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_equal_those_of_keras(decay):
    """Ten steps of Adam and AdamW on the same gradients, dense and of rows looked up, one of them
    twice."""
    start = np.random.default_rng(0).normal(size=(4, 3))
    draws = np.random.default_rng(1).normal(size=(10, 4, 3)).astype(np.float32)
    ours, (dense, rows) = built(
        adam(FallingRate(0.1, 10), 0.5, 0.99, weight_decay=decay), start, start
    )
    for draw in draws:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(draw * dense)
            loss += tf.reduce_sum(draw[:3] * tf.gather(rows, [2, 0, 2]))
        minimise(ours, loss, tape, [dense, rows], scale_loss=False)
    kind = tf.keras.optimizers.AdamW if decay else tf.keras.optimizers.Adam
    options = {"weight_decay": decay} if decay else {}
    keras = kind(FallingRate(0.1, 10), beta_1=0.5, beta_2=0.99, jit_compile=False, **options)
    theirs, expected = built(keras, start, start)
    for draw in draws:
        of_rows = np.stack([draw[1], 0 * draw[0], draw[0] + draw[2], 0 * draw[0]])
        theirs.apply_gradients(zip([tf.constant(draw), tf.constant(of_rows)], expected))
    assert int(ours.iterations) == 10
    for mine, other in zip([dense, rows, *ours.variables], [*expected, *theirs.variables]):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("clip_norm", "gradients"), [(5.0, (3.0, 4.0)), (20.0, (6.0, 8.0)), (0.0, (6.0, 8.0))]
)
def test_clipping_by_hand(clip_norm, gradients):
    """Gradients: 3 twice at one row of the first, so 6, and 8: of norm 10 together. Adam's first
    moments after a step are half of what it was given."""
    optimizer, (rows, other) = built(adam(0.1, 0.5, 0.99, clip_norm), [0.0, 0.0], 0.0)
    with tf.GradientTape() as tape:
        loss = 3.0 * tf.reduce_sum(tf.gather(rows, [1, 1])) + 8.0 * other
    minimise(optimizer, loss, tape, [rows, other], scale_loss=False)
    moments = [variable.numpy() for variable in optimizer.variables if variable.name[:2] == "m/"]
    rounding = 1e-6 if clip_norm else 0.0  # exactly the gradients where none are clipped
    np.testing.assert_allclose(moments[0], [0.0, gradients[0] / 2], rtol=rounding)
    np.testing.assert_allclose(moments[1], gradients[1] / 2, rtol=rounding)


def stepped(scale_loss, *gradients, clip_norm=0.0):
    """Optimizer and variables, from (1, 2), after steps of these pairs of gradients."""
    optimizer, variables = built(adam(0.1, 0.5, 0.99, clip_norm), 1.0, 2.0)
    for pair in gradients:
        with tf.GradientTape() as tape:
            loss = tf.add_n([g * v for g, v in zip(pair, variables)])
        minimise(optimizer, loss, tape, variables, scale_loss)
    return optimizer, variables


def values(optimizer, variables):
    return [v.numpy() for v in (*variables, *optimizer.variables)]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_loss_scale_changes_no_step(bad):
    """Scaling by a power of two and back is exact; a step with a gradient that is not finite
    leaves variables, moments and the count as they were, and halves the scale from 2^15."""
    plain = stepped(False, (3.0, -0.7), (0.1, 1e-3))
    scaled = stepped(True, (3.0, -0.7), (bad, 1.0), (0.1, 1e-3))
    assert values(*plain) == values(*scaled)
    assert int(scaled[0].iterations) == 2
    assert [float(each[0].loss_scale) for each in (plain, scaled)] == [2.0**15, 2.0**14]


def test_clipping_comes_after_unscaling():
    """Norm 5, clipped to 1: as in float32."""
    scaled, plain = (stepped(scale, (3.0, 4.0), clip_norm=1.0) for scale in (True, False))
    assert values(*scaled) == values(*plain)
