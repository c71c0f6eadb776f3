"""Read the .npz files of Quick, Draw! (sketch-rnn), whose arrays of drawings are pickles.

A pickle is a program. The unpickler here admits the three names that an array of arrays needs, and
checks their arguments; all else is refused.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from core.errors import UserError

MAX_BYTES = 256 << 20  # of one split of one class; the largest official one has some 80 MB
_NDARRAY = "ndarray"  # stands for numpy.ndarray, which is named and never called


class NpzError(UserError):
    """A drawing file cannot be read; the message names file and key."""


def _new_array(array_type: Any, shape: Any, typecode: Any) -> np.ndarray:
    """Return an empty array, to which the pickle then gives its shape and content."""
    # numpy writes these arguments always; others would reserve memory of any size.
    if (array_type, shape) != (_NDARRAY, (0,)) or typecode not in (b"b", "b"):
        raise ValueError("an array is made with unusual arguments")
    return np.empty(0, np.int8)


def _new_dtype(name: str, align: Any, copy: Any) -> np.dtype:
    if name not in ("i2", "O", "O4", "O8"):
        raise ValueError(f"its numbers are of type {name!r}, drawings are int16")
    return np.dtype("i2" if name == "i2" else "O", copy=True)


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Return bytes as Python 3 writes them into pickles that Python 2 can read."""
    if encoding != "latin1":
        raise ValueError(f"bytes are written as {encoding!r}")
    return text.encode(encoding)


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _new_dtype,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no drawing needs")
        return _ADMITTED[module, name]


def read_drawings(path: str | Path, key: str) -> list[np.ndarray]:
    """Return the drawings of one split of one class, in the order of the file.

    path: a Quick, Draw! sketch-rnn .npz file, official or written by Python 3 in the same form.
    key: "train", "valid" or "test". Returns int16 (points, 3) arrays, rows (dx, dy, pen_lift); one
    may be empty or degenerate (see `dataloaders.sketches.why_not_drawable`). Raises NpzError when
    the file is missing, damaged or no file of drawings.
    """
    path = Path(path)
    if not path.is_file():
        _fail(path, key, "there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                there = ", ".join(sorted(archive.namelist())[:8]) or "nothing"
                raise ValueError(f"the key is missing, the file has {there}")
            size = archive.getinfo(f"{key}.npy").file_size
            if size > MAX_BYTES:
                raise ValueError(f"it unpacks to {size} bytes, more than drawings have")
            content = archive.read(f"{key}.npy")
        return _unpickle(io.BytesIO(content))
    except Exception as error:  # damaged archives, headers and pickles raise nearly anything
        _fail(path, key, str(error).split("\n")[0][:200] or type(error).__name__)


def _unpickle(file: io.BytesIO) -> list[np.ndarray]:
    """Return the drawings of one .npy file."""
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, _, dtype = read_header(file)
    if dtype.kind != "O" or len(shape) != 1:
        raise ValueError(f"it is an array of {dtype} of shape {shape}, not a list of drawings")
    drawings = _Unpickler(file, encoding="latin1").load()
    if not isinstance(drawings, np.ndarray) or drawings.shape != shape:
        raise ValueError("it does not hold as many drawings as it says")
    return [_checked(drawing) for drawing in drawings]


def _checked(drawing: Any) -> np.ndarray:
    if not isinstance(drawing, np.ndarray) or drawing.dtype.kind != "i":
        raise ValueError("one entry is no drawing")
    if drawing.ndim != 2 or drawing.shape[1] != 3:
        raise ValueError(f"a drawing has shape {drawing.shape}, expected (points, 3)")
    return np.ascontiguousarray(drawing, np.int16)


def _fail(path: Path, key: str, reason: str) -> NoReturn:
    raise NpzError(
        f"{path}, key {key!r}: damaged or not a Quick, Draw! file ({reason}); download the "
        "official file again"
    ) from None
