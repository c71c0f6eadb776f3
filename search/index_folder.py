"""The folder of an index of photographs: its arrays, and the names of files beside them.

`photos/index.json` (names, sizes and times of the files, the run, the source of objects) beside an
.npy of each of KINDS and `thumbnails.jpegs`, all thumbnails one after the other. Paths are relative
to the index, so that it can be moved together with the photographs and the run. `blocks/` holds
what a build under way has done.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from core import locks
from core.errors import UserError, first_line
from core.files import (
    atomic_folder,
    make_folder,
    open_npz,
    read_versioned_json,
    remove_folder,
    write_atomic,
    write_json,
    write_npz,
)  # fmt: skip
from search.photographs import File
from search.stores import SavedStore, store_class

SCHEMA = 2
PHOTOS, BLOCKS, NAME = "photos", "blocks", "index.json"
THUMBNAILS = "thumbnails.jpegs"
NO_JPEGS = np.zeros(0, np.uint8)
LOCK = ".build.lock"

# Kinds of rows; those of OBJECT_ARRAYS have one for each object, the others for each photograph.
PHOTO_ARRAYS = {
    "counts": np.int64,  # (N,): objects of each photograph
    "sizes": np.int32,  # (N, 2): width and height of the picture, pixels
    "thumbnails": np.int64,  # (N,): where the thumbnail of each ends, bytes
    "learned": np.float32,  # (N, D): the scene vector that ranks
    "whole": np.float32,  # (N, E): that of a run that sees whole pictures; E = 0 without one
}
OBJECT_ARRAYS = {
    "boxes": np.float32,  # (O, 4)
    "labels": np.int16,  # (O,): vocabulary index that the detector says, -1 = none
    "scores": np.float16,  # (O,): of the detector
    "vectors": np.float16,  # (O, E): as the run encodes each
    "probabilities": np.uint16,  # (O, K): of each class, by detector and run, in layout_match.STEPS
}
KINDS = {**PHOTO_ARRAYS, **OBJECT_ARRAYS}
Arrays = dict[str, np.ndarray]


class SavedRun(msgspec.Struct, frozen=True):
    """A run that photographs were encoded by."""

    folder: str  # relative to the index
    weights: str  # SHA-256 of its variables


class SavedIndex(msgspec.Struct, frozen=True):
    """The identity of an index, and its files."""

    schema: int
    folder: str  # of the photographs, relative to the index
    run: str  # folder of the run, relative to the index
    weights: str  # SHA-256 of the run's variables
    objects: str  # identity of the source of objects
    vocabulary: list[str]
    files: list[File] = []
    broken: list[tuple[File, str]] = []  # pictures that cannot be read, and why
    store: SavedStore = SavedStore()
    whole: SavedRun | None = None  # the run that sees whole pictures


class IndexPart(NamedTuple):
    """Some photographs of an index. arrays: those of PHOTO_ARRAYS and OBJECT_ARRAYS. jpegs: uint8,
    the thumbnails of all, one after the other."""

    saved: SavedIndex
    arrays: Arrays
    jpegs: np.ndarray = NO_JPEGS

    def thumbnail(self, row: int) -> np.ndarray:
        """Return the thumbnail of a photograph, a JPEG: uint8 (bytes,)."""
        ends = self.arrays["thumbnails"]
        return self.jpegs[ends[row - 1] if row else 0 : ends[row]]


def is_index(home: Path) -> bool:
    """Return whether a folder holds a whole index."""
    return (home / PHOTOS / NAME).is_file()


@contextlib.contextmanager
def held(home: Path) -> Iterator[None]:
    """Make the folder of an index, and hold it for one build. UserError when another holds it."""
    make_folder(home, "the folder of the index", "choose another")
    doing = f"the index {home} is being built"
    with locks.hold(home / LOCK, doing, "wait for it, or build in another folder"):
        yield


def write_block(home: Path, part: IndexPart) -> IndexPart:
    """Keep some photographs of a build under way; return them with their thumbnails on the disk."""
    (home / BLOCKS).mkdir(exist_ok=True)
    path = home / BLOCKS / f"{time.time_ns()}.npz"
    write_atomic(path.with_suffix(".jpegs"), part.jpegs.tobytes())
    write_npz(path, msgspec.to_builtins(part.saved), part.arrays)
    return part._replace(jpegs=_mapped(path.with_suffix(".jpegs")))


def read_parts(home: Path) -> Iterator[IndexPart]:
    """Yield what a folder holds: the index, and the blocks of a build that was stopped."""
    if is_index(home):
        yield read(home)
    for path in sorted((home / BLOCKS).glob("*.npz")):
        with open_npz(path, "a block of an index", "delete it") as file:
            part = IndexPart(file.metadata(SavedIndex, SCHEMA), {})
            if part.saved.files:
                arrays = {name: file.array(name) for name in KINDS}
                part = IndexPart(part.saved, arrays, _mapped(path.with_suffix(".jpegs")))
        yield part


def _mapped(path: Path) -> np.ndarray:
    """Return the bytes of a file, which stay on the disk until they are looked at."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else NO_JPEGS


