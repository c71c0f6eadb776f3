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
# Objects in the left and in the right of a scene lean outwards by _LEAN radians, beyond _UPRIGHT of
# half the width from the middle; between, they stand upright. In steps, because the paper tells the
# network of positions by 5 cells a side: what changes within a cell it cannot know.
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


def make_scene(
    rng: np.random.Generator,
    classes: Sequence[ObjectClass] = CLASSES,
    counts: Sequence[float] = _COUNTS,
    heaps: float = _HEAPS,
) -> Scene:
    """Return a photograph of some objects (and now and then a heap of small ones).

    classes: of the objects. counts: probability of 1, 2, ... of them. heaps: of a heap.

    Objects face the middle of the scene, and those at its sides lean outwards. So what an object
    looks like depends on where it stands: a model that reads the arrangement can draw better masks
    than the mean of a class, from a sketch too.
    """
    width, height = _SIZES[rng.integers(len(_SIZES))]
    picture, labels = _paint_background(rng, height, width)
    chosen = _choose_classes(rng, classes, counts)
    variants = [variant_of(cls, rng) for cls in chosen]
    boxes = _place_boxes(rng, [variant.aspect for variant in variants], height, width)
    groups = [
        (cls, [mirrored(variant) if _offset(box, width) > 0 else variant], box)
        for cls, variant, box in zip(chosen, variants, boxes)
        if box is not None
    ]
    if rng.random() < heaps:
        groups.insert(0, _make_heap(rng, height, width))
    objects: list[Object] = []
    for cls, individuals, box in groups:
        coverage = _paint_object(picture, objects, individuals, box, rng)
        objects.append(Object(cls, individuals, coverage))
    for thing in objects:
        category = thing.cls.category_id
        labels[thing.coverage >= 0.5] = category if category > 91 else OTHER[1]
    light = rng.uniform(0.85, 1.1) + 0.015 * rng.standard_normal((height, width, 1), np.float32)
    image = np.clip(picture * light.astype(np.float32) * 255, 0, 255).astype(np.uint8)
    return Scene(image, objects, labels)


def _paint_background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return two or three bands of stuff: float32 picture (h, w, 3) and category ids (h, w)."""
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


def _choose_classes(
    rng: np.random.Generator, classes: Sequence[ObjectClass], counts: Sequence[float]
) -> list[ObjectClass]:
    count = 1 + rng.choice(len(counts), p=counts)
    chosen: list[ObjectClass] = []
    for i in rng.integers(len(classes), size=count).tolist():
        # Stuff has no instances: COCO-Stuff would merge two houses into one annotation.
        if classes[i].category_id < 92 or classes[i] not in chosen:
            chosen.append(classes[i])
    return chosen


def _place_boxes(
    rng: np.random.Generator, aspects: Sequence[float], height: int, width: int
) -> list[np.ndarray | None]:
    """Return a box for every object (pixels x0, y0, x1, y1), None where there was no room.

    Later ones lie on top. Most pass the rule of 5 % of the image, some do not; overlaps leave most
    of every object to be seen.
    """
    boxes: list[np.ndarray | None] = []
    hidden: list[float] = []
    for aspect in aspects:
        small = rng.random() < 0.1
        boxes.append(None)
        hidden.append(0.0)
        for _ in range(40):
            limits = (0.012, 0.04) if small else (0.06, 0.26 / len(aspects) ** 0.3)
            area = rng.uniform(*limits) * width * height
            size = np.sqrt(area * np.array([aspect, 1 / aspect]))
            size = np.minimum(size, [0.95 * width, 0.95 * height])
            corner = rng.uniform(0, 1, 2) * ([width, height] - size)
            box = np.concatenate([corner, corner + size])
            covered = [0.0 if other is None else _covered(other, box) for other in boxes]
            if all(before + new < 0.4 for before, new in zip(hidden, covered)):
                hidden = [before + new for before, new in zip(hidden, covered)]
                boxes[-1] = box
                break
    return boxes


def _covered(box: np.ndarray, by: np.ndarray) -> float:
    """Return the share of a box that another one hides."""
    sides = np.minimum(box[2:], by[2:]) - np.maximum(box[:2], by[:2])
    return float(np.prod(np.maximum(sides, 0)) / np.prod(box[2:] - box[:2]))


def _offset(box: np.ndarray, width: int) -> float:
    """Return where a box stands: -1 at the left border of the image, 0 in the middle, 1 right."""
    return float((box[0] + box[2]) / width - 1)


def _make_heap(
    rng: np.random.Generator, height: int, width: int
) -> tuple[ObjectClass, list[Individual], np.ndarray]:
    """Return a class, several individuals, and a box that begins where they lie."""
    name = str(rng.choice(_CROWDS))
    cls = next(c for c in CLASSES if c.name == name)
    individuals = [individual_of(cls, rng) for _ in range(rng.integers(4, 8))]
    corner = np.concatenate([rng.uniform(0, 0.6, 2), [0, 0]])
    return cls, individuals, corner * [width, height, 0, 0]


def _paint_object(
    picture: np.ndarray,
    behind: Sequence[Object],
    individuals: Sequence[Individual],
    box: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Paint an object over the picture and over what is behind it; return its coverage.

    box: pixels x0, y0, x1, y1; of several individuals the corner alone counts.
    """
    height, width = picture.shape[:2]
    coverage = np.zeros((height, width), np.float32)
    for individual in individuals:
        place = box
        if len(individuals) > 1:
            corner = box[:2] + rng.uniform(0, 0.25, 2) * [width, height]
            aspects = np.array([individual.aspect, 1 / individual.aspect])
            size = 0.11 * np.sqrt(width * height * aspects)
            place = np.concatenate([corner, np.minimum(corner + size, [width, height])])
        offset = _offset(place, width)
        lean = _LEAN * np.sign(offset) if abs(offset) > _UPRIGHT else 0.0
        painted = render(individual, place, float(lean) + rng.normal(0, 0.05), rng)
        h, w = painted.coverage.shape
        window = np.s_[painted.top : painted.top + h, painted.left : painted.left + w]
        clear = 1 - painted.coverage
        picture[window] = picture[window] * clear[..., None] + painted.colour
        for other in behind:
            other.coverage[window] *= clear
        coverage[window] = coverage[window] * clear + painted.coverage
    return coverage
