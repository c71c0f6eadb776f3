"""Stage 1: losses of whole batches."""

import numpy as np
import pytest
import tensorflow as tf

from core.model import EncodedObjects
from models.multidomain import Outputs
from tests.models.helpers import CLASSES, build, step_args, triplet_batch


def test_weighted_losses_by_hand():
    """Uniform logits give ln K each; embeddings at right angles give known distances."""
    model, batch = build("multidomain-representation"), triplet_batch(0, 2)
    flat = tf.zeros((2, CLASSES))
    east, north = (tf.constant([[x, y]] * 2, tf.float32) for x, y in ((1, 0), (0, 1)))
    sides = [EncodedObjects(flat, embedding, flat) for embedding in (east, north, east)]
    named = model.compute_losses(Outputs(*sides), batch)
    assert float(named["enc_sketch_clas_loss"]) == pytest.approx(np.log(CLASSES))
    assert float(named["enc_obj_clas_loss"]) == pytest.approx(np.log(CLASSES))  # 0.5 + 0.5
    assert float(named["triplet_loss"]) == pytest.approx(2 - 0 + 0.5)


def test_focal_classes_by_hand():
    """Uniform logits: p = 1/K, so ln K times (1 - 1/K)^2."""
    model = build("multidomain-representation", use_focal_loss=True)
    flat = EncodedObjects(tf.zeros((2, 4)), tf.zeros((2, 4)), tf.zeros((2, CLASSES)))
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
