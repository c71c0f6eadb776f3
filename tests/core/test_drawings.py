"""Whole drawings against PIL, sketch by sketch."""

import numpy as np
import pytest
from PIL import Image

from core.drawings import INK, compose_drawings, scene_drawings
from dataloaders.batches import SceneBatch, SceneGraph


def slow_drawings(sketches, boxes, obj_to_img, num_scenes, side):
    """Crop, resize and paste one sketch after the other."""
    drawings = np.full((num_scenes, side, side), 255, np.uint8)
    for sketch, box, scene in zip(sketches[..., 0], boxes, obj_to_img):
        rows, columns = (np.flatnonzero((sketch < INK).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            sketch = sketch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        x0, y0 = np.clip(np.floor(box[:2] * side).astype(int), 0, side - 1)
        x1, y1 = np.clip(np.ceil(box[2:] * side).astype(int), (x0 + 1, y0 + 1), side)
        drawn = Image.fromarray(sketch).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
        place = drawings[scene, y0:y1, x0:x1]
        place[:] = np.minimum(place, np.asarray(drawn))
    return drawings[..., None]


def random_scenes(seed, objects=40, scenes=12, size=32):
    rng = np.random.default_rng(seed)
    sketches = np.full((objects, size, size, 1), 255, np.uint8)
    for sketch in sketches:
        x, y = sorted(rng.integers(0, size, 2)), sorted(rng.integers(0, size, 2))
        part = sketch[y[0] : y[1] + 1, x[0] : x[1] + 1]
        part[:] = rng.integers(0, 256, part.shape)
    boxes = np.sort(rng.uniform(-0.05, 1.05, (objects, 2, 2)), axis=1).reshape(-1, 4)
    # Not every scene has objects.
    return sketches, boxes.astype(np.float32), np.sort(rng.integers(0, scenes, objects)), scenes


@pytest.mark.parametrize("side", [7, 32, 100])
def test_equals_pillow(side):
    scenes = random_scenes(side)
    drawings = compose_drawings(*scenes, side).numpy()
    assert drawings.dtype == np.uint8 and drawings.shape == (12, side, side, 1)
    # Pillow rounds to whole greys between its two passes.
    np.testing.assert_allclose(drawings, slow_drawings(*scenes, side), atol=2)


def test_lines_fill_their_box_and_the_darkest_wins():
    square = np.full((1, 8, 8, 1), 255, np.uint8)
    square[0, 2:4, 5:7] = 100
    sketches = np.concatenate([square, square, np.full_like(square, 255)])
    boxes = np.array([[0, 0, 0.5, 1], [0.25, 0.5, 0.75, 1], [0, 0, 1, 1]], np.float32)
    sketches[1] = np.where(square[0] == 100, 40, 255)
    drawing = compose_drawings(sketches, boxes, np.zeros(3, np.int32), 1, 4).numpy()[0, ..., 0]
    assert drawing.tolist() == [
        [100, 100, 255, 255],
        [100, 100, 255, 255],
        [100, 40, 40, 255],
        [100, 40, 40, 255],
    ]


def test_scenes_without_objects_are_white_paper():
    empty = compose_drawings(
        np.zeros((0, 8, 8, 1), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int32), 2, 5
    )
    assert (empty.numpy() == 255).all() and empty.shape == (2, 5, 5, 1)


def test_drawings_of_a_batch_are_its_own_or_composed():
    sketches, boxes, obj_to_img, scenes = random_scenes(1)
    graph = SceneGraph(None, boxes, obj_to_img, None)
    batch = SceneBatch(np.arange(scenes), query=graph, sketches=sketches)
    composed = compose_drawings(sketches, boxes, obj_to_img, scenes, 20)
    np.testing.assert_array_equal(scene_drawings(batch, 20), composed)
    page = np.random.default_rng(2).integers(0, 256, (1, 20, 20, 1), np.uint8)
    whole = SceneBatch(np.arange(1), drawings=page)
    smaller = Image.fromarray(page[0, ..., 0]).resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(scene_drawings(whole, 5)[0, ..., 0], np.asarray(smaller), atol=1)
    assert scene_drawings(whole, 20) is page
