"""The sample's part in the layout of SketchyCOCO-SL: photographs, each with a drawing of the scene.

A person draws a scene from memory: some objects are forgotten, the others stand roughly where they
stood and are roughly as large, each with an error of its own and all with one in common. Grass and
clouds are scribbled in and belong to no object.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataloaders.sl_pairs import CLASSES as CLASS_NAMES
from dataloaders.sl_pairs import COLUMNS
from prep_data.sample.objects import CLASSES, GRASS, SKY, individual_of
from prep_data.sample.pen import draw
from prep_data.sample.scenes import Object, Scene, make_scene

_NUMBERS = {name: number for number, name in CLASS_NAMES.items()}
_KNOWN = tuple(cls for cls in CLASSES if cls.name in _NUMBERS)
_CLOUDS = next(cls for cls in CLASSES if cls.name == "clouds")
_COUNTS = (0.04, 0.32, 0.3, 0.22, 0.12)  # of photographs that have 1, 2, ... objects
_FORGOTTEN = 0.2  # of the objects
_FIRST_ID = 900_000_000  # of the photographs: far from those of the COCO part
_OVERSAMPLING = 3


def folders(split_folder: Path) -> Iterator[Path]:
    """Yield the folders that `write_pair` writes into."""
    for side in ("image", "sketch"):
        yield split_folder / side / "Image"
        yield split_folder / side / "GraphFeatures"


def write_pair(folder: Path, seed: int, task: tuple[str, int]) -> None:
    """Write one pair. task: 'train' or 'test', and the number of the pair."""
    split, index = task
    rng = np.random.default_rng([seed, 3, split == "test", index])
    image_id = _FIRST_ID + 2 * index + (split == "test")
    seen: list[tuple[Object, np.ndarray]] = []
    while not seen:  # of an object that had no room nothing can be seen
        scene = make_scene(rng, _KNOWN, _COUNTS, heaps=0.0)
        seen = visible_objects(scene)
    drawing, drawn = draw_from_memory(seen, scene.labels, rng)
    for side, picture, suffix, rows in (
        ("image", Image.fromarray(scene.image), "jpg", seen),
        ("sketch", drawing, "png", drawn),
    ):
        place = folder / split / side
        picture.save(place / "Image" / f"{image_id:012d}.{suffix}", quality=90)
        with (place / "GraphFeatures" / f"{image_id}.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for k, (thing, box) in enumerate(rows):
                table.writerow([k, _NUMBERS[thing.cls.name], *box.tolist()])


def visible_objects(scene: Scene) -> list[tuple[Object, np.ndarray]]:
    """Return the objects of a scene that can be seen, each with its box: int64, pixels."""
    boxes = [_visible(thing.coverage) for thing in scene.objects]
    return [(thing, box) for thing, box in zip(scene.objects, boxes) if box is not None]


def _visible(coverage: np.ndarray) -> np.ndarray | None:
    """Return the box of what is covered by half or more; None when hardly anything is.

    coverage: float32 (h, w). A box is int64 x0, y0, x1, y1 in pixels.
    """
    seen = coverage >= 0.5
    if seen.sum() < 20:
        return None
    points = np.argwhere(seen)[:, ::-1]
    return np.concatenate([points.min(axis=0), points.max(axis=0) + 1])


def draw_from_memory(
    seen: list[tuple[Object, np.ndarray]], labels: np.ndarray, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[Object, np.ndarray]]]:
    """Return the drawing, grey on white, and each object that is not forgotten with its box there:
    int64, pixels.

    seen: objects with their boxes in the photograph, at least one. labels: category ids of the
    photograph's pixels, which say where grass and sky are.
    """
    kept = rng.random(len(seen)) >= _FORGOTTEN
    kept[rng.integers(len(seen))] = True
    height, width = labels.shape
    page = np.array([width, height])
    sheet = Image.new("L", tuple((page * _OVERSAMPLING).tolist()), 255)
    pen = ImageDraw.Draw(sheet)
    common_size = np.exp(rng.normal(-0.15, 0.15))
    common_shift = rng.normal(0, 0.05, 2) * page
    drawn = []
    for thing, box in (pair for pair, stays in zip(seen, kept) if stays):
        size, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
        centre = (centre - page / 2) * common_size + page / 2 + common_shift
        centre = centre + rng.normal(0, 0.2, 2) * size
        side = np.sqrt(np.prod(size)) * common_size * np.exp(rng.normal(0, 0.2))
        strokes = _strokes(draw(thing.individuals[0], rng), centre, side, page)
        thick = rng.uniform(1.3, 2.4)
        _trace(pen, strokes, thick)
        points = np.concatenate(strokes)
        low = np.floor(points.min(axis=0) - thick / 2)
        high = np.ceil(points.max(axis=0) + thick / 2)
        corners = np.concatenate([np.maximum(low, 0), np.minimum(high, page)])
        drawn.append((thing, corners.astype(np.int64)))
    _scribble(pen, labels, rng)
    return sheet.reduce(_OVERSAMPLING), drawn


def _strokes(
    drawing: np.ndarray, centre: np.ndarray, side: float, page: np.ndarray
) -> list[np.ndarray]:
    """Return the lines of a drawing in pixels of the page, float64 (points, 2) each.

    side: root of the area of their box, which is moved, and made smaller if it must be, to lie on
    the page.
    """
    points = np.cumsum(drawing[:, :2].astype(np.float64), axis=0)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1)
    scale = min(side / np.sqrt(np.prod(extent)), *(0.95 * page / extent))
    half = extent * scale / 2
    centre = np.clip(centre, half, page - half)
    points = (points - (low + high) / 2) * scale + centre
    return np.split(points, np.flatnonzero(drawing[:-1, 2]) + 1)


def _trace(pen: ImageDraw.ImageDraw, strokes: list[np.ndarray], thick: float) -> None:
    """Draw lines; thick: pixels of the page."""
    for stroke in strokes:
        corners = [tuple(point) for point in (stroke * _OVERSAMPLING).tolist()]
        pen.line(corners, fill=0, width=round(thick * _OVERSAMPLING), joint="curve")


def _scribble(pen: ImageDraw.ImageDraw, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Draw tufts of grass where there is grass, clouds where there is sky."""
    height, width = labels.shape
    for ground, most in ((GRASS, 9), (SKY, 4)):
        places = np.argwhere(labels == ground)[:, ::-1]
        if not len(places):
            continue
        for spot in places[rng.integers(len(places), size=rng.integers(most))].astype(np.float64):
            if ground == GRASS:
                blades = rng.integers(4, 7)
                foot = spot + np.stack([np.linspace(0, 14, blades), rng.normal(0, 1, blades)], 1)
                tips = foot + np.stack([rng.normal(0, 3, blades), -rng.uniform(7, 14, blades)], 1)
                strokes = list(np.stack([foot, tips], axis=1))
            else:
                cloud = draw(individual_of(_CLOUDS, rng), rng)
                side = rng.uniform(0.06, 0.14) * width
                strokes = _strokes(cloud, spot, side, np.array([width, height]))
            _trace(pen, strokes, rng.uniform(1.0, 1.8))
