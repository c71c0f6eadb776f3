"""The weights file: there and back, and files that are not whole."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UserError
from models.layers.semantic import SemanticMaps
from models.layers.spade import SpadeGenerator, parameter_shapes
from SPADE import weights


def _arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A trained generator and its weights file."""
    tf.keras.utils.set_random_seed(0)
    generator = SpadeGenerator(1, 2)
    generator.make_variables()
    path = tmp_path_factory.mktemp("weights") / "generator.npz"
    weights.save_generator(path, generator)
    return generator, path


def test_there_and_back(written):
    generator, path = written
    classes = tf.random.stateless_uniform((1, 64, 64), (0, 1), 0, 183, tf.int32)
    maps = SemanticMaps(classes, classes % 3 == 0)
    np.testing.assert_allclose(weights.load_generator(path)(maps), generator(maps), atol=1e-5)
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # no temporary file is left
    assert set(_arrays(path)) == {"metadata", *parameter_shapes(1, 2)}


def _stating(**changes):
    stated = {"schema": weights.SCHEMA, "width": 1, "hidden": 2, **changes}
    text = json.dumps({name: value for name, value in stated.items() if value is not None})
    return lambda arrays: arrays.update(metadata=np.array(text))


BROKEN = [
    (lambda arrays: arrays.pop("metadata"), "metadata is not a file in the archive"),
    (lambda arrays: arrays.pop("fc.bias"), "fc.bias is not a file in the archive"),
    (lambda arrays: arrays.update({"fc.bias": np.zeros(16)}), "fc.bias is float64"),
    (lambda arrays: arrays.update({"fc.bias": np.zeros(17, "f4")}), r"fc.bias is float32 \(17,\)"),
    (lambda arrays: arrays.update({"fc.bias": np.full(16, np.inf, "f4")}), "not finite"),
    (lambda arrays: arrays.update({"fc.bias": np.array([None] * 16)}), "allow_pickle=False"),
    (_stating(schema=2), "its schema is 2, not 1"),
    (_stating(width=None), "missing required field `width`"),
    (_stating(width=10**9), "`int` <= 1024"),
    # An architecture that would take 1,600 GB of memory.
    (_stating(width=1024, hidden=1024), r"fc.kernel is float32 .*, expected float32"),
]  # fmt: skip


@pytest.mark.parametrize("change, words", BROKEN)
def test_other_files(written, tmp_path, change, words):
    arrays = _arrays(written[1])
    change(arrays)
    path = tmp_path / "broken.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=words) as found:
        weights.load_generator(path)
    assert str(path) in str(found.value)
    assert "SPADE.convert" in str(found.value)
    assert "\n" not in str(found.value)


def test_damage_is_seen(written, tmp_path):
    """Every cut and flipped bits of the arrays; tests/fuzz damages files of the same reader."""
    data, path = written[1].read_bytes(), tmp_path / "broken.npz"
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    cuts = (data[:length] for length in (0, 1, 100, len(data) // 3, len(data) - 1))
    np.save(npy := io.BytesIO(), np.zeros(3))
    for content in (flipped, *cuts, npy.getvalue(), b"<html>404</html>"):
        path.write_bytes(content)
        reason = "Bad CRC-32" if content is flipped else "no whole .npz archive"
        with pytest.raises(UserError, match=rf"{path} is not .* \({reason}"):
            weights.load_generator(path)
    with pytest.raises(UserError, match="No such file"):
        weights.load_generator(tmp_path / "none.npz")
