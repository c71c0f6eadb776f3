"""Convert the weights of NVlabs/SPADE's COCO-Stuff generator from PyTorch's file to one of ours.

    pip install -r SPADE/requirements.txt
    python -m SPADE.convert checkpoints/coco_pretrained/latest_net_G.pth coco-generator.npz

Nothing in the file is executed (`weights_only`). Every key of it must be one that the generator
has, and none may be missing, but for those in which older versions of PyTorch differ: before 1.0
they saved normalised kernels in the place of `weight_v`. Spectral norm is folded into the kernels.
Its SHA-256 is printed and kept, so that a copy that differs is noticed: it has no check sums.
Those weights are under CC BY-NC-SA 4.0, and so is what is made of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.commands import Parser, run
from core.errors import UserError
from core.files import make_folder, regular_file
from core.provenance import sha256
from models.layers.semantic import CHANNELS
from models.layers.spade import parameter_shapes
from SPADE import weights

log = logging.getLogger(__name__)

# end of our name -> end of PyTorch's key
NORM = {
    "shared_kernel": "mlp_shared.0.weight",
    "shared_bias": "mlp_shared.0.bias",
    "gamma_kernel": "mlp_gamma.weight",
    "gamma_bias": "mlp_gamma.bias",
    "beta_kernel": "mlp_beta.weight",
    "beta_bias": "mlp_beta.bias",
    "mean": "param_free_norm.running_mean",
    "variance": "param_free_norm.running_var",
}
COUNTER = "param_free_norm.num_batches_tracked"
# The sizes are read from these: (key, axis).
WIDTH = ("conv_img.weight", 1)
HIDDEN = ("head_0.norm_0.mlp_shared.0.weight", 0)


class Expected(NamedTuple):
    """A key of the state_dict. shape: of PyTorch; optional: older or newer files lack it."""

    shape: tuple[int, ...]
    optional: bool = False


class Network(NamedTuple):
    """width, hidden: of SpadeGenerator; values: float32 by parameter_shapes' names."""

    width: int
    hidden: int
    values: dict[str, np.ndarray]


def torch_name(name: str) -> str:
    """Return the key of one of our parameters; of a kernel under spectral norm without `_orig`."""
    place, _, end = name.rpartition(".")
    return f"{place}.{NORM.get(end, 'weight' if end == 'kernel' else end)}"


def _spectral(name: str) -> bool:
    return name.endswith(".kernel") and name.count(".") == 2


def state_keys(width: int, hidden: int) -> dict[str, Expected]:
    """Return all keys of a generator's state_dict."""
    keys = {}
    for name, shape in parameter_shapes(width, hidden).items():
        key = torch_name(name)
        if len(shape) == 4:
            height, breadth, inputs, outputs = shape
            shape = (outputs, inputs, height, breadth)
        if _spectral(name):
            keys[f"{key}_orig"] = Expected(shape)
            keys[f"{key}_u"] = Expected(shape[:1])
            keys[f"{key}_v"] = Expected((int(np.prod(shape[1:])),), optional=True)
            keys[key] = Expected(shape, optional=True)
        else:
            keys[key] = Expected(shape)
        if name.endswith(".mean"):
            counter = key.replace(NORM["mean"], COUNTER)
            keys[counter] = Expected((), optional=True)
    return keys


def convert(state: Mapping[str, np.ndarray]) -> Network:
    """Convert a generator's state_dict to our parameters. UserError naming a key that is
    unknown, missing, of another shape or type, or holds what no network does."""
    width, hidden = (_size(state, key, axis) for key, axis in (WIDTH, HIDDEN))
    _check(state, state_keys(width, hidden))
    values = {}
    for name, shape in parameter_shapes(width, hidden).items():
        key = torch_name(name)
        value = _folded(state, key) if _spectral(name) else state[key]
        value = value.transpose(2, 3, 1, 0) if len(shape) == 4 else value
        values[name] = np.ascontiguousarray(value, np.float32)
    return Network(width, hidden, values)


def _size(state: Mapping[str, np.ndarray], key: str, axis: int) -> int:
    if key not in state:
        raise UserError(f"the key {key!r} is missing: these are not a SPADE generator's weights")
    shape = state[key].shape
    if len(shape) != 4 or not 1 <= shape[axis] <= weights.MAX_WIDTH:
        raise UserError(f"{key} has shape {shape}: these are not a SPADE generator's weights")
    return shape[axis]


def _check(state: Mapping[str, np.ndarray], expected: Mapping[str, Expected]) -> None:
    for key in state:
        if key not in expected:
            raise UserError(f"the key {key!r} is unknown: these are not this generator's weights")
    for key, (shape, optional) in expected.items():
        if key not in state:
            if optional:
                continue
            raise UserError(f"the key {key!r} is missing: these are not this generator's weights")
        value = state[key]
        if value.shape != shape:
            raise UserError(
                f"{key} has shape {value.shape}, expected {shape} for COCO-Stuff's {CHANNELS} "
                "channels"
            )
        if value.dtype.kind != ("i" if key.endswith(COUNTER) else "f"):
            raise UserError(f"{key} holds {value.dtype}, which are no weights")
        if not np.isfinite(value).all() or (key.endswith(NORM["variance"]) and value.min() < 0):
            raise UserError(f"{key} holds values that no network has (not finite, or below zero)")


def _folded(state: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """Return weight_orig / sigma, sigma = u^T W v (Miyato et al. 2018, section 2.1), or the kernel
    normalised so that PyTorch before 1.0 saved, and computed pictures with."""
    v = state.get(f"{key}_v")
    if v is None and key in state:
        return state[key]
    kernel = state[f"{key}_orig"].astype(np.float64)
    u = state[f"{key}_u"].astype(np.float64)
    matrix = kernel.reshape(len(kernel), -1)
    if v is None:
        v = u @ matrix
        v = v / max(np.linalg.norm(v), 1e-12)
    sigma = u @ matrix @ v
    if not sigma > 0:
        raise UserError(
            f"{key}_orig has spectral norm {sigma:.3g} by its vectors: not a trained one"
        )
    return kernel / sigma


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors that PyTorch saved. UserError for a file that holds anything else, and where
    PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        raise UserError(
            "converting weights needs PyTorch: pip install -r SPADE/requirements.txt"
        ) from None
    try:
        state = torch.load(regular_file(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # damaged files show as many types, forged ones as UnpicklingError
        log.debug("torch.load", exc_info=error)
        raise UserError(
            f"{path} is no file of tensors alone: damaged, or of another kind; nothing in it was "
            "run. A generator's weights are a state_dict, as latest_net_G.pth"
        ) from None
    try:
        return {key: _array(value) for key, value in state.items()}
    except (AttributeError, TypeError, RuntimeError):  # other objects, tensors that are not plain
        raise UserError(f"{path} is not a state_dict of tensors, as latest_net_G.pth is") from None


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. UserError for what a user can mend."""
    parser = Parser(prog="python -m SPADE.convert", description=__doc__.partition("\n")[0])
    parser.add_argument("weights", type=Path, help="PyTorch's file, latest_net_G.pth")
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    args = parser.parse_args(argv)
    make_folder(args.out.parent, "the folder", "choose another")
    state = read_state_dict(args.weights)
    source = sha256(args.weights)
    try:
        network = convert(state)
    except UserError as error:
        raise UserError(f"{args.weights}: {error}") from None
    weights.write(args.out, *network, source=source)
    count = sum(value.size for value in network.values.values())
    print(f"{args.out}: width {network.width}, {count / 1e6:.2f} M numbers")
    print(f"{args.weights}: SHA-256 {source}")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], clean_up=True))
