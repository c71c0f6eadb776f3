"""The generator's weights file: what inference needs, in one plain .npz without pickles.

Its metadata are schema, width and hidden (of models.layers.spade.SpadeGenerator), and source, the
SHA-256 of the file that it was converted from, or ''. Every other array is float32 and has name and
shape as models.layers.spade.parameter_shapes lists them; kernels are (height, width, in, out) and
divided by their spectral norms. The archive's check sums are compared with each array that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from core.files import open_npz, write_npz
from models.layers.spade import SpadeGenerator, parameter_shapes

SCHEMA = 1
MAX_WIDTH = 1024  # of width and hidden

Width = Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)]


class Metadata(msgspec.Struct, kw_only=True):
    """The metadata of a weights file."""

    schema: int = SCHEMA
    width: Width
    hidden: Width
    source: str = ""


def write(path: Path, width: int, hidden: int, values: Mapping[str, Any], source: str = "") -> None:
    """Write a weights file atomically. values: by parameter_shapes' names. UserError when that
    fails."""
    arrays = {name: np.asarray(values[name], "<f4") for name in parameter_shapes(width, hidden)}
    metadata = Metadata(width=width, hidden=hidden, source=source)
    write_npz(path, msgspec.to_builtins(metadata), arrays)


def save_generator(path: Path, generator: SpadeGenerator) -> None:
    """Write a trained generator's weights. UserError when that fails."""
    write(path, generator.width, generator.hidden, generator.folded())


def load_generator(path: Path) -> SpadeGenerator:
    """Read a generator for inference. UserError naming the file unless it is a whole weights file
    of this version."""
    remedy = "write it with python -m SPADE.convert or SPADE.export"
    with open_npz(path, "a generator's weights file of this version", remedy) as file:
        metadata = file.metadata(Metadata, SCHEMA)
        shapes = parameter_shapes(metadata.width, metadata.hidden)
        arrays = {name: file.array(name) for name in shapes}
        for name, array in arrays.items():
            if array.dtype != np.float32 or array.shape != shapes[name]:
                raise ValueError(
                    f"{name} is {array.dtype} {array.shape}, expected float32 {shapes[name]}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
    generator = SpadeGenerator(metadata.width, metadata.hidden, spectral_norm=False)
    generator.make_variables()
    for name, variable in generator.parameters().items():
        variable.assign(arrays[name])
    return generator
