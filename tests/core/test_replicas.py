"""core.replicas, and what stands on it: two replicas compute what one device does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from core import replicas

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found():
    """Return what replicas_child prints."""
    command = [sys.executable, "-m", "tests.core.replicas_child"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of(found, name):
    """[(what one device gives, what each replica gives)] as arrays."""
    rows = zip(found[name]["whole"], found[name]["parts"])
    return [(np.array(whole), [np.array(part) for part in parts]) for whole, parts in rows]


def test_contrastive_negatives_are_those_of_the_global_batch(found):
    (loss, parts), *gradients = of(found, "contrastive")
    assert sum(parts) == pytest.approx(loss, rel=1e-6)
    assert abs(parts[0] - parts[1]) > 0.01
    for whole, parts in gradients:
        assert np.abs(whole).max() > 0.01
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_pairs_of_whole_scenes_are_drawn_for_the_global_batch(found):
    for whole, parts in of(found, "pairs"):
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_batch_norm_of_unequal_parts_with_a_mean_far_from_zero(found):
    """Deviation 0.1 round 30: a mean of squares less a squared mean would keep two digits."""
    outputs, gradient, mean, variance = of(found, "batch_norm")
    np.testing.assert_allclose(np.concatenate(outputs[1]), outputs[0], atol=5e-4)
    np.testing.assert_allclose(np.concatenate(gradient[1]), gradient[0], atol=2e-3)
    for whole, parts in (mean, variance):
        for part in parts:
            np.testing.assert_allclose(part, whole, rtol=1e-6)


def test_means_and_places_by_hand(found):
    """2 9 4 | 6: the mean is 21 / 4, of which the first three make 15 / 4. Without 9: 12 / 3, of
    which they make 6 / 3. The second replica's rows begin at 3."""
    mean, valid, none, place, number = of(found, "means")
    assert (mean[0], mean[1]) == (5.25, [3.75, 1.5])
    assert (valid[0], valid[1]) == (4.0, [2.0, 2.0])
    assert (none[0], none[1]) == (0.0, [0.0, 0.0])
    assert (place[0], place[1]) == (0, [0, 3])
    assert (number[0], number[1]) == (4, [4, 4])


def test_dropout_is_drawn_for_the_global_batch(found):
    ((whole, parts),) = of(found, "dropout")
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert 0.3 < np.mean(whole == 0) < 0.7


def test_steps_of_spade(found):
    single, mirrored = found["spade"]
    assert single[1]["squares of main"] > 0
    for one, two in zip(single, mirrored):
        assert two == pytest.approx(one, rel=1e-3)


def test_alone_nothing_is_added():
    rows = tf.constant([[1.0], [2.0]])
    assert replicas.count() == 1
    assert replicas.global_sum(rows) is rows
    assert replicas.all_gather(rows) is rows
    assert replicas.replica_rows(rows) is rows
    assert replicas.row_fraction(tf.constant(2)) == 1.0
