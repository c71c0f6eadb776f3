"""The features file: the scene vectors of one split with what is needed to judge a search in them.
This is the one place that knows its keys; docs/data_formats.md says what each means.

It is a plain .npz without pickles. Reading is strict, and a file that states more than it holds is
refused before anything is allocated: arrays are stored uncompressed, and each header must fit the
bytes that follow it.

Letters: N scenes, O photo objects, Q query objects, of which q0, q1 .. are shown under protocol 0,
1 ..; P bytes of a packed mask, none for a set without masks; D and E widths of token and
projection.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import npz
from core.errors import UsageError, UserError, first_line
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.evaluation.query_protocols import standard_protocols as shown
from core.files import write_npz
from core.run_folder import check_keys

SCHEMA = 3
SUFFIX = "_feats.npz"
VECTORS = ("projection", "token")
MOST_PROTOCOLS = 64
JITTERS = (0.1, 0.2, 0.4)  # amounts of the curve; shared boxes are its start


def protocols(own_boxes: bool) -> tuple[QueryProtocol, ...]:
    """Those a features file is written with: what every figure is shown under, the curve over the
    jitter, queries with objects left out, and random directions of the graph's pairs."""
    fair = main_protocol(own_boxes)
    more = [QueryProtocol("jittered", jitter=jitter) for jitter in JITTERS]
    more += [dataclasses.replace(fair, dropped=0.3), dataclasses.replace(fair, directions="random")]
    every = (*shown(own_boxes), *(p for real in more for p in (real, real.control)))
    return tuple(dict.fromkeys(every))


PROTOCOL = {"boxes": str, "sketches": str, "jitter": float, "dropped": float, "directions": str}
METADATA = {
    "schema": int, "model": str, "run": str, "step": int, "loader": str, "split": str, "seed": int,
    "weights": str, "vector": str, "own_boxes": bool, "protocols": list, "mask_size": int,
    "vocabulary": list,
}  # fmt: skip

# key -> (dtype, shape in letters)
ARRAYS = {
    "image_ids": ("<i8", "N"),
    "photo_token": ("<f4", "ND"),
    "photo_projection": ("<f4", "NE"),
    "photo_random_token": ("<f4", "ND"),
    "photo_random_projection": ("<f4", "NE"),
    "photo_classes": ("<i4", "O"),
    "photo_boxes": ("<f4", "O4"),
    "photo_obj_to_img": ("<i4", "O"),
    "photo_masks": ("|u1", "OP"),
    "query_classes": ("<i4", "Q"),
    "query_obj_to_img": ("<i4", "Q"),
    "query_to_photo": ("<i4", "Q"),
}


def arrays_of(protocol: int) -> dict[str, tuple[str, str]]:
    """The arrays of the queries under the protocol of that number in the metadata."""
    return {
        f"query{protocol}_token": ("<f4", "ND"),
        f"query{protocol}_projection": ("<f4", "NE"),
        f"query{protocol}_rows": ("<i4", f"q{protocol}"),
        f"query{protocol}_boxes": ("<f4", f"q{protocol} 4"),
    }


@dataclass(frozen=True)
class Features:
    """metadata: values by METADATA's names. arrays: by the names of ARRAYS."""

    metadata: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def scenes(self) -> int:
        """N."""
        return len(self.arrays["image_ids"])

    @property
    def protocols(self) -> tuple[QueryProtocol, ...]:
        """Those of the queries, in the order of their arrays."""
        return tuple(QueryProtocol(**each) for each in self.metadata["protocols"])

    def photos(self, directions: str = "canonical") -> np.ndarray:
        """The photographs' scene vectors that the model ranks by: float32 (N, D or E)."""
        side = "photo" if directions == "canonical" else "photo_random"
        return self.arrays[f"{side}_{self.metadata['vector']}"]

    def queries(self, protocol: QueryProtocol) -> np.ndarray:
        """The queries' scene vectors under a protocol: float32 (N, D or E)."""
        number = self.protocols.index(protocol)
        return self.arrays[f"query{number}_{self.metadata['vector']}"]

    def ranked_by(self, vector: str) -> Features:
        """The same, ranked by 'token' or 'projection'; '': as the model ranks. UsageError for a
        vector that the model does not have."""
        if vector and not self.arrays[f"photo_{vector}"].shape[1]:
            raise UsageError(f"the model of this features file has no {vector} to rank by")
        return Features({**self.metadata, "vector": vector or self.metadata["vector"]}, self.arrays)

    def sketched(self) -> np.ndarray:
        """How many objects each drawing shows: int64 (N,)."""
        return np.bincount(self.arrays["query_obj_to_img"], minlength=self.scenes)


def thumbnail(features: Path, image_id: int, side: str) -> Path:
    """Where the thumbnail of a scene lies, for the features file. side: 'photo' or 'sketch'."""
    ending = {"photo": "jpg", "sketch": "png"}[side]
    return thumbnails(features) / f"{image_id}-{side}.{ending}"


def thumbnails(features: Path) -> Path:
    """The folder of a features file's thumbnails."""
    return features.with_name(f"{features.stem}_images")


