"""The rasteriser against a slow reference: how much of a pixel lies within 1 px of some line."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dataloaders import sketches

SUB = 8  # sub-samples of a pixel and direction


def reference(strokes: np.ndarray, side: int = 96) -> np.ndarray:
    """float64 (side, side) brightness in [0, 255], straight from the definition."""
    x = y = 0.0
    pen_down = False  # the first row is a move
    segments = []
    for dx, dy, lift in strokes.tolist():
        start = (x, y)
        x += min(max(dx, -1000), 1000)
        y += min(max(dy, -1000), 1000)
        if pen_down:
            segments.append((*start, x, y))
        pen_down = lift == 0
    s = np.array(segments)
    xs, ys = s[:, [0, 2]], s[:, [1, 3]]
    scale = (side - 6) / max(np.ptp(xs), np.ptp(ys))  # 2 px clear, and half the line
    xs = (xs - (xs.min() + xs.max()) / 2) * scale + side / 2
    ys = (ys - (ys.min() + ys.max()) / 2) * scale + side / 2
    grid = (np.arange(side * SUB) + 0.5) / SUB
    inside = np.zeros((side * SUB, side * SUB), bool)
    for (x0, x1), (y0, y1) in zip(xs, ys):
        length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = (grid[None] - x0) * (x1 - x0) + (grid[:, None] - y0) * (y1 - y0)
        t = np.clip(along / length2, 0, 1) if length2 else np.zeros_like(along)
        distance2 = (grid[None] - x0 - t * (x1 - x0)) ** 2 + (
            grid[:, None] - y0 - t * (y1 - y0)
        ) ** 2
        inside |= distance2 <= 1.0
    coverage = inside.reshape(side, SUB, side, SUB).mean(axis=(1, 3))
    return 255 * (1 - coverage)


def random_drawing(seed: int, points: int = 25) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros((points, 3), np.int16)
    rows[:, :2] = rng.integers(-60, 61, (points, 2))
    rows[:, 2] = rng.random(points) < 0.25
    rows[-1, 2] = 1
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_reference(seed):
    strokes = random_drawing(seed)
    drawn = sketches.rasterise(strokes)
    assert drawn.shape == (96, 96) and drawn.dtype == np.uint8
    difference = drawn - reference(strokes)
    # Where edges of two lines meet in one pixel Agg adds their shares, so crossings come out a
    # little darker; lighter it never is beyond what 64 samples and polygonal caps explain.
    assert np.abs(difference).mean() < 1
    assert difference.max() < 32
    assert np.quantile(-difference, 0.99) < 32


def test_agrees_closely_where_lines_do_not_cross():
    turn = np.linspace(0, 6 * np.pi, 60)
    spiral = np.zeros((60, 3))
    spiral[1:, :2] = np.diff(20 * np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1), axis=0)
    difference = np.abs(sketches.rasterise(spiral) - reference(spiral))
    assert difference.mean() < 0.5 and difference.max() < 24


def test_a_horizontal_line_by_hand():
    drawn = sketches.rasterise(np.array([[7, 7, 0], [50, 0, 0], [50, 0, 1]], np.int16))
    # 96 less twice (2 clear + 1 half a line) = 90 px long, from 3 to 93, rows 47 and 48.
    assert (drawn[47:49, 3:93] == 0).all()
    assert (drawn[:47] == 255).all() and (drawn[49:] == 255).all()
    assert (drawn[:, :2] == 255).all() and (drawn[:, 94:] == 255).all()
    assert (drawn[47:49, 2] < 255).all()  # the round cap


def test_first_row_is_a_move_and_lifted_pens_do_not_draw():
    shape = [[0, 40, 0], [40, 0, 0], [0, -40, 1]]
    moved = sketches.rasterise(np.array([[900, -900, 0], *shape]))
    assert np.array_equal(moved, sketches.rasterise(np.array([[0, 0, 0], *shape])))
    gap = sketches.rasterise(np.array([[0, 0, 0], [40, 0, 1], [20, 0, 0], [40, 0, 1]]))
    assert (gap[47:49, 45:51] == 255).all()
    # A far move at the end is not part of the picture: it must not shrink it.
    tail = np.array([[0, 0, 0], *shape, [800, 800, 1]])
    assert np.array_equal(sketches.rasterise(tail), moved)


def test_place_scale_and_dtype_do_not_matter_but_clipping_does():
    strokes = random_drawing(9).astype(np.int32)
    drawn = sketches.rasterise(strokes)
    larger = strokes * [3, 3, 1]
    assert np.abs(sketches.rasterise(larger).astype(int) - drawn).max() <= 1
    assert np.array_equal(sketches.rasterise(strokes.astype(np.float64)), drawn)
    wild = np.array([[0, 0, 0], [5000, 0, 0], [0, 500, 1]])
    tame = np.array([[0, 0, 0], [1000, 0, 0], [0, 500, 1]])
    assert np.array_equal(sketches.rasterise(wild), sketches.rasterise(tame))
    assert np.array_equal(sketches.rasterise(wild.astype(np.int16)), sketches.rasterise(tame))


def test_a_dot_of_a_drawing_shows():
    drawn = sketches.rasterise(np.array([[0, 0, 0], [90, 0, 1], [-45, 45, 0], [0, 0, 1]]))
    # The box is 90 x 45, so the scale is 1 and the dot is at x 48, y 48 + 22.5.
    assert drawn[70, 47:49].max() < 100
    assert (drawn[55:65, 40:56] == 255).all()


def test_long_drawings_leave_no_gap_between_parts():
    rows = np.zeros((2500, 3), np.int16)
    rows[1:, 0] = 1
    rows[-1, 2] = 1
    straight = sketches.rasterise(np.array([[0, 0, 0], [100, 0, 1]]))
    assert np.abs(sketches.rasterise(rows).astype(int) - straight).max() <= 2


@pytest.mark.parametrize(
    "strokes, reason",
    [
        (np.zeros((0, 3), np.int16), "no line"),
        (np.array([[5, 5, 0]]), "no line"),
        (np.array([[5, 5, 1], [5, 5, 1], [9, 0, 1]]), "no line"),
        (np.array([[5, 5, 0], [0, 0, 0], [0, 0, 1]]), "no extent"),
        (np.array([[0, 0, 0], [np.nan, 1, 1]]), "not finite"),
        (np.array([[0, 0, 0], [np.inf, 1, 1]]), "not finite"),
        (np.zeros((4, 2), np.int16), "shape"),
        (np.array([["a", "b", "c"]]), "shape"),
        (np.ones((20_000, 3), np.int16), "more than 10000 points"),
    ],
)
def test_drawings_that_show_nothing(strokes, reason):
    assert reason in sketches.why_not_drawable(strokes)
    with pytest.raises(ValueError, match=reason):
        sketches.rasterise(strokes)


def test_other_sizes_and_repetition():
    strokes = random_drawing(3)
    small, again = sketches.rasterise(strokes, 32), sketches.rasterise(strokes, 32)
    assert small.shape == (32, 32)
    assert np.array_equal(small, again)
    assert np.abs(small - reference(strokes, 32)).mean() < 4  # mostly crossings


@pytest.mark.parametrize("side", [96, 33])
def test_png_keeps_pixels_to_a_32nd_of_the_greys(side):
    drawn = sketches.rasterise(random_drawing(1), side)
    drawn[:8, :32] = np.arange(256).reshape(8, 32)  # and every grey
    png = sketches.encode_png(drawn)
    decoded = tf.io.decode_png(png)[:, :, 0].numpy()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), decoded)
    assert np.abs(decoded.astype(int) - drawn).max() <= 256 // 32
    assert decoded[drawn == 255].min() == 255 and decoded[drawn == 0].max() == 0
    with pytest.raises(ValueError, match="uint8"):
        sketches.encode_png(drawn.astype(np.float32))


def test_needs_neither_tensorflow_nor_pyplot():
    code = (
        "import sys, dataloaders.sketches, prep_data.npz; "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
