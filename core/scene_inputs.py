"""Check the pictures and boxes that people give to a run, and bring them to the form of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from core.errors import UserError
from dataloaders import images

ImageLike = np.ndarray | Image.Image
MAX_OBJECTS = 8  # of a scene: no prepared scene has more, so no model was trained on more
ROUNDING = 1e-3  # boxes that stick out so far are clipped


def check_counts(scenes: Sequence[Sequence[ImageLike]], boxes: Sequence[np.ndarray]) -> None:
    """Raise UserError unless every scene has a box for each of its sketches."""
    for number, (sketches, scene_boxes) in enumerate(zip(scenes, boxes)):
        if len(sketches) != len(scene_boxes):
            raise UserError(
                f"sketched scene {number} has {len(sketches)} sketches and {len(scene_boxes)} "
                "boxes: give one box for each sketch"
            )


def checked_boxes(boxes: Sequence[np.ndarray], count: int, what: str) -> list[np.ndarray]:
    """Return the boxes of each scene as float32 (n, 4); UserError naming the first wrong one."""
    if len(boxes) != count:
        raise UserError(f"{count} {what}s and boxes for {len(boxes)}: give boxes for each")
    checked = []
    for number, scene_boxes in enumerate(boxes):
        try:
            array = np.asarray(scene_boxes, np.float32)
        except (TypeError, ValueError):
            array = np.zeros(0, np.float32)
        name = f"the boxes of {what} {number}"
        if array.ndim != 2 or array.shape[1] != 4:
            raise UserError(f"{name} must be numbers (n, 4): x0, y0, x1, y1 of each object")
        if not 1 <= len(array) <= MAX_OBJECTS:
            raise UserError(
                f"{what} {number} has {len(array)} objects: give 1 to {MAX_OBJECTS}, the most "
                "important ones"
            )
        inside = ((array >= -ROUNDING) & (array <= 1 + ROUNDING)).all()  # False for NaN
        if not inside or (array[:, :2] >= array[:, 2:]).any():
            raise UserError(
                f"{name} must be x0, y0, x1, y1 in [0, 1] of the picture with x0 < x1 and y0 < y1: "
                "divide pixels by its width and height, and turn widths and heights into corners"
            )
        checked.append(np.clip(array, 0.0, 1.0))
    return checked


def photo_pixels(image: ImageLike, side: int, number: int) -> np.ndarray:
    """Return a photograph as preparation stores it: uint8 (side, side, 3)."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"photograph {number} is {image.dtype} {image.shape}: give uint8 (height, width, "
                "3), or a PIL image"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"photograph {number} is no NumPy array and no PIL image: open it first")
    try:
        rgb = images.rgb_picture(image, f"photograph {number}")
    except images.Skip as reason:
        raise UserError(f"{reason}: give a whole picture of 8 or 16 bits") from None
    return np.asarray(rgb.resize((side, side), Image.Resampling.BILINEAR))


def grey_pixels(sketch: ImageLike) -> np.ndarray:
    """Return a sketch as uint8 (h, w), 255 = white paper."""
    if isinstance(sketch, np.ndarray):
        grey = sketch[..., 0] if sketch.ndim == 3 and sketch.shape[2] == 1 else sketch
        if grey.dtype != np.uint8 or grey.ndim != 2 or not grey.size:
            raise UserError(
                f"a sketch is {sketch.dtype} {sketch.shape}: give uint8 (height, width), 255 for "
                "white paper, or a PIL image"
            )
        sketch = grey
    elif not isinstance(sketch, Image.Image):
        raise UserError("a sketch is no NumPy array and no PIL image: open it first")
    try:
        return images.grey_drawing(sketch)
    except images.Skip as reason:
        raise UserError(f"a {reason}: give dark lines on white paper") from None


def on_canvas(grey: np.ndarray, side: int) -> np.ndarray:
    """Return a sketch on the canvas of the training data's: uint8 (side, side)."""
    try:
        return images.normalise_drawing(grey, side)
    except images.Skip:
        raise UserError(
            "a sketch shows nothing: leave its object out, or draw dark lines on white paper"
        ) from None
