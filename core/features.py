"""The features file: the scene vectors of one split with what is needed to judge a search in them.

It is a plain .npz without pickles. docs/data_formats.md says what each key means; the letters of
its shapes are: N scenes, O photo objects, Q query objects, of which protocol i shows qi; P bytes of
a packed mask. Scene vectors of a name have a width of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from core.errors import UsageError, UserError
from core.evaluation.figure_files import Origin
from core.evaluation.query_protocols import QueryProtocol, main_protocol, standard_protocols
from core.files import open_npz, write_npz

SCHEMA = 4
SUFFIX = "_feats.npz"
JITTERS = (0.1, 0.2, 0.4)  # amounts of the curve over the jitter, which starts at shared boxes

# name -> (dtype, shape)
PHOTO_ARRAYS = {
    "image_ids": ("int64", "N"),
    "photo_classes": ("int32", "O"),
    "photo_boxes": ("float32", "O 4"),
    "photo_obj_to_img": ("int32", "O"),
    "photo_masks": ("uint8", "O P"),
}
QUERY_ARRAYS = {
    "query_classes": ("int32", "Q"),
    "query_obj_to_img": ("int32", "Q"),
    "query_to_photo": ("int32", "Q"),
}
PROTOCOL_ARRAYS = {
    "query{}_rows": ("int32", "q{}"),
    "query{}_boxes": ("float32", "q{} 4"),
}


class Metadata(Origin, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata of a features file."""

    schema: int = SCHEMA
    weights: str  # SHA-256 of the model's variables
    vectors: tuple[str, ...]  # names of the scene vectors
    vector: str  # that the model ranks by
    own_boxes: bool  # whether drawings have boxes of their own
    protocols: tuple[QueryProtocol, ...]  # none of a gallery
    mask_size: Annotated[int, msgspec.Meta(ge=0, le=4096)]  # M, 0 without masks
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """The content of a features file; arrays by the names above."""

    metadata: Metadata
    arrays: Mapping[str, np.ndarray]

    @property
    def scenes(self) -> int:
        """Number of scenes, N."""
        return len(self.arrays["image_ids"])

    def photo_vectors(self, directions: str = "canonical") -> np.ndarray:
        """Return the photographs' scene vectors that the model ranks by: float32 (N, D)."""
        side = "photo" if directions == "canonical" else "photo_random"
        return self.arrays[f"{side}_{self.metadata.vector}"]

    def query_vectors(self, protocol: QueryProtocol) -> np.ndarray:
        """Return the queries' scene vectors under a protocol: float32 (N, D)."""
        number = self.metadata.protocols.index(protocol)
        return self.arrays[f"query{number}_{self.metadata.vector}"]

    def ranked_by(self, vector: str) -> Features:
        """Return these features with another vector to rank by, '' for the model's own. UsageError
        for a vector that the model does not have."""
        if not vector:
            return self
        if vector not in self.metadata.vectors:
            raise UsageError(
                f"the model of this features file has no {vector} to rank by: choose of "
                f"{', '.join(self.metadata.vectors)}"
            )
        return Features(msgspec.structs.replace(self.metadata, vector=vector), self.arrays)

    def objects_per_query(self) -> np.ndarray:
        """Return how many objects each drawing shows: int64 (N,)."""
        return np.bincount(self.arrays["query_obj_to_img"], minlength=self.scenes)


def feature_protocols(own_boxes: bool) -> tuple[QueryProtocol, ...]:
    """Return the protocols that a features file has queries under: the standard ones, the curve
    over the jitter, queries with objects left out, and random directions of the graph's pairs."""
    fair = main_protocol(own_boxes)
    more = [QueryProtocol("jittered", jitter=jitter) for jitter in JITTERS]
    more += [dataclasses.replace(fair, dropped=0.3), dataclasses.replace(fair, directions="random")]
    with_controls = (protocol for real in more for protocol in (real, real.control))
    return tuple(dict.fromkeys((*standard_protocols(own_boxes), *with_controls)))


