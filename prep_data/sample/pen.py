"""Draw the sample's objects by pen, as people draw for Quick, Draw!."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prep_data.sample.objects import Individual, Points


def simplify(line: Points, tolerance: float) -> Points:
    """Simplify a line by Ramer-Douglas-Peucker, as Quick, Draw! does with its strokes."""
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        base, inner = line[b] - line[a], line[a + 1 : b] - line[a]
        length = np.hypot(*base)
        if length > 1e-9:
            distance = np.abs(inner[:, 0] * base[1] - inner[:, 1] * base[0]) / length
        else:
            distance = np.hypot(inner[:, 0], inner[:, 1])
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            spans += [(a, middle), (middle, b)]
    return line[keep]


def _dense(line: Points, step: float) -> Points:
    """Return the line with a point at least every `step`, corners kept."""
    sides = np.diff(line, axis=0)
    counts = np.maximum(np.ceil(np.hypot(sides[:, 0], sides[:, 1]) / step), 1).astype(int)
    side = np.repeat(np.arange(len(sides)), counts)
    share = (np.arange(len(side)) - (np.cumsum(counts) - counts)[side]) / counts[side]
    return np.concatenate([line[side] + sides[side] * share[:, None], line[-1:]])


def _tremble(rng: np.random.Generator, n: int, waves: float) -> Points:
    """Return smooth noise (n, 2), about unit size, with `waves` swings along the line."""
    knots = rng.standard_normal((max(int(waves), 2) + 2, 2))
    at = np.linspace(0, len(knots) - 1, n)
    low = np.minimum(at.astype(int), len(knots) - 2)
    t = (1 - np.cos((at - low) * np.pi))[:, None] / 2
    return knots[low] * (1 - t) + knots[low + 1] * t


def draw(individual: Individual, rng: np.random.Generator) -> np.ndarray:
    """Return a free-hand drawing of an individual as in sketch-rnn files.

    int16 (points, 3), rows (dx, dy, pen_lift), longest side about 255. Steadiness of hand, neatness
    and detail vary.
    """
    aspect = individual.aspect * np.exp(rng.normal(0, 0.1))
    size = np.array([aspect, 1.0]) / max(aspect, 1.0) * 255
    shake, misplace = rng.uniform(1.0, 5.0), rng.uniform(0.0, 5.0)
    tilt = np.radians(rng.normal(0, 4))
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    tolerance = rng.uniform(1.5, 3.0)
    shear = np.array([[1.0, rng.normal(0, 0.05)], [rng.normal(0, 0.04), 1.0]])
    detail = rng.uniform(0.75, 1.0)
    strokes = []
    for i, line in enumerate(individual.lines):
        if i >= individual.outlines and rng.random() > detail:
            continue
        line = line * size @ turn @ shear
        closed = np.allclose(line[0], line[-1])
        if closed and len(line) > 12 and i > 0:  # a circle may be begun anywhere
            line = np.roll(line[:-1], int(rng.integers(len(line) - 1)), axis=0)
            line = np.concatenate([line, line[:1]])
        if rng.random() < 0.3:
            line = line[::-1]
        line = _dense(line, 6.0)
        length = 6.0 * len(line)
        extent = np.ptp(line, axis=0).max()
        calm = min(1.0, extent / 120 + 0.15)  # small marks are drawn with small movements
        line = line + shake * calm * _tremble(rng, len(line), length / 45)
        line = line + misplace * calm * rng.standard_normal(2)
        centre = line.mean(axis=0)
        line = (line - centre) * (1 + rng.normal(0, 0.03)) + centre
        if closed and rng.random() < 0.35:  # not quite closed, as by a quick hand
            line = line[: max(4, len(line) - int(rng.integers(1, 4)))]
        strokes.append(simplify(line, tolerance * (0.4 if extent < 40 else 1.0)))
    return to_deltas(strokes)


def to_deltas(strokes: Sequence[Points]) -> np.ndarray:
    """Return lines in absolute coordinates as int16 (points, 3), rows (dx, dy, pen_lift)."""
    points = np.round(np.concatenate(strokes)).astype(np.int64)
    rows = np.zeros((len(points), 3), np.int16)
    rows[1:, :2] = np.diff(points, axis=0)  # the first row is a move of no length
    rows[np.cumsum([len(stroke) for stroke in strokes]) - 1, 2] = 1
    return rows
