"""Picture files as they are found, brought to photographs and sketches as the models see them.

No TensorFlow here: preparation's workers import this module.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataloaders import sketches

# Mean record on 751 photographs of COCO: scene 37 kB at 43 dB, crop 4.7 kB at 40 dB (12 and 10
# times smaller than gzipped float32). 4:4:4: colour is half of what tells classes apart.
SCENE_QUALITY = 95
CROP_QUALITY = 90
# Pixels a side, known before anything is decoded: a huge file could fill the memory.
MAX_PHOTO_SIDE = 8192
MAX_SIDE = 2048  # of a drawing; official ones have some hundreds
# All that the sets have. Pillow knows many more, some by seldom used decoders, and gives PostScript
# to an interpreter.
_FORMATS = ("JPEG", "PNG")
_MIN_INK = 16  # of 255: fainter than this is paper
_MIN_EXTENT = 3  # pixels: anything smaller is a dot, and would become a black square


class Skip(Exception):  # noqa: N818
    """A photograph, sketch or region cannot be used; says why, as a phrase fit for a heading."""


class Problem(NamedTuple):
    """One thing that is left out."""

    reason: str  # a phrase fit for a heading
    name: str  # of the thing


class Photo(NamedTuple):
    """A photograph as it is stored, and the size of its file."""

    pixels: np.ndarray  # uint8 (side, side, 3)
    width: int  # of the file, pixels
    height: int


# ---- photographs -----------------------------------------------------------------------------


def load_photo(path: Path, side: int, size: tuple[int, int] | None = None) -> Photo:
    """Read a photograph, resized to uint8 (side, side, 3): aspect not kept, antialiased bilinear.

    size: width and height that its annotations are for, where they say so. Raises Skip when it is
    missing, broken, too large, or of another size.
    """
    try:
        with _opened(path) as image:
            if size is not None and image.size != size:
                raise Skip("photograph of another size than its annotation says")
            if max(image.size) > MAX_PHOTO_SIDE:
                raise Skip(f"photograph of more than {MAX_PHOTO_SIDE} pixels a side")
            # Grey, CMYK and palette photographs become RGB here.
            rgb = image.convert("RGB")
    except Skip:
        raise
    except FileNotFoundError as error:
        raise Skip("photograph missing") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Skip("photograph broken") from error
    resized = rgb.resize((side, side), Image.Resampling.BILINEAR)
    return Photo(np.asarray(resized), rgb.width, rgb.height)


def _opened(path: Path) -> Image.Image:
    # From memory, where a forged length reads no more than there is: from a file Pillow asks for
    # all that it states.
    return Image.open(io.BytesIO(path.read_bytes()), formats=_FORMATS)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return the bytes of a JPEG without chroma subsampling. pixels: uint8 (H, W, 3); quality: 1 to
    95."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


# ---- sketches --------------------------------------------------------------------------------


def load_sketch(path: Path, side: int) -> np.ndarray:
    """Read a sketch and bring it to the canvas by `normalise_drawing`: uint8 (side, side).

    Raises Skip when the file is broken or shows nothing.
    """
    return normalise_drawing(load_drawing(path), side)


def load_drawing(path: Path) -> np.ndarray:
    """Read a drawing as it is: uint8 (h, w), 255 = white paper.

    Grey, palette and RGB of 1 to 16 bits; what is transparent shows white paper. Raises Skip when
    the file is missing, broken or too large.
    """
    try:
        with _opened(path) as image:
            if max(image.size) > MAX_SIDE:
                raise Skip(f"sketch of more than {MAX_SIDE} pixels a side")
            return grey_on_white(image)
    except Skip:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Skip("sketch broken") from error


def grey_on_white(image: Image.Image) -> np.ndarray:
    """Return a picture on white paper: uint8 (h, w)."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        return (np.asarray(image) >> 8).astype(np.uint8)
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    rgba = image.convert("RGBA")
    paper = Image.new("RGBA", rgba.size, "white")
    paper.alpha_composite(rgba)
    return np.asarray(paper.convert("L"))


def normalise_drawing(grey: np.ndarray, side: int) -> np.ndarray:
    """Bring a drawing to the canvas as drawings of Quick, Draw! come (dataloaders.sketches), so
    that the encoder sees one kind of sketch: uint8 (side, side), 255 = white paper, 0 = line.

    grey: uint8 (h, w), dark on light. The longest side of the ink's box fills the canvas less the
    margin, the box is centred, its aspect kept; resampled with antialiasing (triangle filter). The
    darkest ink becomes black: pencil is grey, and a thin line pales when it is made smaller. How
    wide lines are is left as drawn. Raises Skip when there is nothing but paper or a dot.
    """
    ink = 255 - grey
    # A quarter of the darkest: edges of lines and specks of compression are no part of the box.
    dark = ink > max(int(ink.max()) // 4, _MIN_INK)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    if not len(rows):
        raise Skip("sketch shows nothing")
    low = np.array([columns[0], rows[0]])
    high = np.array([columns[-1], rows[-1]]) + 1
    longest = int((high - low).max())
    if longest < _MIN_EXTENT:
        raise Skip("sketch shows nothing")
    # The canvas reaches beyond the picture: `pad` of white paper on each side is enough.
    half = longest * side / (side - 2 * sketches.MARGIN) / 2
    pad = int(np.ceil(half))
    middle = (low + high) / 2 + pad
    padded = Image.fromarray(np.pad(ink, pad).astype(np.float32))  # no rounding on the way
    window = (*(middle - half).tolist(), *(middle + half).tolist())
    small = np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR, window))
    return 255 - np.rint(small * (255 / small.max())).astype(np.uint8)
