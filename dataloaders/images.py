"""Picture files as they are found, brought to photographs and sketches as the models see them.

No TensorFlow here: preparation's workers import this module.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.errors import first_line
from core.files import regular_file
from dataloaders import sketches

# Mean record on 751 photographs of COCO: scene 37 kB at 43 dB, crop 4.7 kB at 40 dB (12 and 10
# times smaller than gzipped float32). 4:4:4: colour is half of what tells classes apart.
SCENE_QUALITY = 95
CROP_QUALITY = 90
# Pixels a side, known before anything is decoded: a huge file could fill the memory.
MAX_PHOTO_SIDE = 8192
MAX_SIDE = 2048  # of a drawing; official ones have some hundreds
# Told by content, whatever the name. Pillow knows many more, some by seldom used decoders, and
# gives PostScript to an interpreter.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
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


# ---- picture files ---------------------------------------------------------------------------


def open_picture(path: Path, what: str, max_side: int) -> Image.Image:
    """Open a picture, not decoded yet: of several, the first. Raises Skip, which names it `what`,
    when it is missing, of another format or too large."""
    try:
        data = regular_file(path).read_bytes()
    except FileNotFoundError as error:
        raise Skip(f"{what} missing") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise Skip(f"{what} that cannot be read ({first_line(error)})") from error
    return decode_picture(data, what, max_side)


def decode_picture(data: bytes, what: str, max_side: int) -> Image.Image:
    """Return the picture of a file's bytes as `open_picture`."""
    too_large = Skip(f"{what} of more than {max_side} pixels a side")
    try:
        # From memory, where a forged length reads no more than there is: from a file Pillow asks
        # for all that it states.
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        known = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise Skip(f"{what} that is no whole {known}" if data else f"{what} broken") from error
    except Image.DecompressionBombError as error:
        raise too_large from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Skip(f"{what} broken") from error
    if max(image.size) > max_side:
        raise too_large
    return image


def rgb_picture(image: Image.Image, what: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture of any of Pillow's modes as 8-bit RGB, turned upright as its EXIF data say.

    What is transparent shows white paper; embedded colour profiles are not applied. size: of the
    picture that its annotations are for, which is left as it is stored if only so it has this size.
    Raises Skip, which names the picture `what`, when it is damaged or its white is not known.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Skip(f"{what} broken") from error
    with contextlib.suppress(Exception):  # and so does this on damaged EXIF data
        upright = ImageOps.exif_transpose(image)
        if not size == image.size != upright.size:
            image = upright
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise Skip(f"{what} of 32 bits a channel, whose white is not known")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return image if image.mode == "RGB" else image.convert("RGB")


# ---- photographs -----------------------------------------------------------------------------


def load_photo(path: Path, side: int, size: tuple[int, int] | None = None) -> Photo:
    """Read a photograph, resized to uint8 (side, side, 3): aspect not kept, antialiased bilinear.

    size: width and height that its annotations are for, where they say so. Raises Skip when it is
    missing, broken, too large, or of another size.
    """
    rgb = rgb_picture(open_picture(path, "photograph", MAX_PHOTO_SIDE), "photograph", size)
    if size not in (None, rgb.size):
        raise Skip("photograph of another size than its annotation says")
    resized = rgb.resize((side, side), Image.Resampling.BILINEAR)
    return Photo(np.asarray(resized), rgb.width, rgb.height)


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

    Raises Skip when the file is missing, broken or too large, or its paper is not white.
    """
    return grey_drawing(open_picture(path, "sketch", MAX_SIDE))


def grey_drawing(drawing: Image.Image | np.ndarray) -> np.ndarray:
    """Return a drawing as uint8 (h, w), as an array of which it may come. Raises Skip when it is
    damaged or its paper is not white."""
    if isinstance(drawing, Image.Image):
        drawing = np.asarray(rgb_picture(drawing, "sketch").convert("L"))
    dark = _dark(drawing)
    # Dense lines fill a small page, and a square drawn up to the edges fills its frame: not both.
    frame = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    if dark.mean() > 0.5 and frame.mean() > 0.5:
        raise Skip("sketch whose paper is not white")
    return drawing


def _dark(grey: np.ndarray) -> np.ndarray:
    """Return bool (h, w), what is darker than a quarter of the darkest: edges of lines and specks
    of compression are no ink."""
    ink = 255 - grey
    return ink > max(int(ink.max()) // 4, _MIN_INK)


def normalise_drawing(grey: np.ndarray, side: int) -> np.ndarray:
    """Bring a drawing to the canvas as drawings of Quick, Draw! come (dataloaders.sketches), so
    that the encoder sees one kind of sketch: uint8 (side, side), 255 = white paper, 0 = line.

    grey: uint8 (h, w), dark on light. The longest side of the ink's box fills the canvas less the
    margin, the box is centred, its aspect kept; resampled with antialiasing (triangle filter). The
    darkest ink becomes black: pencil is grey, and a thin line pales when it is made smaller. How
    wide lines are is left as drawn. Raises Skip when there is nothing but paper or a dot.
    """
    dark = _dark(grey)
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
    padded = Image.fromarray(np.pad(255 - grey, pad).astype(np.float32))  # no rounding on the way
    window = (*(middle - half).tolist(), *(middle + half).tolist())
    small = np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR, window))
    return 255 - np.rint(small * (255 / small.max())).astype(np.uint8)