def write(path: Path, features: Features) -> None:
    """Atomically. UserError when it cannot be written."""
    kinds = _expected(len(features.protocols))
    arrays = {name: np.asarray(features.arrays[name], kind) for name, (kind, _) in kinds.items()}
    write_npz(path, features.metadata, arrays)


def _expected(protocols: int) -> dict[str, tuple[str, str]]:
    """The arrays of a file with that many protocols."""
    numbered = (arrays_of(number) for number in range(protocols))
    return {**ARRAYS, **{name: kind for each in numbered for name, kind in each.items()}}


def read(path: Path, photos_only: bool = False) -> Features:
    """UserError naming the file unless all its keys, types, shapes and values are those of a
    features file. photos_only: without the arrays of the queries, most of a file; they are
    neither read nor checked, and not in what is returned."""
    if not path.is_file():
        raise UserError(f"there is no features file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = npz.members(archive, path.stat().st_size)
            metadata = _metadata(archive, members)
            expected = _expected(len(metadata["protocols"]))
            npz.check_names(set(members), set(expected))
            if photos_only:
                expected = {n: kind for n, kind in expected.items() if not n.startswith("query")}
            arrays = {name: npz.read_array(archive, members[name]) for name in expected}
        _check_shapes(arrays, expected)
        _check_values(arrays, metadata)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged zip shows as any of half a dozen types
        reason = first_line(error)
        raise UserError(
            f"{path} is not a features file of this version ({reason}); write it with "
            "run-experiment.py extract-features"
        ) from None
    return Features(metadata, arrays)


def _metadata(archive: zipfile.ZipFile, members: dict) -> dict[str, Any]:
    content = npz.read_metadata(archive, members, SCHEMA, METADATA)
    if content["seed"] < 0 or content["mask_size"] < 0:
        raise ValueError("metadata: seed and mask_size cannot be negative")
    if not all(isinstance(name, str) for name in content["vocabulary"]):
        raise ValueError("metadata: the vocabulary must be names")
    if content["vector"] not in VECTORS:
        raise ValueError(f"metadata: unknown vector {content['vector']!r}")
    _check_protocols(content)
    return content


def _check_protocols(content: dict[str, Any]) -> None:
    if len(content["protocols"]) > MOST_PROTOCOLS:
        raise ValueError(f"metadata: more than {MOST_PROTOCOLS} protocols")
    found = []
    for each in content["protocols"]:
        check_keys(each, PROTOCOL, "metadata: a protocol")
        found.append(QueryProtocol(**each))  # UsageError for values it cannot have
    missing = [protocol for protocol in shown(content["own_boxes"]) if protocol not in found]
    if missing or len(set(found)) < len(found):
        raise ValueError(f"metadata: protocols are missing or repeated: {missing or found}")


def _check_shapes(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, tuple[str, str]]) -> None:
    sizes = {"4": 4}
    for name, (kind, text) in kinds.items():
        array = arrays[name]
        letters = text.split() if text.startswith("q") else text
        expected = [sizes.get(letter, letter) for letter in letters]
        fits = len(expected) == array.ndim and all(
            sizes.setdefault(letter, length) == length
            for letter, length in zip(letters, array.shape)
        )
        if array.dtype != np.dtype(kind) or not fits:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} "
                f"({', '.join(map(str, expected))})"
            )


def _check_values(arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
    scenes = len(arrays["image_ids"])
    if not scenes:
        raise ValueError("it has no scenes")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not all(
            np.isfinite(array[start : start + 4096]).all() for start in range(0, len(array), 4096)
        ):
            raise ValueError(f"{name} has values that are not finite")
    if arrays["photo_masks"].shape[1] * 8 != metadata["mask_size"] ** 2:
        raise ValueError("photo_masks are not of mask_size")
    sides = ("photo", "query") if "query_classes" in arrays else ("photo",)
    for side in sides:
        owners, classes = arrays[f"{side}_obj_to_img"], arrays[f"{side}_classes"]
        # Ascending without a gap from the first scene to the last: every scene has an object.
        whole = len(owners) and owners[0] == 0 and owners[-1] == scenes - 1
        if not whole or not np.isin(np.diff(owners), (0, 1)).all():
            raise ValueError(f"{side}_obj_to_img does not go through the scenes in order")
        if classes.min() < 0 or classes.max() >= len(metadata["vocabulary"]):
            raise ValueError(f"{side}_classes are outside the vocabulary")
    if "query" not in sides:
        return
    own = arrays["query_to_photo"]
    if own.min() < -1 or own.max() >= len(arrays["photo_classes"]):
        raise ValueError("query_to_photo names objects that are not there")
    owners = arrays["query_obj_to_img"]
    for number in range(len(metadata["protocols"])):
        rows = arrays[f"query{number}_rows"]
        inside = len(rows) and rows[0] >= 0 and rows[-1] < len(owners)
        if not inside or (np.diff(rows) <= 0).any() or len(np.unique(owners[rows])) != scenes:
            raise ValueError(f"query{number}_rows does not go through the scenes in order")
