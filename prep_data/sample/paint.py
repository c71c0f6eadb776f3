"""Paint the sample's objects and grounds, as photographs show them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from prep_data.sample.objects import GRASS, SAND, SKY, Individual, Points, hsv

_OVERSAMPLING = 3


def _noise(
    rng: np.random.Generator, height: int, width: int, cell: float, across: float | None = None
) -> np.ndarray:
    """Return smooth noise, float32 (height, width), about [-1, 1].

    cell: pixels a wave, down; across: in the other direction, `cell` when None.
    """
    rows, columns = max(2, round(height / cell)), max(2, round(width / (across or cell)))
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32), "F")
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _texture(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Return brightness factors around 1, float32 (height, width), for an area's colour."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase, cell = rng.uniform(0, 2 * np.pi), max(height, width)
    u, v = x / width, y / height
    grain = 0.05 * _noise(rng, height, width, 6)
    if kind == "ball":
        cx, cy = rng.uniform(0.3, 0.45, 2)
        return 1.25 - 0.9 * ((u - cx) ** 2 + (v - cy) ** 2) + grain
    if kind == "shine":
        return 1.15 - 0.35 * v + 0.2 * np.exp(-(((v - 0.45) / 0.05) ** 2)) + grain
    if kind == "soft":
        return 1.05 - 0.3 * v**2 + 0.1 * _noise(rng, height, width, cell / 4)
    if kind in ("stripes", "bands", "planks", "streaks"):
        along = {"stripes": u + 0.4 * v, "bands": v, "planks": v, "streaks": u}[kind]
        count = {"stripes": 6, "bands": 3, "planks": 14, "streaks": 4}[kind] * rng.uniform(0.8, 1.3)
        return 1 + 0.17 * np.sin(2 * np.pi * count * along + phase) + grain
    if kind in ("bricks", "tiles"):
        rows = 12 if kind == "bricks" else 16
        row = np.floor(v * rows)
        in_row = (u * rows * 0.6 + 0.5 * (row % 2)) % 1
        mortar = (v * rows % 1 < 0.18) | (in_row < 0.1)
        return np.where(mortar, 1.22 if kind == "bricks" else 0.75, 1.0) + grain
    if kind == "fur":
        stripes = np.sin(2 * np.pi * 5 * v + phase + 1.2 * _noise(rng, height, width, cell / 4))
        return 1 + 0.14 * stripes + 0.08 * rng.standard_normal((height, width), np.float32)
    if kind == "rays":
        return 1 + 0.15 * np.sin(14 * np.arctan2(v - 0.3, u - 0.5) + phase) + grain
    if kind == "rock":
        rough = _noise(rng, height, width, cell / 8) + 0.6 * _noise(rng, height, width, cell / 20)
        return 1 + 0.22 * rough + 0.15 * (u - 0.5)
    return 1.08 - 0.16 * v + grain


class Rendered(NamedTuple):
    """An object as it appears in a photograph: a patch whose corner is at (left, top)."""

    left: int
    top: int
    colour: np.ndarray  # float32 (h, w, 3), in [0, 1], multiplied by coverage
    coverage: np.ndarray  # float32 (h, w), in [0, 1]


def _place(individual: Individual, box: np.ndarray, tilt: float) -> list[Points]:
    """Return the areas' outlines in pixels, filling the box x0, y0, x1, y1."""
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    scale = np.array([individual.aspect, 1.0])
    outlines = [(area.outline - 0.5) * scale @ turn for area in individual.areas]
    low = np.min([o.min(axis=0) for o in outlines], axis=0)
    high = np.max([o.max(axis=0) for o in outlines], axis=0)
    return [(o - low) / (high - low) * (box[2:] - box[:2]) + box[:2] for o in outlines]


def render(
    individual: Individual, box: np.ndarray, tilt: float, rng: np.random.Generator
) -> Rendered:
    """Paint an individual with anti-aliased edges.

    box: pixels x0, y0, x1, y1, float64, which it fills; tilt: radians.
    """
    left, top = np.floor(box[:2]).astype(int)
    width, height = np.ceil(box[2:]).astype(int) - [left, top]
    size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    index = Image.new("L", size, 0)
    canvas = ImageDraw.Draw(index)
    outlines = _place(individual, box, tilt)
    for i, outline in enumerate(outlines):
        corners = (outline - [left, top]) * _OVERSAMPLING - 0.5
        canvas.polygon([tuple(corner) for corner in corners.tolist()], fill=i + 1)
    colour = np.zeros((height, width, 3), np.float32)
    coverage = np.zeros((height, width), np.float32)
    labels = np.asarray(index)
    for i, area in enumerate(individual.areas):
        low = np.floor(outlines[i].min(axis=0)).astype(int) - [left, top]
        high = np.ceil(outlines[i].max(axis=0)).astype(int) - [left, top]
        fine = np.s_[
            low[1] * _OVERSAMPLING : high[1] * _OVERSAMPLING,
            low[0] * _OVERSAMPLING : high[0] * _OVERSAMPLING,
        ]
        part = Image.fromarray((labels[fine] == i + 1).view(np.uint8) * np.uint8(255))
        share = np.asarray(part.reduce(_OVERSAMPLING), np.float32) / 255
        light = _texture(rng, area.texture, *share.shape)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        paint = light[..., None].astype(np.float32) * area.colour.astype(np.float32)
        colour[window] += share[..., None] * np.clip(paint, 0, 1)
        coverage[window] += share
    return Rendered(int(left), int(top), colour, coverage)


def paint_ground(kind: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture full of one background stuff: float32 (height, width, 3) in [0, 1]."""
    v = np.linspace(0, 1, height, dtype=np.float32)[:, None]

    def lit(light: np.ndarray, *colour: float) -> np.ndarray:
        return light.astype(np.float32)[..., None] * hsv(rng, *colour).astype(np.float32)

    def speckle() -> np.ndarray:
        return rng.standard_normal((height, width), np.float32)

    if kind == SKY:
        light = 1 + 0.04 * _noise(rng, height, width, width / 3)
        return lit(light * (1 - v), 212, 0.55, 0.85) + lit(light * v, 205, 0.2, 0.95)
    if kind == GRASS:  # blades: finer across than along
        blades = _noise(rng, height, width, 10, 2.5)
        light = 1 + 0.16 * blades + 0.12 * _noise(rng, height, width, 40) + 0.1 * speckle()
        return lit(light, 105, 0.6, 0.45)
    if kind == SAND:
        light = 1 + 0.07 * speckle() + 0.08 * _noise(rng, height, width, 30)
        return lit(light, 40, 0.35, 0.8)
    swell = _noise(rng, height, width, 6, 24)
    waves = np.sin(v * height / rng.uniform(1.6, 2.6) + 2.5 * swell)
    return lit(1 + 0.1 * waves + 0.08 * swell, 195, 0.65, 0.55)
