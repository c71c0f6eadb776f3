"""Layouts of 16 scenes of 5 objects and 3 pieces of stuff at 256x256."""

from __future__ import annotations

import time

import numpy as np

from tests.benchmarks.harness import Bench, Numbers, Setting, compared, repeat

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
    """Layouts a pixel at a time in plain Python, as one would first write it; the nearest stuff is
    looked for in growing squares. One scene, counted as 16."""
    side = setting.size(256, 32)
    objects, stuff = (tuple(part.tolist() for part in each) for each in _scenes(1))
    start = time.perf_counter()
    label, instance = _painted(stuff, side, len(objects[0]))
    _fill(label, instance, side)
    over = _painted(objects, side, 0)
    for row in range(side):
        for column in range(side):
            if over[1][row][column]:
                label[row][column] = over[0][row][column]
                instance[row][column] = over[1][row][column]
    return {"median": (time.perf_counter() - start) * setting.size(16, 2)}


def _painted(pieces: tuple, side: int, before: int) -> tuple[list, list]:
    """Labels and instances, the larger first. before: the number that instances go on from."""
    label = [[255] * side for _ in range(side)]
    instance = [[0] * side for _ in range(side)]
    painted = []
    for number, (mask, box, name, _) in enumerate(zip(*pieces), before + 1):
        at = ((row, column) for row in range(side) for column in range(side))
        painted.append(([p for p in at if _covers(mask, box, *p, side)], name, number))
    for pixels, name, number in sorted(painted, key=lambda piece: -len(piece[0])):
        for row, column in pixels:
            label[row][column], instance[row][column] = name, number
    return label, instance


def _covers(mask: list, box: list, row: int, column: int, side: int) -> bool:
    x, y, size = (column + 0.5) / side, (row + 0.5) / side, len(mask)
    if not (box[0] <= x < box[2] and box[1] <= y < box[3]):
        return False
    u = min(max((x - box[0]) / (box[2] - box[0]) * size - 0.5, 0.0), size - 1)
    v = min(max((y - box[1]) / (box[3] - box[1]) * size - 0.5, 0.0), size - 1)
    left, top = int(u), int(v)
    right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
    above = mask[top][left] * (1 - u + left) + mask[top][right] * (u - left)
    below = mask[bottom][left] * (1 - u + left) + mask[bottom][right] * (u - left)
    return above * (1 - v + top) + below * (v - top) >= 0.5


def _fill(label: list, instance: list, side: int) -> None:
    holes = [(i, j) for i in range(side) for j in range(side) if not instance[i][j]]
    found = [_nearest(instance, i, j, side) for i, j in holes]
    for (i, j), (row, column) in zip(holes, found):
        label[i][j], instance[i][j] = label[row][column], instance[row][column]


def _nearest(instance: list, i: int, j: int, side: int) -> tuple[int, int]:
    best, at = 2 * side * side, (i, j)
    reach = 1
    while reach < side and reach * reach < best:
        for row in range(max(i - reach, 0), min(i + reach + 1, side)):
            step = 1 if abs(row - i) == reach else 2 * reach
            for column in range(j - reach, j + reach + 1, step):
                if 0 <= column < side and instance[row][column]:
                    distance = (row - i) ** 2 + (column - j) ** 2
                    if distance < best:
                        best, at = distance, (row, column)
        reach += 1
    return at


WHAT = "layouts of 16 scenes over stuff, 256x256 (naive: a pixel at a time)"
ROWS = compared((WHAT, "median", "100 times"))
BENCHES = {"layouts": Bench({"ours": _layouts, "naive": _layouts_naive}, ROWS)}
