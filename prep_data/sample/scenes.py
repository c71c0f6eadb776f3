"""The sample's photographs: objects before grounds of stuff.

All functions are pure: the same generator state gives the same scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prep_data.sample.objects import (
    CLASSES,
    GRASS,
    OTHER,
    SAND,
    SEA,
    SKY,
    Individual,
    ObjectClass,
    individual_of,
    mirrored,
    variant_of,
)
from prep_data.sample.paint import paint_ground, render

_SIZES = ((320, 240), (320, 240), (320, 214), (360, 240), (240, 320), (280, 280))  # width, height
_CROWDS = ("apple", "banana", "cup")  # what lies about in heaps
# How far objects in the left and in the right of a scene lean outwards, radians, and where that
# begins, of half the width from the middle; between, they stand upright. In steps, because the
# paper tells the network of positions by 5 cells a side: what changes within a cell it cannot know.
_LEAN = 0.8
_UPRIGHT = 0.25
_COUNTS = (0.12, 0.22, 0.24, 0.2, 0.13, 0.09)  # of scenes that have 1, 2, ... objects
_HEAPS = 0.06  # of scenes that have a heap besides


class Object(NamedTuple):
    """An object of a scene."""

    cls: ObjectClass
    individuals: list[Individual]  # several in a crowd
    coverage: np.ndarray  # float32 (h, w): what of it can be seen


class Scene(NamedTuple):
    """A photograph and what is in it."""

    image: np.ndarray  # uint8 (h, w, 3)
    objects: list[Object]
    labels: np.ndarray  # uint8 (h, w): category id of every pixel, OTHER under things


def _background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two or three bands of stuff: float32 picture (h, w, 3) and category ids (h, w)."""
    grounds = rng.permutation([GRASS, SAND, SEA]).tolist()
    bands = [SKY, *grounds[: rng.integers(1, 3)]] if rng.random() < 0.8 else grounds[:2]
    cuts = np.sort(rng.uniform(0.2, 0.85, len(bands) - 1))
    if len(cuts) == 2 and cuts[1] - cuts[0] < 0.15:
        cuts = np.array([0.35, 0.65])
    picture = paint_ground(bands[0], height, width, rng)
    labels = np.full((height, width), bands[0], np.uint8)
    x = np.linspace(0, 1, width)
    for cut, band in zip(cuts, bands[1:]):
        wave = rng.uniform(0.005, 0.03) * np.sin(
            2 * np.pi * rng.uniform(0.5, 2.5) * x + rng.uniform(0, 6)
        )
        below = np.arange(height)[:, None] > (cut + wave) * height
        ground = paint_ground(band, height, width, rng)
        picture = np.where(below[..., None], ground, picture)
        labels[below] = band
    return picture.astype(np.float32), labels


def _boxes(
    rng: np.random.Generator, aspects: Sequence[float], height: int, width: int
) -> list[np.ndarray | None]:
    """A place for every object (pixels x0, y0, x1, y1), later ones lie on top. Most pass the rule
    of 5 % of the image, some do not; overlaps leave most of every object to be seen. None where
    there was no room."""
    boxes: list[np.ndarray | None] = []
    hidden: list[float] = []
    for aspect in aspects:
        small = rng.random() < 0.1
        found = None
        for _ in range(40):
            share = (
                rng.uniform(0.012, 0.04) if small else rng.uniform(0.06, 0.26 / len(aspects) ** 0.3)
            )
            size = np.sqrt(share * width * height * np.array([aspect, 1 / aspect]))
            size = np.minimum(size, [0.95 * width, 0.95 * height])
            corner = rng.uniform(0, 1, 2) * ([width, height] - size)
            box = np.concatenate([corner, corner + size])
            new = [_covered(other, box) if other is not None else 0.0 for other in boxes]
            if all(h + n < 0.4 for h, n in zip(hidden, new)):
                hidden = [h + n for h, n in zip(hidden, new)]
                found = box
                break
        boxes.append(found)
        hidden.append(0.0)
    return boxes


