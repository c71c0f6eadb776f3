"""Stage 1: losses of whole batches, learning rate, optimizer."""

import numpy as np
import pytest
import tensorflow as tf

from models.encoders import Encoded
from models.multidomain import Outputs
from models.optimizers import FallingRate, FusedAdam
from tests.models.helpers import CLASSES, build, step_args, triplet_batch


def test_falling_rate_by_hand():
    rate = FallingRate(1e-4, 1000)
    # 1 - 0.9 t / T, never below 0.2 (reached at t = 8/9 T)
    for step, expected in ((0, 1.0), (500, 0.55), (1000, 0.2), (5000, 0.2)):
        assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(1e-4 * expected)


def test_fused_adam_equals_keras():
    """Ten steps on the same gradients, dense and of embedding rows."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    results = []
    for optimizer in (
        FusedAdam(FallingRate(0.1, 10), 0.5, 0.99),
        tf.keras.optimizers.Adam(FallingRate(0.1, 10), 0.5, 0.99, jit_compile=False),
    ):
        variables = [tf.Variable(start), tf.Variable(start)]
        optimizer.build(variables)
        draws = np.random.default_rng(1)
        for _ in range(10):
            dense = tf.constant(draws.normal(size=(4, 3)), tf.float32)
            rows = tf.IndexedSlices(dense[:2], tf.constant([2, 0]), tf.constant([4, 3]))
            optimizer.apply_gradients(zip([dense, rows], variables))
        assert int(optimizer.iterations) == 10
        results.append([*variables, *optimizer.variables])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_weighted_losses_by_hand():
    """Uniform logits give ln K each; embeddings at right angles give known distances."""
    model, batch = build("multidomain-representation"), triplet_batch(0, 2)
    flat = tf.zeros((2, CLASSES))
    east, north = (tf.constant([[x, y]] * 2, tf.float32) for x, y in ((1, 0), (0, 1)))
    sides = [Encoded(flat, embedding, flat) for embedding in (east, north, east)]
    named = model.compute_losses(Outputs(*sides), batch)
    assert float(named["enc_sketch_clas_loss"]) == pytest.approx(np.log(CLASSES))
    assert float(named["enc_obj_clas_loss"]) == pytest.approx(np.log(CLASSES))  # 0.5 + 0.5
    assert float(named["triplet_loss"]) == pytest.approx(2 - 0 + 0.5)


def test_focal_classes_by_hand():
    """Uniform logits: p = 1/K, so ln K times (1 - 1/K)^2."""
    model = build("multidomain-representation", use_focal_loss=True)
    flat = Encoded(tf.zeros((2, 4)), tf.zeros((2, 4)), tf.zeros((2, CLASSES)))
    named = model.compute_losses(Outputs(flat, flat, flat), triplet_batch(0, 2))
    expected = pytest.approx((1 - 1 / CLASSES) ** 2 * np.log(CLASSES))
    assert float(named["enc_sketch_clas_loss"]) == expected
    assert float(named["enc_obj_clas_loss"]) == expected


def test_total_is_the_weighted_sum():
    model = build("multidomain-representation", triplet_loss_weight=3.0)
    losses = {k: float(v) for k, v in model.train_step(triplet_batch(0, 4), *step_args()).items()}
    expected = (
        losses["enc_obj_clas_loss"] + losses["enc_sketch_clas_loss"] + 3 * losses["triplet_loss"]
    )
    assert losses["total_loss"] == pytest.approx(expected, rel=1e-5)


def test_positive_and_negative_together_equal_apart():
    model, batch = build("multidomain-representation"), triplet_batch(0, 3)
    outputs = model.forward(batch, training=True)  # frozen statistics: no row sees another
    for together, apart in (
        (outputs.positive, model.embed_photos(batch.positives)),
        (outputs.negative, model.embed_photos(batch.negatives)),
        (outputs.sketch, model.embed_sketches(batch.sketches)),
    ):
        for a, b in zip(together, apart):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
