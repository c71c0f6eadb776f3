"""Layouts of 16 scenes of 5 objects and 3 pieces of stuff at 256x256."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from tests.benchmarks.harness import Bench, Numbers, Setting, compared, repeat

MASK, BACKGROUND = 64, 255


def _pieces(scenes: int, each: int, size: tuple[float, float]):
    """Round masks in boxes of some size: masks, boxes, classes and scenes."""
    rng = np.random.default_rng(each)
    count = scenes * each
    y, x = np.mgrid[:MASK, :MASK] / (MASK - 1) * 2 - 1
    bent = rng.uniform(0.5, 2, (count, 1, 1))
    masks = (np.abs(x) ** (2 * bent) + np.abs(y) ** 2 < 1).astype(np.uint8)
    side = rng.uniform(*size, (count, 2))
    low = rng.uniform(0, 1 - side)
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float32)
    classes = rng.integers(0, 90, count).astype(np.int32)
    return masks, boxes, classes, np.arange(scenes, dtype=np.int32).repeat(each)


def _scenes(count: int):
    return _pieces(count, 5, (0.15, 0.5)), _pieces(count, 3, (0.6, 1.0))


def _layouts(setting: Setting) -> Numbers:
    import tensorflow as tf

    from core.label_maps import label_maps

    scenes, side = setting.size(16, 2), setting.size(256, 32)
    objects, stuff = _scenes(scenes)
    make = tf.function(lambda objects, stuff: label_maps(*objects, scenes, side, stuff))
    return repeat(lambda: make(objects, stuff)[0].numpy(), setting.size(15, 1))


def _layouts_naive(setting: Setting) -> Numbers:
    """Scene by scene in NumPy: all pixels of all masks at once, each the nearest cell of its mask,
    the smallest in front; holes filled by one distance transform. No instances."""
    scenes, side = setting.size(16, 2), setting.size(256, 32)
    both = _scenes(scenes)
    centres = (np.arange(side) + 0.5) / side

    def layer(masks: np.ndarray, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        low, high = boxes[:, :2, None], boxes[:, 2:, None]
        cells = np.floor((centres - low) / (high - low) * MASK).astype(int)  # (n, 2, S)
        inside = (cells >= 0) & (cells < MASK)
        cells = cells.clip(0, MASK - 1)
        each = np.arange(len(masks))[:, None, None]
        covers = masks[each, cells[:, 1, :, None], cells[:, 0, None]] > 0
        covers &= inside[:, 1, :, None] & inside[:, 0, None]
        order = covers.sum((1, 2)).argsort()
        front = covers[order].argmax(0)
        return np.where(covers.any(0), classes[order][front], BACKGROUND)

    def make() -> None:
        for scene in range(scenes):
            labels, ground = (
                layer(*(column[to_img == scene] for column in columns)) for *columns, to_img in both
            )
            nearest = ndimage.distance_transform_edt(
                ground == BACKGROUND, return_distances=False, return_indices=True
            )
            np.where(labels == BACKGROUND, ground[tuple(nearest)], labels)

    return repeat(make, setting.size(15, 1))


ROWS = compared(("layouts of 16 scenes over stuff, 256x256", "median", ""))
BENCHES = {"layouts": Bench({"ours": _layouts, "naive": _layouts_naive}, ROWS)}
