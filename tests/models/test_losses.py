"""Losses against values worked by hand and slow numpy loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from models import losses


def test_mean():
    assert float(losses.mean(tf.constant([1.0, 5.0, 9.0]), tf.constant([True, False, True]))) == 5
    assert float(losses.mean(tf.constant([1.0]), tf.constant([False]))) == 0


def test_cross_entropy_by_hand():
    # logits (0, 0): ln 2.  logits (0, ln 3), class 1: p = 3/4, -ln(3/4).
    logits = tf.constant([[0.0, 0.0], [0.0, math.log(3.0)]])
    value = losses.cross_entropy(logits, tf.constant([0, 1]))
    assert float(value) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_focal_cross_entropy_by_hand():
    logits = tf.constant([[0.0, 0.0], [0.0, math.log(3.0)]])
    value = losses.focal_cross_entropy(logits, tf.constant([0, 1]))
    # p = 1/2: (1/2)^2 ln 2.  p = 3/4: (1/4)^2 ln(4/3).
    assert float(value) == pytest.approx((math.log(2) / 4 + math.log(4 / 3) / 16) / 2)


def test_focal_cross_entropy_equals_keras():
    logits = 3 * tf.random.stateless_normal((6, 5), [0, 1])
    classes = tf.constant([0, 1, 2, 3, 4, 0])
    theirs = tf.keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0, from_logits=True)
    value = losses.focal_cross_entropy(logits, classes)
    assert float(value) == pytest.approx(float(theirs(tf.one_hot(classes, 5), logits)), rel=1e-5)


def test_focal_cross_entropy_of_the_certain_is_zero_with_its_gradient():
    logits = tf.Variable([[100.0, 0.0]])
    with tf.GradientTape() as tape:
        value = losses.focal_cross_entropy(logits, tf.constant([0]))
    assert float(value) == 0
    np.testing.assert_array_equal(tape.gradient(value, logits), 0)


def test_triplet_by_hand():
    anchor = tf.constant([[0.0, 0.0], [0.0, 0.0]])
    positive = tf.constant([[1.0, 0.0], [0.0, 0.5]])  # squared distances 1, 0.25
    negative = tf.constant([[0.0, 0.5], [1.0, 1.0]])  # 0.25, 2
    # rows: 1 - 0.25 + 0.5 = 1.25;  0.25 - 2 + 0.5 < 0 -> 0
    assert float(losses.triplet(anchor, positive, negative)) == pytest.approx(0.625)
    only = tf.constant([True, False])
    assert float(losses.triplet(anchor, positive, negative, valid=only)) == pytest.approx(1.25)


def test_info_nce_by_hand():
    """Temperature 1. The first anchor has two positives, the second none, the third one."""
    anchors = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    candidates = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    value = losses.info_nce(
        anchors, candidates, tf.constant([0, 2, 1]), tf.constant([0, 1, 0]), 1.0
    )
    # Similarities 1, 0, -1: the positives' mean is 0.  0, 1, 0: the positive's is 1.
    rows = [math.log(math.e + 1 + 1 / math.e) - 0, math.log(1 + math.e + 1) - 1]
    assert float(value) == pytest.approx(sum(rows) / 2)


def test_scene_contrastive_by_hand():
    # One dimension. d(a, p): [[0, 1], [0.25, 0.25]]; d(a, n): [[0.09, 4], [0.04, 2.25]]
    sketch = tf.constant([[0.0], [0.5]])
    photo = tf.constant([[0.0], [1.0]])
    negative = tf.constant([[0.3], [2.0]])
    pull = (0 + 0.25) / 2
    push = (0 + 0 + 0.75 + 0) / 4  # i = j: max(0, 0 - d) = 0
    away = (0.41 + 0 + 0.46 + 0) / 4
    value = losses.scene_contrastive(sketch, photo, negative)
    assert float(value) == pytest.approx(pull + push + away)
    assert float(losses.scene_contrastive(sketch, photo, None)) == pytest.approx(pull + push)


def test_scene_contrastive_against_loops():
    rng = np.random.default_rng(0)
    a, p, n = rng.normal(0, 0.5, (3, 5, 3)).astype(np.float32)
    expected = 0.0
    for i in range(5):
        expected += np.sum((a[i] - p[i]) ** 2) / 5
        for j in range(5):
            expected += max(0, (i != j) - np.sum((a[i] - p[j]) ** 2)) / 25
            expected += max(0, 0.5 - np.sum((a[i] - n[j]) ** 2)) / 25
    assert float(losses.scene_contrastive(a, p, n)) == pytest.approx(expected, rel=1e-5)


def test_icon_by_hand():
    """Similarities [[1, 0], [0, 0]] over a temperature of 1 / ln 3: the first row of logits is
    (ln 3, 0), softmax (3/4, 1/4), the second (1/2, 1/2); the columns are alike."""
    drawings = tf.constant([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    photos = tf.constant([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    temperature = 1 / math.log(3)
    info_nce = (math.log(4 / 3) + math.log(2)) / 2
    assert float(losses.icon(drawings, photos, temperature, 0.0)) == pytest.approx(info_nce)
    # Smoothing 0.2: targets (0.9, 0.1) and (0.1, 0.9).
    first = 0.9 * math.log(0.9 / 0.75) + 0.1 * math.log(0.1 / 0.25)
    second = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    value = losses.icon(drawings, photos, temperature, 0.2)
    assert float(value) == pytest.approx((first + second) / 2, rel=1e-5)


def test_icon_against_loops():
    rng = np.random.default_rng(2)
    sides = rng.normal(0, 1, (2, 5, 4))
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    expected = 0.0
    for a, b in (sides, sides[::-1]):
        for i in range(5):
            weights = [math.exp(a[i] @ b[j] / 0.3) for j in range(5)]
            for j in range(5):
                target = 0.9 * (i == j) + 0.1 / 5
                expected += target * math.log(target * sum(weights) / weights[j]) / 10
    value = losses.icon(*tf.constant(sides, tf.float32), 0.3, 0.1)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_box_regression_by_hand():
    true = tf.constant([[0.0, 0.0, 0.5, 0.5]])
    made = tf.constant([[0.25, 0.0, 0.75, 0.5]])
    # overlap 0.25 x 0.5 = 1/8; union 1/4 + 1/4 - 1/8 = 3/8; hull 0.75 x 0.5 = 3/8: GIoU = 1/3
    squared = 2 * 0.0625 / 4
    assert float(losses.box_regression(true, made)) == pytest.approx(squared + 0.1 * 2 / 3)
    assert float(losses.box_regression(true, made, use_giou=False)) == pytest.approx(squared)


def slow_giou(a, b):
    def area(x0, y0, x1, y1):
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    inter = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - inter
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return inter / union - (hull - union) / hull


def test_box_regression_against_loops():
    """Boxes that are neither square nor centred, so that swapped axes would show."""
    rng = np.random.default_rng(1)
    a, b = (np.sort(rng.uniform(0, 1, (2, 6, 2, 2)) ** [1.0, 3.0], axis=2)).reshape(2, 6, 4)
    expected = np.mean((a - b) ** 2) + 0.1 * np.mean([1 - slow_giou(x, y) for x, y in zip(a, b)])
    value = losses.box_regression(tf.constant(a, tf.float32), tf.constant(b, tf.float32))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_box_regression_of_empty_boxes_is_finite():
    flat = tf.Variable([[0.3, 0.3, 0.3, 0.3]])
    with tf.GradientTape() as tape:
        value = losses.box_regression(tf.constant([[0.3, 0.3, 0.3, 0.3]]), flat)
    assert math.isfinite(float(value))
    assert np.all(np.isfinite(tape.gradient(value, flat)))


def test_mask_cross_entropy_by_hand():
    logits = tf.constant([[[0.0, 0.0]], [[9.0, 9.0]]])
    true = tf.constant([[[1.0, 0.0]], [[0.0, 0.0]]])
    value = losses.mask_cross_entropy(true, logits, tf.constant([True, False]))
    assert float(value) == pytest.approx(math.log(2))


def test_least_squares_gan_by_hand():
    assert float(losses.least_squares_gan(tf.constant([0.5, 1.0]), 1.0)) == pytest.approx(0.125)


def test_feature_matching_by_hand_and_without_gradient_to_real():
    real = [tf.Variable(tf.ones((2, 1, 1, 1))), tf.Variable(tf.zeros((2, 2, 1, 1)))]
    fake = [tf.Variable(tf.zeros((2, 1, 1, 1))), tf.Variable(tf.ones((2, 2, 1, 1)) * 0.5)]
    with tf.GradientTape() as tape:
        value = losses.feature_matching([*real], [*fake], tf.constant([True, False]))
    assert float(value) == pytest.approx(1.5)
    gradients = tape.gradient(value, [*real, *fake])
    assert gradients[:2] == [None, None]
    assert all(gradient is not None for gradient in gradients[2:])


def test_hinge_by_hand():
    # Real 2 and 0.5: 0 and 0.5. Made -3 and 0.5: 0 and 1.5. Means 0.25 + 0.75.
    real, made = tf.constant([2.0, 0.5]), tf.constant([-3.0, 0.5])
    assert float(losses.hinge_discriminator(real, made)) == pytest.approx(1.0)
    assert float(losses.hinge_generator(made)) == pytest.approx(1.25)


def test_relative_difference_by_hand():
    # First layer: mean |2, -2| = 2 and a mean difference of 1: 1/2. Second: 4 and 1: 1/4.
    real = [tf.constant([[2.0, -2.0]]), tf.constant([[4.0]])]
    made = [tf.Variable([[3.0, -1.0]]), tf.Variable([[5.0]])]
    with tf.GradientTape() as tape:
        tape.watch(real)
        value = losses.relative_difference(real, made)
    assert float(value) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert tape.gradient(value, real) == [None, None]
