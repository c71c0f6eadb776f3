"""What workers do with one scene of SketchyCOCO: as coco_pixels, and a sketch of each object.

Pure functions of their arguments and the files these name. No TensorFlow here: workers import
this module (see prep_data.common).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataloaders import sketches
from prep_data.coco_annotations import CocoHParams, Photo
from prep_data.coco_pixels import Skip, make_scene
from prep_data.common import Done, Problem

MAX_SIDE = 2048  # pixels; official sketches have some hundreds, a forged one could fill the memory
_MIN_INK = 16  # of 255: fainter than this is paper
_MIN_EXTENT = 3  # pixels: anything smaller is a dot, and would become a black square


class PairedPhoto(NamedTuple):
    """The task of a worker."""

    photo: Photo  # its objects are those that have a sketch
    sketches: tuple[Path, ...]  # of each object, in their order


def load_sketch(path: Path, side: int) -> np.ndarray:
    """The sketch of a picture file, brought to the canvas by `fit`: uint8 (side, side).

    Grey, palette and RGB of 1 to 16 bits; what is transparent shows white paper. Raises Skip when
    the file is broken or shows nothing.
    """
    try:
        with Image.open(path) as image:
            if max(image.size) > MAX_SIDE:
                raise Skip(f"sketch of more than {MAX_SIDE} pixels a side")
            grey = _grey(image)
    except Skip:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise Skip("sketch broken") from error
    return fit(grey, side)


def _grey(image: Image.Image) -> np.ndarray:
    """uint8 (h, w) of a picture on white paper."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        return (np.asarray(image) >> 8).astype(np.uint8)
    rgba = image.convert("RGBA")
    paper = Image.new("RGBA", rgba.size, "white")
    paper.alpha_composite(rgba)
    return np.asarray(paper.convert("L"))


def fit(grey: np.ndarray, side: int) -> np.ndarray:
    """Brings a drawing to the canvas as drawings of Quick, Draw! come (dataloaders.sketches), so
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


def make_paired_scene(task: PairedPhoto, hparams: CocoHParams) -> Done:
    """One payload for SceneRecord.encode (as keywords), or none; counts `objects`. Objects whose
    sketch cannot be used are left out."""
    problems: list[Problem] = []
    drawn: dict[int, bytes] = {}
    for region, path in zip(task.photo.objects, task.sketches):
        try:
            drawn[region.annotation_id] = sketches.encode_png(load_sketch(path, hparams.crop_size))
        except Skip as reason:
            problems.append(Problem(str(reason), short_name(path)))
    left = tuple(region for region in task.photo.objects if region.annotation_id in drawn)
    done = make_scene(task.photo._replace(objects=left), hparams)
    for payload in done.records:
        payload["sketches"] = [drawn[id_] for id_ in payload["annotation_ids"]]
    return done._replace(problems=[*problems, *done.problems])


def short_name(path: Path) -> str:
    """How a report names a sketch file: 'train/cat/123.png'."""
    return "/".join(path.parts[-3:])