def thumbnail_path(features: Path, image_id: int, side: str) -> Path:
    """Return the path of a scene's thumbnail. side: 'photo' or 'sketch'."""
    ending = {"photo": "jpg", "sketch": "png"}[side]
    return thumbnail_folder(features) / f"{image_id}-{side}.{ending}"


def thumbnail_folder(features: Path) -> Path:
    """Return the folder of a features file's thumbnails."""
    return features.with_name(f"{features.stem}_images")


def write(path: Path, features: Features) -> None:
    """Write a features file atomically. UserError when that fails."""
    specs = _array_specs(features.metadata)
    arrays = {name: np.asarray(features.arrays[name], dtype) for name, (dtype, _) in specs.items()}
    write_npz(path, msgspec.to_builtins(features.metadata), arrays)


def read(path: Path, photos_only: bool = False) -> Features:
    """Read and check a features file. photos_only: without the arrays of the queries, most of it.

    UserError naming the file for another version, a damaged file, values that do not fit, or a
    gallery where queries are wanted.
    """
    remedy = "write it with run-experiment.py extract-features"
    with open_npz(path, "a features file of this version", remedy) as file:
        metadata = file.metadata(Metadata, SCHEMA)
        missing = set(standard_protocols(metadata.own_boxes)) - set(metadata.protocols)
        if metadata.protocols and missing:
            raise ValueError(f"it has no queries with {missing.pop()}")
        if metadata.vector not in metadata.vectors:
            raise ValueError(f"it has no vectors {metadata.vector!r}")
        specs = _array_specs(metadata, photos_only)
        arrays = {name: file.array(name) for name in specs}
        _check_shapes(arrays, specs, metadata.mask_size**2 // 8)
        _check_values(arrays, metadata)
    if not (metadata.protocols or photos_only):
        raise UserError(f"{path} has photographs alone, no sketched scenes to search with")
    return Features(metadata, arrays)


def _array_specs(metadata: Metadata, photos_only: bool = False) -> dict[str, tuple[str, str]]:
    """Return name -> (dtype, shape) of all arrays of a file."""
    specs, sides = dict(PHOTO_ARRAYS), ["photo", "photo_random"]
    if metadata.protocols and not photos_only:
        specs.update(QUERY_ARRAYS)
        for number in range(len(metadata.protocols)):
            sides.append(f"query{number}")
            for name, (dtype, shape) in PROTOCOL_ARRAYS.items():
                specs[name.format(number)] = (dtype, shape.format(number))
    for name in metadata.vectors:
        specs.update({f"{side}_{name}": ("float32", f"N {name}") for side in sides})
    return specs


def _check_shapes(
    arrays: Mapping[str, np.ndarray], specs: Mapping[str, tuple[str, str]], mask_bytes: int
) -> None:
    sizes = {"4": 4, "P": mask_bytes}  # letter -> length, as the first array that has it says
    for name, (dtype, shape) in specs.items():
        array, letters = arrays[name], shape.split()
        expected = [sizes.setdefault(*pair) for pair in zip(letters, array.shape)]
        if array.dtype != dtype or array.ndim != len(letters) or list(array.shape) != expected:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, expected {dtype} ({shape}) with "
                + ", ".join(f"{letter} = {sizes[letter]}" for letter in letters if letter in sizes)
            )


def _check_values(arrays: Mapping[str, np.ndarray], metadata: Metadata) -> None:
    """ValueError for vectors that are not finite and indices that point to nothing."""
    limits = {"classes": (0, len(metadata.vocabulary)), "obj_to_img": (0, len(arrays["image_ids"])),
              "to_photo": (-1, len(arrays["photo_classes"]))}  # fmt: skip
    if "query_classes" in arrays:
        limits["rows"] = (0, len(arrays["query_classes"]))
    if not len(arrays["image_ids"]):
        raise ValueError("it has no scenes")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        low, high = limits.get(name.partition("_")[2], (None, None))
        if low is not None and array.size and not (low <= array.min() and array.max() < high):
            raise ValueError(f"{name} has values outside {low}..{high - 1}")
