"""Weights of PyTorch: keys, spectral norm, equal pictures, and files that are not what they say."""

import copy
import json

import numpy as np
import pytest
import tensorflow as tf

from core.commands import run
from core.errors import UserError
from core.provenance import sha256
from models.layers.semantic import semantic_maps
from SPADE import convert
from SPADE.weights import load_generator

NGF, HIDDEN = 2, 6


def _rules(ngf: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the state_dict, from the architecture's rules."""
    keys = {"fc.weight": (16 * ngf, 184, 3, 3), "fc.bias": (16 * ngf,)}
    widths = {"head_0": (16, 16), "G_middle_0": (16, 16), "G_middle_1": (16, 16)}
    widths.update(up_0=(16, 8), up_1=(8, 4), up_2=(4, 2), up_3=(2, 1))
    for block, (wide, narrow) in widths.items():
        inputs, outputs, middle = wide * ngf, narrow * ngf, min(wide, narrow) * ngf
        convs = {"conv_0": (middle, inputs, 3, 3), "conv_1": (outputs, middle, 3, 3)}
        norms = {"norm_0": inputs, "norm_1": middle}
        if wide != narrow:
            convs["conv_s"] = (outputs, inputs, 1, 1)
            norms["norm_s"] = inputs
        for conv, shape in convs.items():
            keys[f"{block}.{conv}.weight_orig"] = shape
            keys[f"{block}.{conv}.weight_u"] = shape[:1]
            keys[f"{block}.{conv}.weight_v"] = (shape[1] * shape[2] * shape[3],)
            if conv != "conv_s":
                keys[f"{block}.{conv}.bias"] = shape[:1]
        for norm, channels in norms.items():
            name = f"{block}.{norm}"
            keys[f"{name}.param_free_norm.running_mean"] = (channels,)
            keys[f"{name}.param_free_norm.running_var"] = (channels,)
            keys[f"{name}.param_free_norm.num_batches_tracked"] = ()
            for end, shape in {
                "mlp_shared.0": (hidden, 184, 3, 3),
                "mlp_gamma": (channels, hidden, 3, 3),
                "mlp_beta": (channels, hidden, 3, 3),
            }.items():
                keys[f"{name}.{end}.weight"], keys[f"{name}.{end}.bias"] = shape, shape[:1]
    return {**keys, "conv_img.weight": (3, ngf, 3, 3), "conv_img.bias": (3,)}


def _state(ngf: int = 1, hidden: int = 2) -> dict[str, np.ndarray]:
    """A state_dict as arrays: positive numbers, so that every sigma is."""
    rng = np.random.default_rng(0)
    drawn = {key: rng.random(shape).astype("f4") for key, shape in _rules(ngf, hidden).items()}
    return {
        k: np.int64(7) * np.ones((), "i8") if "num_batches" in k else v for k, v in drawn.items()
    }


def test_keys_and_shapes_of_the_full_size():
    expected = convert.state_keys(64, 128)
    # Of PyTorch before 1.0: the normalised kernel beside the original one.
    old = {key: each for key, each in expected.items() if f"{key}_orig" in expected}
    assert len(old) == 7 * 2 + 4
    assert all(each == (expected[f"{key}_orig"].shape, True) for key, each in old.items())
    shapes = {key: each.shape for key, each in expected.items() if key not in old}
    assert shapes == _rules(64, 128)
    optional = {key.rpartition(".")[2] for key in shapes if expected[key].optional}
    assert optional == {"weight_v", "num_batches_tracked"}


def test_spectral_norm_by_hand():
    # Two outputs, three inputs, one tap: W = [[3, 0, 4], [0, 2, 0]], u = (0.8, 0.6),
    # v = (0.6, 0, 0.8): W v = (1.8 + 3.2, 0) = (5, 0), sigma = u . W v = 4 (the true norm is 5).
    kernel = np.array([[3, 0, 4], [0, 2, 0]], "f4").reshape(2, 3, 1, 1)
    state = {
        "c.weight_orig": kernel,
        "c.weight_u": np.array([0.8, 0.6], "f4"),
        "c.weight_v": np.array([0.6, 0, 0.8], "f4"),
    }
    np.testing.assert_allclose(convert._folded(state, "c.weight"), kernel / 4, rtol=1e-6)
    # Without v: W^T u = (2.4, 1.2, 3.2), whose length is sqrt(5.76 + 1.44 + 10.24) = 4.17612; with
    # v = W^T u / 4.17612, sigma = u . W v = |W^T u|.
    del state["c.weight_v"]
    np.testing.assert_allclose(convert._folded(state, "c.weight"), kernel / 4.17612, rtol=1e-5)
    # With the normalised kernel of PyTorch before 1.0: that one.
    state["c.weight"] = kernel / 7
    np.testing.assert_array_equal(convert._folded(state, "c.weight"), kernel / 7)


def test_kernels_are_read_as_out_in_height_width():
    # W reshaped (out, -1) of a 3x3 kernel with 2 outputs and 1 input: one weight 6 at output 1,
    # row 0, column 2. u = (0, 1), v = its place: sigma 6.
    state = _state()
    kernel, u, v = np.zeros((2, 4, 3, 3), "f4"), np.array([0, 1], "f4"), np.zeros(36, "f4")
    kernel[1, 3, 0, 2], v[3 * 9 + 0 * 3 + 2] = 6, 1
    state.update({f"up_2.conv_0.weight_{k}": x for k, x in zip(("orig", "u", "v"), (kernel, u, v))})
    found = convert.convert(state).values["up_2.conv_0.kernel"]
    assert found.shape == (3, 3, 4, 2)
    assert found[0, 2, 3, 1] == 1
    assert found.sum() == 1


def _without(key):
    return lambda state: state.pop(key)


def _with(key, value):
    return lambda state: state.update({key: value})


BROKEN = [
    (_without("up_0.norm_s.mlp_beta.bias"), "up_0.norm_s.mlp_beta.bias' is missing"),
    (_without("conv_img.weight"), "conv_img.weight' is missing"),
    (_without("head_0.norm_0.mlp_shared.0.weight"), "mlp_shared.0.weight' is missing"),
    (_with("up_4.conv_0.bias", np.zeros(3, "f4")), "up_4.conv_0.bias' is unknown"),
    (_with("conv_img.weight", np.zeros((3, 0, 3, 3), "f4")), "conv_img.weight has shape"),
    (_with("conv_img.weight", np.zeros((3, 3), "f4")), "conv_img.weight has shape"),
    (_with("fc.weight", np.zeros((16, 36, 3, 3), "f4")), r"fc.weight has shape \(16, 36, 3, 3\)"),
    (_with("fc.bias", np.zeros(16, "i8")), "fc.bias holds int64"),
    (_with("fc.bias", np.full(16, np.nan, "f4")), "fc.bias holds values"),
    (_with("up_3.norm_1.param_free_norm.running_var", -np.ones(1, "f4")), "running_var holds"),
    (_with("up_3.conv_1.weight_u", -np.ones(1, "f4")), "up_3.conv_1.weight_orig has spectral"),
]


@pytest.mark.parametrize("change, words", BROKEN)
def test_every_key_is_accounted_for(change, words):
    state = _state()
    convert.convert(state)
    change(state)
    with pytest.raises(UserError, match=words):
        convert.convert(state)


def test_without_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert run(convert.main, [str(tmp_path / "a.pth"), str(tmp_path / "b.npz")]) == 1
    said = capsys.readouterr().err
    assert (
        said == "error: converting weights needs PyTorch: pip install -r SPADE/requirements.txt\n"
    )


# ---------------------------------------------------------------- with PyTorch


@pytest.fixture(scope="module")
def layout():
    """Blocks of labels and instances, with noise."""
    rng = np.random.default_rng(5)
    labels = np.append(np.arange(182), 255)
    label = np.kron(rng.choice(labels, (2, 8, 16)), np.ones((1, 16, 16), int))
    noise = rng.random(label.shape) < 0.1
    label[noise] = rng.choice(labels, noise.sum())
    instance = np.kron(rng.integers(0, 4, (2, 16, 32)), np.ones((1, 8, 8), int))
    return tf.constant(label, tf.uint8), tf.constant(instance, tf.uint8)


@pytest.fixture(scope="module")
def reference(layout):
    """The PyTorch generator, and the layout as it sees it."""
    torch = pytest.importorskip("torch")
    from tests.SPADE import torch_generator

    torch.set_num_threads(1)  # more wait for each other, on a machine that has other things to do
    seen = torch.tensor(semantic_maps(*layout).one_hot().numpy().transpose(0, 3, 1, 2).copy())
    return torch_generator.trained(NGF, HIDDEN, seen[:, :, ::2, ::2]), seen


def _convert(tmp_path, content) -> int:
    import torch

    torch.save(content, tmp_path / "latest_net_G.pth")
    return run(convert.main, [str(tmp_path / "latest_net_G.pth"), str(tmp_path / "out.npz")])


AGES = ["new", "without num_batches_tracked", "without weight_v", "before 1.0: without weight_v"]


@pytest.mark.parametrize("age", AGES)
def test_pictures_equal_pytorch(reference, layout, tmp_path, capsys, age):
    import torch

    generator, seen = copy.deepcopy(reference[0]), reference[1]
    state = generator.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == _rules(NGF, HIDDEN)
    state = {k: v for k, v in state.items() if not k.endswith(age.rpartition(" ")[2])}
    for name, module in generator.named_modules():
        if not hasattr(module, "weight_v"):
            continue
        v = module.weight_orig.detach().flatten(1).T @ module.weight_u
        if age == "without weight_v":
            module.weight_v.copy_(v / v.norm())
        elif age == AGES[-1]:
            state[f"{name}.weight"] = module.weight_orig.detach() / (1.1 * v.norm())
    if age == AGES[-1]:
        generator.load_state_dict(dict(state))  # PyTorch knows its old files
    assert _convert(tmp_path, state) == 0, capsys.readouterr().err
    source = sha256(tmp_path / "latest_net_G.pth")
    assert f"latest_net_G.pth: SHA-256 {source}" in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as file:
        assert json.loads(str(file["metadata"]))["source"] == source
    found = load_generator(tmp_path / "out.npz")(semantic_maps(*layout)).numpy()
    assert found.shape == (2, 128, 256, 3)
    with torch.no_grad():
        expected = generator(seen).numpy().transpose(0, 2, 3, 1)
    assert expected.std() > 0.1  # they are pictures of something
    np.testing.assert_allclose(found, expected, atol=1e-4)


class _Program:
    """A call that a pickle must not make."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _saved(what, tmp_path):
    """Save a file that is no state_dict of a generator."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    state = {key: torch.tensor(value) for key, value in _state().items()}
    contents = {
        "program": {"fc.weight": _Program(tmp_path / "executed")},
        "list": [torch.zeros(3)],
        "nested": {"model": {"fc.weight": torch.zeros(3)}},
        "other network": {"layer.weight": torch.zeros(3, 3)},
        "sparse": {**state, "fc.bias": torch.zeros(16).to_sparse()},
        "truncated": state,
    }
    if what in ("page", "empty"):
        path.write_text("<html>404</html>" if what == "page" else "")
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/null")
    elif what != "nothing":
        content = contents[what.removeprefix("old ")]
        torch.save(content, path, _use_new_zipfile_serialization="old" not in what)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    return path


@pytest.mark.parametrize(
    "what, words",
    [
        ("program", "nothing in it was run"),
        ("old program", "nothing in it was run"),
        ("list", "not a state_dict"),
        ("nested", "not a state_dict"),
        ("other network", "'conv_img.weight' is missing"),
        ("sparse", "not a state_dict"),
        ("truncated", "damaged"),
        ("page", "damaged"),
        ("empty", "damaged"),
        ("folder", "cannot read"),
        ("device", "a device, not a file"),
        ("nothing", "cannot read"),
    ],
)
def test_other_files(what, words, tmp_path, capsys):
    path = _saved(what, tmp_path)
    assert run(convert.main, [str(path), str(tmp_path / "out.npz")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert words in said
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.npz").exists()
