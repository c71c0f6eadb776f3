"""Layout match: how well a drawn scene's objects fit those of each photograph, without training.

    pair of a drawn and a photographed object -> P(same class) * geometry
    best one-to-one assignment of pairs       -> score of the photograph

What the probabilities of a drawn object lack of 1 fits every class. So guesses are only half
believed (GUESS_WEIGHT), because a wrong one would leave no pair. A pair's geometry falls with the
distance of the boxes' centres and of their log sizes. It ends at GEOMETRY_FLOOR, not at 0: the
right objects in other places still count.

Letters: Q drawn objects, N photographs, O photographed objects of all of them, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

GEOMETRY_FLOOR = 0.2
CENTRE_SCALE = 0.15  # of the picture's side: standard deviation of a drawn centre
SIZE_SCALE = 0.7  # of the logarithm of a width or height
SURPLUS = 0.15  # off for a photographed object of a drawn class that nothing drawn stands for
LEAST_CHANCE = 1e-3  # a class that nothing drawn is likelier to be is not looked at
# Times the probabilities that a model gives a drawing. Chosen on validation: docs/results.md,
# "Weights of the rankings".
GUESS_WEIGHT = 0.5
STEPS = 65535  # of a probability from 0 to 1: NumPy reads float16 ten times as slowly
BLOCK = 16384  # photographed objects at a time: they stay in the processor's cache
STATES = 1 << 19  # photographs * 2^Q that are assigned exactly: 2,048 for eight drawn objects


class LayoutObjects(NamedTuple):
    """Objects of one drawn scene or of all photographs."""

    boxes: np.ndarray  # float32 (O, 4), [x0, y0, x1, y1] in [0, 1]
    # (O, K), of each class: float, or uint16 in STEPS; those of a drawn object may sum to less than
    # 1. Of many objects best in the order of Fortran: few classes are drawn, and they alone are
    # read.
    probabilities: np.ndarray


class Match(NamedTuple):
    """A drawn object and the photographed one it was assigned to."""

    drawn: int
    photographed: int  # among the photograph's objects
    score: float  # 0..1


def to_steps(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities in the form that an index keeps: uint16, in STEPS."""
    return np.round(np.clip(probabilities, 0, 1) * np.float32(STEPS)).astype(np.uint16)


def to_probabilities(values: np.ndarray) -> np.ndarray:
    """Return as float32 what may be in STEPS."""
    return values.astype(np.float32) / np.float32(_unit(values))


def _unit(values: np.ndarray) -> int:
    return STEPS if values.dtype == np.uint16 else 1


def pair_scores(drawn: LayoutObjects, photographed: LayoutObjects) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of every pair of objects, float32 (Q, O) in [0, 1], and the probability that
    each photographed object is of a drawn class, float32 (O,)."""
    drawn_classes = to_probabilities(drawn.probabilities)
    asked = np.flatnonzero(drawn_classes.max(axis=0) > LEAST_CHANCE)
    any_class = np.maximum(1 - drawn_classes.sum(axis=1, keepdims=True), 0)
    chances = photographed.probabilities.T
    drawn_classes = drawn_classes[:, asked] / np.float32(_unit(chances))
    centre, size = _centres_and_sizes(drawn.boxes)
    count = len(photographed.boxes)
    scores = np.empty((len(drawn.boxes), count), np.float32)
    likely = np.empty(count, np.float32)
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        same = drawn_classes @ chances[asked, block].astype(np.float32) + any_class
        centres, sizes = _centres_and_sizes(photographed.boxes[block])
        exponent = _squared_distances(centre, centres) / (-2 * CENTRE_SCALE**2)
        exponent -= _squared_distances(size, sizes) / (2 * SIZE_SCALE**2)
        geometry = np.exp(exponent, out=exponent)
        geometry *= 1 - GEOMETRY_FLOOR
        geometry += GEOMETRY_FLOOR
        np.multiply(same, geometry, out=scores[:, block])
        likely[block] = same.max(axis=0)
    return scores, likely


def _centres_and_sizes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres and the log sizes of boxes (O, 4): float32 (2, O), x and y apart."""
    # NumPy goes along rows of 2 ten times as slowly as along columns.
    low, high = np.split(np.ascontiguousarray(np.asarray(boxes, np.float32).T), 2)
    return (low + high) / 2, np.log(np.maximum(high - low, 1e-3))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared distance of every two points: (Q, O). a: (2, Q). b: (2, O)."""
    x, y = (q[:, None] - o for q, o in zip(a, b))
    x *= x
    y *= y
    x += y
    return x


def layout_scores(
    drawn: LayoutObjects, photographed: LayoutObjects, ends: np.ndarray, states: int = STATES
) -> np.ndarray:
    """Return how well each photograph fits the drawn scene: float32 (N,), at most 1.

    The best one-to-one assignment of objects: the sum of its pairs' scores, less SURPLUS for each
    photographed object left over, times the probability that it is of a drawn class; over Q.
    photographed: objects of all photographs, one after the other. ends: int (N,), where those of
    each photograph end.

    The photographs of the highest upper bound are assigned exactly, `states` >> Q of them; the
    others rank behind them, by that bound. It lets drawn objects share a photographed one.
    """
    scores, likely = pair_scores(drawn, photographed)
    starts = np.concatenate([[0], ends[:-1]])
    filled = np.flatnonzero(ends > starts)  # `reduceat` knows no empty stretch
    bound = np.zeros(len(ends), np.float32)
    if len(filled):
        bound[filled] = np.maximum.reduceat(scores, starts[filled], axis=1).sum(0)
    exact = max(1, states >> len(scores))
    best = np.arange(len(ends))
    if len(ends) > exact:
        best = np.argpartition(-bound, exact)[:exact]
    found = _best_assignments(scores, likely, starts[best], ends[best])
    bound = np.minimum(bound, found.min(initial=0.0))
    bound[best] = found
    return bound / len(scores)


def _best_assignments(
    scores: np.ndarray, likely: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return the value of the best assignment in each photograph: float32 (n,).

    Dynamic programming over the set of drawn objects that are assigned, a bit mask: with each
    further photographed object a set stays, at the price of a surplus, or grows by one.
    """
    places = starts[:, None] + np.arange(int((ends - starts).max(initial=0)))
    there = places < ends[:, None]
    places[~there] = 0
    value = np.full((1 << len(scores), len(starts)), -np.inf, np.float32)
    value[0] = 0.0
    sets = np.arange(len(value))
    for here, place in zip(there.T, places.T):
        before = value
        value = before - np.where(here, SURPLUS * likely[place], 0.0)
        for drawn, score in enumerate(scores):
            holding = sets[sets >> drawn & 1 == 1]
            gained = before[holding ^ 1 << drawn] + np.where(here, score[place], -np.inf)
            value[holding] = np.maximum(value[holding], gained)
    return value.max(axis=0)


def match(drawn: LayoutObjects, photographed: LayoutObjects) -> list[Match]:
    """Return the pairs of the best assignment to the objects of one photograph, those of a score
    above 0, in the order of the drawn objects."""
    scores, likely = pair_scores(drawn, photographed)
    pairs = zip(*linear_sum_assignment(scores + SURPLUS * likely, maximize=True))
    return [Match(int(q), int(o), float(scores[q, o])) for q, o in pairs if scores[q, o] > 0]
