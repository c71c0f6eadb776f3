"""Layouts of 16 scenes of 5 objects and 3 pieces of stuff at 256x256."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.harness import Bench, Numbers, Setting, compared, repeat, stopwatch

MASK = 64


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
    """Objects and stuff a pixel at a time in plain Python, as one would first write it, and holes
    between them left. One scene, counted as 16."""
    from tests.core.test_label_maps import slow

    passed = stopwatch()
    for pieces in _scenes(1):
        slow(*pieces, 1, setting.size(256, 32))
    return {"median": passed() * setting.size(16, 2)}


WHAT = "layouts of 16 scenes over stuff, 256x256 (naive: a pixel at a time)"
ROWS = compared((WHAT, "median", "100 times"))
BENCHES = {"layouts": Bench({"ours": _layouts, "naive": _layouts_naive}, ROWS)}