def write(home: Path, part: IndexPart, thumbnails: Iterable[np.ndarray]) -> None:
    """Write an index in the place of the one there is, and of its blocks."""
    store = resolved(part.saved.store, home)  # with the key of the one there is
    kind = store_class(store.name)
    with atomic_folder(home / PHOTOS, flush=True) as folder:
        for name, array in part.arrays.items():
            # As layout match reads them: a few classes of all photographs, or all of a few.
            by_class = name == "probabilities" and kind.exhaustive
            order = np.asfortranarray if by_class else np.ascontiguousarray
            np.save(folder / f"{name}.npy", order(array))
        with (folder / THUMBNAILS).open("wb") as file:
            file.writelines(thumbnails)
        key = kind.build(part.arrays["learned"], folder, store.uri, store.key)
        store = msgspec.structs.replace(part.saved.store, key=key)
        saved = msgspec.structs.replace(part.saved, store=store)
        write_json(folder / NAME, msgspec.to_builtins(saved))
    remove_folder(home / BLOCKS)


def read(home: Path) -> IndexPart:
    """Return the index in a folder, its arrays mapped. UserError for none and a damaged one."""
    if not is_index(home):
        raise UserError(f"{home} is no index: build one with python -m search.build")
    folder = home / PHOTOS
    saved = read_versioned_json(folder / NAME, SavedIndex, SCHEMA)
    try:
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in KINDS
        }
        photographs, objects = len(saved.files), int(arrays["counts"].sum())
        lengths = {name: photographs if name in PHOTO_ARRAYS else objects for name in KINDS}
        damaged = [name for name, array in arrays.items() if len(array) != lengths[name]]
        jpegs = _mapped(folder / THUMBNAILS)
        if len(jpegs) != arrays["thumbnails"][-1]:
            damaged.append(THUMBNAILS)
    except (OSError, ValueError) as error:
        damaged = [first_line(error)]
    if damaged:
        raise UserError(f"the index {home} is damaged ({damaged[0]}): delete it and build it anew")
    return IndexPart(saved, arrays, jpegs)


# ---- stores --------------------------------------------------------------------------------------


def chosen(home: Path, name: str | None, uri: str | None) -> SavedStore:
    """Return the store that a build makes: the one that the folder has where `name` is None.
    UsageError for a URI that it cannot have, UserError for a package that it misses."""
    path = home / PHOTOS / NAME
    store = read_versioned_json(path, SavedIndex, SCHEMA).store if is_index(home) else SavedStore()
    if name is not None:
        uri = os.path.relpath(uri, home) if _is_file(uri) else uri
        store = SavedStore(name, uri, store.key)
    store_class(store.name).check_uri(store.uri)
    return store


def resolved(store: SavedStore, home: Path) -> SavedStore:
    """Return a store with the path of its file, which an index holds relative to itself."""
    uri = os.path.normpath(home / store.uri) if _is_file(store.uri) else store.uri
    return msgspec.structs.replace(store, uri=uri)


def _is_file(uri: str | None) -> bool:
    return uri is not None and "://" not in uri
