"""Query protocols: the queries of an evaluation, made of the sketched scenes of a set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.errors import UsageError

BOXES = ("shared", "jittered", "own", "whole-drawing")
SKETCHES = ("real", "blank", "shuffled")
DIRECTIONS = ("canonical", "random")


@dataclass(frozen=True)
class QueryProtocol:
    """A way to make queries of sketched scenes; `dataloaders.queries` carries it out, and
    docs/architecture.md says why there are several.

    boxes: 'shared': each object has the box it has in the very photograph that is looked for (the
    paper's; boxes alone identify a scene); 'jittered': that box, shifted and scaled; 'own': the box
    of the drawing, where the set has them; 'whole-drawing': none, of a set without objects.
    sketches: 'real'; 'blank': white paper, a control of what boxes alone can do; 'shuffled': those
    of another scene, a control of sketches that say nothing about the photograph.
    UsageError for other values.
    """

    boxes: str = "shared"  # of BOXES
    sketches: str = "real"  # of SKETCHES
    jitter: float = 0.2  # shift and scale of jittered boxes, as a share of a box's size
    dropped: float = 0.0  # each object is left out with this probability; one of a scene stays
    directions: str = "canonical"  # of the pairs of both graphs; of DIRECTIONS

    def __post_init__(self) -> None:
        choices = {"boxes": BOXES, "sketches": SKETCHES, "directions": DIRECTIONS}
        for name, values in choices.items():
            if (value := getattr(self, name)) not in values:
                listed = f"{', '.join(values[:-1])} or {values[-1]}"
                raise UsageError(f"query {name} are {listed}, not {value!r}")
        for name in ("jitter", "dropped"):
            if not 0.0 <= (value := getattr(self, name)) < 1.0:
                raise UsageError(f"{name} is a share in [0, 1), not {value}")

    @property
    def labels(self) -> dict[str, str]:
        """The labels of a figure: boxes and sketches, the rest where it is not the default."""
        labels = {"boxes": self.boxes, "sketches": self.sketches}
        if self.boxes == "jittered":
            labels["jitter"] = f"{self.jitter:g}"
        if self.dropped:
            labels["dropped"] = f"{self.dropped:g}"
        if self.directions != "canonical":
            labels["directions"] = self.directions
        return labels

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.labels.items())

    @property
    def control(self) -> QueryProtocol:
        """This protocol with blank sketches."""
        return dataclasses.replace(self, sketches="blank")


def standard_protocols(own_boxes: bool, has_objects: bool = True) -> tuple[QueryProtocol, ...]:
    """Return the protocols that scene recall is always measured under. own_boxes, has_objects: as
    of the set (`core.dataset.SceneDataset`)."""
    boxes = BOXES[: 2 + own_boxes] if has_objects else ("whole-drawing",)
    return tuple(QueryProtocol(each, sketches) for each in boxes for sketches in SKETCHES)


def main_protocol(own_boxes: bool, has_objects: bool = True) -> QueryProtocol:
    """Return the protocol that counts, and that pictures show: positions alone do not answer it."""
    return standard_protocols(own_boxes, has_objects)[-len(SKETCHES)]


class DrawnScenes(NamedTuple):
    """The sketched scenes of a split, one for each of N photographs: Q sketched objects, O
    photographed ones. A whole drawing, or photograph, is one object that fills its page."""

    image_ids: np.ndarray  # int64 (N,)
    obj_to_img: np.ndarray  # int32 (Q,), ascending
    boxes: np.ndarray  # float32 (Q, 4), of the drawing; the photograph's where it has none
    query_to_photo: np.ndarray  # int32 (Q,), the photo object depicted, -1 = none
    photo_boxes: np.ndarray  # float32 (O, 4)


class QueryObjects(NamedTuple):
    """The objects that queries show under a protocol: R of the Q sketched ones."""

    rows: np.ndarray  # int32 (R,), ascending: which of the Q sketched objects each is
    sketches: np.ndarray  # int32 (R,), the row whose sketch is shown, -1 = white paper
    boxes: np.ndarray  # float32 (R, 4)
