"""What an evaluation gathers of a split, by name: sides, their objects, masks.

Letters as in `models/__init__.py`: here N, O and Q count over the whole split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Side:
    """One side (photographs or queries) of a split.

    vectors: {'projection': float32 (N, 256), 'token': float32 (N, D)}, a row for every scene; no
    projection when the model was trained without one.
    objects float32 (O, D), what the scene is made of; embedding float32 (O, 128); classes,
    predicted int32 (O,) vocabulary indices; boxes float32 (O, 4); obj_to_img int32 (O,): object o
    is in scene row obj_to_img[o].
    """

    image_ids: np.ndarray
    vectors: dict[str, np.ndarray]
    objects: np.ndarray
    embedding: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    boxes: np.ndarray
    obj_to_img: np.ndarray

    @property
    def scenes(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Photos(Side):
    """masks: the true ones, packed uint8 (O, M * M / 8) (`mask_metrics.pack`); None where
    the set has none."""

    masks: np.ndarray | None


@dataclass(frozen=True)
class Queries(Side):
    """query_to_photo: int32 (Q,), the photo row of the object depicted, -1 = none. rows: int32
    (Q,), which of the sketched objects of the set each is. `objects`, `embedding` and `predicted`
    are of the sketch shown, the rest of the object it stands for."""

    query_to_photo: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class MaskPairs:
    """Objects of one view that have a true mask. predicted, true: packed uint8 (n, M * M / 8)
    (`mask_metrics.pack`); classes, scenes: int32 (n,); objects: int32 (n,), the photo row
    of the object."""

    predicted: np.ndarray
    true: np.ndarray
    classes: np.ndarray
    scenes: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Stage 1: classes, predicted classes of crop and sketch, int32 (B,); embeddings (B, 128)."""

    classes: np.ndarray
    photo_predicted: np.ndarray
    sketch_predicted: np.ndarray
    photo_embedding: np.ndarray
    sketch_embedding: np.ndarray


class Made(NamedTuple):
    """What the model makes of the objects of some scenes of a side. masks: float32 (n, M, M),
    probabilities within the box; boxes: float32 (n, 4), as it predicts them; rows, scenes: slices
    of the side's objects and scenes."""

    masks: np.ndarray
    boxes: np.ndarray
    rows: slice
    scenes: slice


class Objects(NamedTuple):
    """The objects of one side, out of context. embedding float32 (n, 128); classes, predicted
    int32 (n,); groups int (n,): values of one group (scene) are not independent."""

    embedding: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
