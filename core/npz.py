"""Reading .npz files without pickles, and without allocating more than the file holds."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import numpy as np

from core.run_folder import check_keys


def members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """By the names of the arrays. size: bytes of the archive. ValueError for a name that comes
    twice, and for arrays that together are larger than the archive: they can overlap in it."""
    if sum(info.compress_size for info in archive.infolist()) > size:
        raise ValueError("it states more than it has")
    found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(found) < len(archive.infolist()):
        raise ValueError("two arrays have one name")
    return found


def check_names(found: set[str], expected: set[str]) -> None:
    """ValueError naming a key that is missing or too many."""
    for what, names in (("without", expected - found), ("with", found - expected)):
        if names:
            raise ValueError(f"{what} the key {min(names)!r}")


def read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of `members`, which must lie uncompressed as numpy.savez writes it.

    ValueError, or one of zipfile's errors (a wrong check sum), when it is anything else.
    """
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed")
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another .npy version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds pickled objects")
        size = dtype.itemsize
        for length in shape:
            size *= length  # of Python: no overflow
        if fortran or size != info.file_size - file.tell():
            raise ValueError(f"{name} states other sizes than it has")
        return np.frombuffer(file.read(), dtype).reshape(shape)


def read_metadata(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    schema: int,
    expected: dict[str, type],
) -> dict[str, Any]:
    """The JSON object in the text `metadata`, which is taken out of `members`. expected: its keys
    and their types, `schema` among them. ValueError or UserError when it is anything else."""
    if "metadata" not in members:
        raise ValueError("without the key 'metadata'")
    array = read_array(archive, members.pop("metadata"))
    if array.dtype.kind != "U" or array.shape:
        raise ValueError("metadata is no text")
    content = json.loads(str(array))
    if isinstance(content, dict) and content.get("schema", schema) != schema:
        raise ValueError(f"its schema is {content['schema']!r}, not {schema}")
    check_keys(content, expected, "metadata")
    return content