def _covered(box: np.ndarray, by: np.ndarray) -> float:
    """The share of a box that another one hides."""
    sides = np.minimum(box[2:], by[2:]) - np.maximum(box[:2], by[:2])
    return float(np.prod(np.maximum(sides, 0)) / np.prod(box[2:] - box[:2]))


def _aside(box: np.ndarray, width: int) -> float:
    """How far a box stands from the middle: -1 at the left border of the image, 1 at the right."""
    return float((box[0] + box[2]) / width - 1)


def _lean(box: np.ndarray, width: int) -> float:
    """How far an object in `box` leans to the right, radians."""
    aside = _aside(box, width)
    return float(_LEAN * np.sign(aside)) if abs(aside) > _UPRIGHT else 0.0


def make_scene(
    rng: np.random.Generator,
    classes: Sequence[ObjectClass] = CLASSES,
    counts: Sequence[float] = _COUNTS,
    heaps: float = _HEAPS,
) -> Scene:
    """A photograph of some objects (and now and then a heap of small ones).

    classes: of the objects. counts: probability of 1, 2, ... of them. heaps: of a heap.

    Objects face the middle of the scene, and those at its sides lean outwards. So what an object
    looks like depends on where it stands: a model that reads the arrangement can draw better masks
    than the mean of a class, from a sketch too.
    """
    width, height = _SIZES[rng.integers(len(_SIZES))]
    picture, labels = _background(rng, height, width)
    wanted = 1 + rng.choice(len(counts), p=counts)
    chosen: list[ObjectClass] = []
    for i in rng.integers(len(classes), size=wanted).tolist():
        cls = classes[i]
        # Stuff has no instances: COCO-Stuff would merge two houses into one annotation.
        if cls.category_id < 92 or cls not in chosen:
            chosen.append(cls)
    variants = [variant_of(cls, rng) for cls in chosen]
    boxes = _boxes(rng, [variant.aspect for variant in variants], height, width)
    individuals = [
        [mirrored(variant) if box is not None and _aside(box, width) > 0 else variant]
        for variant, box in zip(variants, boxes)
    ]
    if rng.random() < heaps:
        heap = str(rng.choice(_CROWDS))
        cls = next(c for c in CLASSES if c.name == heap)
        chosen.insert(0, cls)
        individuals.insert(0, [individual_of(cls, rng) for _ in range(rng.integers(4, 8))])
        boxes.insert(0, np.concatenate([rng.uniform(0, 0.6, 2), [0, 0]]) * [width, height, 0, 0])
    objects: list[Object] = []
    for cls, mine, box in zip(chosen, individuals, boxes):
        if box is None:
            continue
        coverage = np.zeros((height, width), np.float32)
        for individual in mine:
            place = box
            if len(mine) > 1:
                corner = box[:2] + rng.uniform(0, 0.25, 2) * [width, height]
                size = 0.11 * np.sqrt(
                    width * height * np.array([individual.aspect, 1 / individual.aspect])
                )
                place = np.concatenate([corner, np.minimum(corner + size, [width, height])])
            tilt = _lean(place, width) + rng.normal(0, 0.05)
            drawn = render(individual, place, tilt, rng)
            h, w = drawn.coverage.shape
            window = np.s_[drawn.top : drawn.top + h, drawn.left : drawn.left + w]
            clear = 1 - drawn.coverage
            picture[window] = picture[window] * clear[..., None] + drawn.colour
            for other in objects:
                other.coverage[window] *= clear
            coverage[window] = coverage[window] * clear + drawn.coverage
        objects.append(Object(cls, mine, coverage))
    for thing in objects:
        labels[thing.coverage >= 0.5] = (
            thing.cls.category_id if thing.cls.category_id > 91 else OTHER[1]
        )
    light = rng.uniform(0.85, 1.1) + 0.015 * rng.standard_normal((height, width, 1), np.float32)
    image = np.clip(picture * light.astype(np.float32) * 255, 0, 255).astype(np.uint8)
    return Scene(image, objects, labels)
