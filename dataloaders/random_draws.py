"""Random numbers as a function of names: word = hash(seed, stream, position, slot).

Nothing has a state, so what is drawn for an item depends on neither the batch it travels in, nor
the thread, nor how often the program was interrupted. SplitMix64's finaliser (Steele, Lea, Flood,
OOPSLA 2014) over a chain of the coordinates; tf.random.stateless_* would tie a number to the shape
of the tensor it is drawn in, hence to the batch size.
"""

from __future__ import annotations

import enum

import tensorflow as tf

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = (1 << 64) - 1
Ints = int | tf.Tensor  # python int or int32 / int64 tensor


class Stream(enum.IntEnum):
    """One number for each thing that is drawn; a number never changes its meaning."""

    BLOCK_ORDER = 0
    ROW_ORDER = 1
    POSITIVE = 2
    NEGATIVE_CLASS = 3
    NEGATIVE_CROP = 4
    SKETCH = 5
    PHOTO_DIRECTION = 6
    QUERY_DIRECTION = 7
    JITTER = 8
    DROPPED = 9
    PSEUDO_DRAWING = 10


def mix(words: tf.Tensor) -> tf.Tensor:
    """Apply SplitMix64's finaliser to uint64 of any shape: a bijection that looks random."""
    words = words + tf.constant(_GOLDEN, tf.uint64)
    for shift, factor in _ROUNDS:
        words = _shifted_xor(words, shift) * tf.constant(factor, tf.uint64)
    return _shifted_xor(words, _LAST_SHIFT)


def _shifted_xor(words: tf.Tensor, shift: int) -> tf.Tensor:
    moved = tf.bitwise.right_shift(words, tf.constant(shift, tf.uint64))
    return tf.bitwise.bitwise_xor(words, moved)


def _mix_int(word: int) -> int:
    """Apply `mix` to a Python int."""
    word = word + _GOLDEN & _MASK
    for shift, factor in _ROUNDS:
        word = (word ^ word >> shift) * factor & _MASK
    return word ^ word >> _LAST_SHIFT


def bits(*coordinates: Ints) -> tf.Tensor:
    """Return a random uint64 word for each combination of coordinates, broadcast together.

    coordinates: ints or int tensors; by habit seed, `Stream`, position, slot.
    """
    start, rest = 0, list(coordinates)
    while rest and isinstance(rest[0], int):  # known now: no operations in the graph
        start = _mix_int(start ^ rest.pop(0) & _MASK)
    word = tf.constant(start, tf.uint64)
    for coordinate in rest:
        number = tf.cast(tf.convert_to_tensor(coordinate, dtype_hint=tf.int64), tf.int64)
        word = mix(tf.bitwise.bitwise_xor(word, tf.bitcast(number, tf.uint64)))
    return word


def below(words: tf.Tensor, limit: Ints) -> tf.Tensor:
    """Map words to int32 in [0, limit), evenly to 1 part in 2^32 / limit. limit > 0, broadcast."""
    high = tf.cast(tf.bitwise.right_shift(words, tf.constant(32, tf.uint64)), tf.int64)
    scaled = high * tf.cast(limit, tf.int64)
    return tf.cast(tf.bitwise.right_shift(scaled, tf.constant(32, tf.int64)), tf.int32)


def unit(words: tf.Tensor) -> tf.Tensor:
    """Map words to float32 in [0, 1), 24 random bits."""
    high = tf.bitwise.right_shift(words, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(high, tf.int32), tf.float32) * 2.0**-24


def coin(words: tf.Tensor) -> tf.Tensor:
    """Map words to bool, even odds."""
    return tf.cast(tf.bitwise.right_shift(words, tf.constant(63, tf.uint64)), tf.bool)


def permutations(count: tf.Tensor, passes: tf.Tensor, *coordinates: Ints) -> tf.Tensor:
    """Return `passes` permutations of range(count) in a row: int32 (passes * count,)."""
    each = tf.range(passes, dtype=tf.int64)[:, None]
    words = bits(*coordinates, each, tf.range(count, dtype=tf.int64)[None, :])
    # Signed order of the words is as good a shuffle as unsigned, and argsort knows it.
    return tf.reshape(tf.argsort(tf.bitcast(words, tf.int64), axis=1, stable=True), [-1])
