"""Predicted object masks against the true ones, compared with masks that need no model.

Masks are packed: uint8 (n, M * M / 8), `np.packbits` of the row-major binary mask, so that a split
of any size fits in memory and an intersection is one AND.
"""

from __future__ import annotations

import numpy as np

from core.evaluation.figures import Figure, mean_difference, mean_figure
from core.label_maps import BACKGROUND

THRESHOLD = 0.5
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint16)


def pack(masks: np.ndarray) -> np.ndarray:
    """Return packed masks: uint8 (n, M * M / 8). masks: (n, M, M), binary or probabilities; 0.5 is
    inside."""
    masks = np.asarray(masks)
    return np.packbits(masks.reshape(len(masks), -1) >= THRESHOLD, axis=1)


def unpack(packed: np.ndarray, side: int) -> np.ndarray:
    """Return packed masks as uint8 0/1 (n, side, side)."""
    return np.unpackbits(packed, axis=1)[:, : side * side].reshape(-1, side, side)


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of packed masks: float64 (n,), 1 where both are empty.

    One of the two may have a single row, which is compared with every row of the other.
    """
    both, either = _count(a & b), _count(a | b)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def _count(packed: np.ndarray) -> np.ndarray:
    return _BITS[packed].sum(axis=1, dtype=np.int64)


def scene_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the agreement of two layouts of each scene: float64 (N,), the intersection over union
    of each class over the scene's pixels, averaged over the classes that either shows; 1 for two
    empty ones.

    a, b: labels uint8 (N, S, S) of `core.label_maps`; the background is no class.
    """
    scenes, labels = len(a), BACKGROUND + 1
    keys = labels * np.arange(scenes)[:, None, None]

    def class_pixels(keyed: np.ndarray) -> np.ndarray:
        counts = np.bincount(keyed.ravel(), minlength=scenes * labels)
        return counts.reshape(scenes, labels)[:, :BACKGROUND]

    both = class_pixels((keys + a)[a == b])
    either = class_pixels(keys + a) + class_pixels(keys + b) - both
    seen = either > 0
    ratios = np.where(seen, both / np.maximum(either, 1), 0.0)
    return np.where(seen.any(1), ratios.sum(1) / np.maximum(seen.sum(1), 1), 1.0)


def iou_figure(
    metric: str,
    split: str,
    labels: dict[str, str],
    values: np.ndarray,
    all_ones: np.ndarray,
    class_mean: np.ndarray,
    scenes: np.ndarray,
    seed: int,
    **controls: float,
) -> Figure:
    """Return the mean of overlaps (n,) with its controls, the overlaps of masks without a model:
    all_ones (n,), boxes filled, and class_mean (n,), the mean mask of the class. scenes: int (n,),
    of each value."""
    controls = {
        "all_ones": float(all_ones.mean()),
        "class_mean": float(class_mean.mean()),
        **mean_difference("class_mean", values - class_mean, scenes, seed),
        **controls,
    }
    return mean_figure(metric, split, values, labels, scenes, seed=seed, controls=controls)
