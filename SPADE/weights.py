"""The generator's weights file: what inference needs, in one plain .npz without pickles.

`metadata` is JSON text: schema, width and hidden (of models.layers.spade.SpadeGenerator). Every
other array is float32 and has name and shape as models.layers.spade.parameter_shapes lists them;
kernels are (height, width, in, out) and divided by their spectral norms.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core import npz
from core.errors import UserError, first_line
from core.files import write_npz
from models.layers.spade import SpadeGenerator, parameter_shapes

SCHEMA = 1
METADATA = {"schema": int, "width": int, "hidden": int}
WIDEST = 1024  # of width and hidden


def write(path: Path, width: int, hidden: int, values: Mapping[str, Any]) -> None:
    """Atomically. values: by parameter_shapes' names. UserError when it cannot be written."""
    arrays = {name: np.asarray(values[name], "<f4") for name in parameter_shapes(width, hidden)}
    write_npz(path, {"schema": SCHEMA, "width": width, "hidden": hidden}, arrays)


def save_generator(path: Path, generator: SpadeGenerator) -> None:
    """Write a trained generator's weights. UserError when they cannot be written."""
    write(path, generator.width, generator.hidden, generator.folded())


def load_generator(path: Path) -> SpadeGenerator:
    """A generator for inference. UserError naming the file unless it is a whole weights file of
    this version."""
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        with file:
            return _load(file, path.stat().st_size)
    except Exception as error:  # a damaged zip shows as any of half a dozen types
        reason = first_line(error)
        raise UserError(
            f"{path} is not a generator's weights file of this version ({reason}); write it with "
            "python -m SPADE.convert or SPADE.export"
        ) from None


def _load(file: BinaryIO, size: int) -> SpadeGenerator:
    with zipfile.ZipFile(file) as archive:
        members = npz.members(archive, size)
        metadata = npz.read_metadata(archive, members, SCHEMA, METADATA)
        for name in ("width", "hidden"):
            if not 1 <= metadata[name] <= WIDEST:
                raise ValueError(f"metadata: {name} is {metadata[name]}, expected 1..{WIDEST}")
        shapes = parameter_shapes(metadata["width"], metadata["hidden"])
        npz.check_names(set(members), set(shapes))
        # Before the network is made, which takes as much memory as they state.
        if sum(4 * int(np.prod(shape)) for shape in shapes.values()) > size:
            raise ValueError("its metadata state a larger network than it holds")
        generator = SpadeGenerator(metadata["width"], metadata["hidden"], spectral_norm=False)
        generator.make()
        for name, variable in generator.parameters().items():
            array = npz.read_array(archive, members[name])
            if array.dtype != np.dtype("<f4") or array.shape != shapes[name]:
                raise ValueError(
                    f"{name} is {array.dtype} {array.shape}, expected float32 {shapes[name]}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
            variable.assign(array)
    return generator
