"""Boxes of photographs by a detector: any TensorFlow SavedModel of the TF Object Detection API.

Its signature takes one uint8 picture (1, H, W, 3) and returns `detection_boxes` (1, n, 4) as
y0, x0, y1, x1 in [0, 1], `detection_scores` (1, n), `detection_classes` (1, n), COCO category ids,
and `num_detections` (1,).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from core.errors import UserError, first_line
from core.provenance import digest, sha256
from search.objects import FoundObjects, ObjectSource, Size, most_important

LEAST_SCORE = 0.2
LEAST_AREA = 0.01  # of the picture
OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


def _digest(folder: Path) -> str:
    """Return a digest of a SavedModel's graph and weights."""
    files = sorted([*folder.glob("*.pb"), *folder.glob("variables/*")])
    return digest({path.relative_to(folder).as_posix(): sha256(path) for path in files})[:16]


class Detector(ObjectSource):
    """A loaded detector. UserError for a folder that is no SavedModel of this kind."""

    def __init__(self, folder: str | Path, ids: Sequence[int]) -> None:
        """ids: the COCO category id of each class of the vocabulary."""
        self.identity = f"detector {_digest(Path(folder))}"
        try:
            # Kept: a signature lives only as long as its model.
            self._model = tf.saved_model.load(str(folder))
            self._detect = self._model.signatures["serving_default"]
        except Exception as error:  # TensorFlow raises nearly anything on what is no model
            raise UserError(f"{folder} is no SavedModel ({first_line(error)})") from None
        inputs = self._detect.structured_input_signature[1]
        if len(inputs) != 1 or not set(OUTPUTS) <= set(self._detect.structured_outputs):
            raise UserError(
                f"{folder} is no detector of the TF Object Detection API: it returns "
                f"{', '.join(sorted(self._detect.structured_outputs))}, not {', '.join(OUTPUTS)}"
            )
        ((self._input, spec),) = inputs.items()
        if spec.dtype != tf.uint8 or not spec.shape.is_compatible_with((1, 64, 64, 3)):
            raise UserError(f"{folder} takes {spec.dtype.name} {spec.shape}, not pictures of uint8")
        self._labels = {int(id_): label for label, id_ in enumerate(ids) if id_}

    def find(self, path: str, image: np.ndarray, size: Size) -> FoundObjects:
        found = self._detect(**{self._input: tf.constant(image[None])})
        count = int(found["num_detections"][0])
        boxes, scores, ids = (found[name][0, :count].numpy() for name in OUTPUTS[:3])
        labels = np.array([self._labels.get(int(id_), -1) for id_ in ids], np.int64)
        likely = scores >= LEAST_SCORE
        boxes = boxes[likely][:, [1, 0, 3, 2]]
        return most_important(boxes, labels[likely], scores[likely], LEAST_AREA)
