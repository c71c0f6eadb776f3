"""Drawings as pen strokes -> small grey pictures. No TensorFlow, so that workers stay light.

A drawing is the Quick, Draw! sketch-rnn form: rows (dx, dy, pen_lift). Row i moves the pen by
(dx, dy), y downwards, from where row i - 1 left it; pen_lift != 0 says the pen leaves the paper
AFTER row i. The first row starts at (0, 0) and is a move, never a line.
"""

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

SIDE = 96
LINE_WIDTH = 2.0
MARGIN = 2.0  # clear pixels between the line's outer edge and the canvas' edge
MAX_DELTA = 1000
MAX_POINTS = 10_000  # official drawings have some 200; a forged one could hold up a worker
_CHUNK = 1000  # points handed to Agg at once: its cell store is finite, drawings are not


class _Pen(NamedTuple):
    """Path of the pen: positions float64 (P, 2); line bool (P,), a line leads to position i;
    low, high float64 (2,): the box of all lines."""

    positions: np.ndarray
    line: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _follow(strokes: np.ndarray) -> _Pen | str:
    """Follows the pen; a text instead says why the drawing shows nothing."""
    if strokes.ndim != 2 or strokes.shape[1] != 3 or strokes.dtype.kind not in "iuf":
        return "not numbers of shape (points, 3)"
    if strokes.dtype.kind == "f" and not np.isfinite(strokes).all():
        return "not finite"
    if len(strokes) > MAX_POINTS:
        return f"more than {MAX_POINTS} points"
    line = np.zeros(len(strokes), bool)
    np.equal(strokes[:-1, 2], 0, out=line[1:])
    if not line.any():
        return "no line (no points, a single one, or the pen never touches the paper)"
    steps = strokes[:, :2].astype(np.float64)
    np.minimum(np.maximum(steps, -MAX_DELTA, out=steps), MAX_DELTA, out=steps)
    positions = np.cumsum(steps, axis=0)
    ends = line.copy()  # positions at an end of some line; others do not show
    ends[:-1] |= line[1:]
    shown = positions[ends]
    low, high = shown.min(axis=0), shown.max(axis=0)
    if (low == high).all():
        return "no extent (all lines on one point)"
    return _Pen(positions, line, low, high)


def why_not_drawable(strokes: np.ndarray) -> str | None:
    """The reason why a drawing shows nothing, or None when it can be rasterised.

    strokes: (P, 3) of any numeric dtype, rows as in the module's docstring.
    """
    pen = _follow(np.asarray(strokes))
    return pen if isinstance(pen, str) else None


def to_pixels(strokes: np.ndarray, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Pen positions on the canvas, and which of them end a line.

    strokes: (P, 3). Returns float64 (P, 2) x, y in pixels (pixel k spans [k, k + 1], y downwards)
    and bool (P,) line: a line runs from position i - 1 to position i. The longest side of the
    lines' box fills the canvas less the margin; the box is centred. Raises ValueError for a
    drawing that shows nothing (`why_not_drawable`).

    Original: longest side 48 of the 96 px; here it fills the canvas less a margin, because photo
    crops fill theirs too and three quarters of the pixels would carry nothing.
    """
    pen = _follow(np.asarray(strokes))
    if isinstance(pen, str):
        raise ValueError(f"drawing cannot be rasterised: {pen}")
    scale = (side - LINE_WIDTH - 2 * MARGIN) / (pen.high - pen.low).max()
    return (pen.positions - (pen.low + pen.high) / 2) * scale + side / 2, pen.line


@lru_cache(maxsize=2)
def _canvas(side: int) -> tuple:
    """Agg's renderer used without a figure (ten times faster): dpi 72 makes one point one pixel."""
    renderer = RendererAgg(side, side, 72)
    pen = renderer.new_gc()
    pen.set_linewidth(LINE_WIDTH)
    pen.set_foreground((0.0, 0.0, 0.0, 1.0))
    pen.set_antialiased(True)
    pen.set_capstyle("round")
    pen.set_joinstyle("round")
    pen.set_snap(False)
    y_down = Affine2D().scale(1, -1).translate(0, side)  # Agg counts y upwards
    return renderer, pen, y_down


def rasterise(strokes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Draws a drawing: uint8 (side, side), 255 = white paper, 0 = black line, anti-aliased, 2 px.

    strokes: (P, 3) numeric rows (dx, dy, pen_lift); deltas are clipped to [-1000, 1000]. A line of
    no length is a dot. Raises ValueError for a drawing that shows nothing (`why_not_drawable`).

    Original: aliased lines; here anti-aliased, because at 96 px the staircase is texture that no
    pencil makes.
    """
    positions, line = to_pixels(strokes, side)
    dots = np.zeros(len(line), bool)
    dots[1:] = line[1:] & (positions[1:] == positions[:-1]).all(axis=1)
    positions[dots, 0] += 0.01  # Agg draws no cap on a line without direction
    codes = np.where(line, Path.LINETO, Path.MOVETO).astype(np.uint8)
    renderer, pen, y_down = _canvas(side)
    renderer.clear()
    for start in range(0, len(codes), _CHUNK):
        first = max(start - 1, 0)
        part = codes[first : start + _CHUNK].copy()
        part[0] = Path.MOVETO
        path = Path(positions[first : start + _CHUNK], part)
        path.should_simplify = False
        renderer.draw_path(pen, path, y_down)
    return 255 - np.asarray(renderer.buffer_rgba())[:, :, 3]


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encode_png(image: np.ndarray) -> bytes:
    """Return the PNG of uint8 grey (H, W) in 16 greys, 0, 17 to 255: at most 8 of 255 off.

    4 bits a pixel, in unfiltered rows: line art deflates best and decodes fastest so.
    """
    height, width = image.shape
    if image.dtype != np.uint8:
        raise ValueError(f"expected uint8 pixels, got {image.dtype}")
    greys = np.zeros((height, width + width % 2), np.uint8)
    greys[:, :width] = (image.astype(np.uint16) + 8) // 17
    # Two pixels a byte, the left one above; each row is led by its filter type, 0.
    rows = np.pad(greys[:, ::2] << 4 | greys[:, 1::2], ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + _png_chunk(b"IEND", b"")
    )
