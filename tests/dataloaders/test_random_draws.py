"""Stateless draws against a plain-integer reference and simple statistics."""

import numpy as np
import tensorflow as tf

from dataloaders import random_draws

MASK = (1 << 64) - 1


def slow_bits(*coordinates):
    word = 0
    for coordinate in coordinates:
        word = (word ^ (coordinate & MASK)) + 0x9E3779B97F4A7C15 & MASK
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
        word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
        word ^= word >> 31
    return word


def test_mix_is_splitmix64():
    # The published first output of SplitMix64 with state 0.
    assert int(random_draws.mix(tf.constant(0, tf.uint64))) == 0xE220A8397B1DCDAF


def test_bits_equal_the_reference_and_broadcast():
    words = random_draws.bits(3, -1, tf.constant([0, 5])[:, None], tf.range(3)).numpy()
    expected = [[slow_bits(3, -1, p, s) for s in range(3)] for p in (0, 5)]
    assert words.tolist() == expected
    assert int(random_draws.bits(3, -1, 9)) == slow_bits(3, -1, 9)


def test_below_and_unit_and_coin():
    words = random_draws.bits(0, tf.range(20000))
    raw = words.numpy().tolist()
    numbers = random_draws.below(words, 7).numpy()
    assert numbers.tolist() == [(w >> 32) * 7 >> 32 for w in raw]
    assert (np.bincount(numbers, minlength=7) > 20000 / 7 * 0.9).all()
    unit = random_draws.unit(words).numpy()
    assert unit.min() >= 0 and unit.max() < 1 and abs(unit.mean() - 0.5) < 0.01
    assert abs(random_draws.coin(words).numpy().mean() - 0.5) < 0.02


def test_permutations():
    passes = random_draws.permutations(50, 4, 9).numpy().reshape(4, 50)
    assert (np.sort(passes, 1) == np.arange(50)).all()
    assert len({tuple(p) for p in passes.tolist()}) == 4
