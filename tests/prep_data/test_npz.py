"""Reading of .npz files: what numpy writes is read; programs and other content are refused."""

import builtins
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from prep_data import npz
from prep_data.npz import NpzError, read_drawings

DRAWINGS = [
    np.array([[0, 0, 0], [300, -2, 0], [5, 6, 1]], np.int16),
    np.array([[1, 2, 0], [3, 4, 1]], np.int16),
    np.zeros((0, 3), np.int16),
]


def object_array(items) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def with_train(folder: Path, pickled: bytes, shape: str = "(3,)", descr: str = "'|O'") -> Path:
    """A file whose key `train` has this pickle."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    path = folder / "cat.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", magic + header + pickled)
    return path


def refused(path: Path, key: str = "train") -> str:
    """Expects the error that names file and key; returns its message."""
    with pytest.raises(NpzError) as caught:
        read_drawings(path, key)
    message = str(caught.value)
    assert str(path) in message and repr(key) in message and "\n" not in message
    assert isinstance(caught.value, UserError)
    return message


def python2_pickle(drawings) -> bytes:
    """Protocol 2 as Python 2's numpy writes it: text and data are byte strings."""

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<I", len(value)) + value

    def array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
        make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return make + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"

    def dtype(name: bytes, order: bytes, flag: int) -> bytes:
        state = b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flag])
        return b"cnumpy\ndtype\n" + text(name) + b"K\x00K\x01\x87R" + state + b"tb"

    inner = b"".join(
        array(b"K" + bytes([len(d)]) + b"K\x03\x86", dtype(b"i2", b"<", 0), text(d.tobytes()))
        for d in drawings
    )
    n = b"K" + bytes([len(drawings)]) + b"\x85"
    return b"\x80\x02" + array(n, dtype(b"O8", b"|", 63), b"](" + inner + b"e") + b"."


def assert_same(read, expected) -> None:
    assert [d.dtype for d in read] == [np.int16] * len(expected)
    assert [d.tolist() for d in read] == [d.tolist() for d in expected]
    assert [d.shape for d in read] == [d.shape for d in expected]


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path, save):
    save(tmp_path / "cat.npz", train=object_array(DRAWINGS), valid=object_array(DRAWINGS[:1]))
    assert_same(read_drawings(tmp_path / "cat.npz", "train"), DRAWINGS)
    assert_same(read_drawings(tmp_path / "cat.npz", "valid"), DRAWINGS[:1])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_the_protocols_of_python_3(tmp_path, protocol):
    many = [np.full((i % 7, 3), i, np.int16) for i in range(2500)]
    path = with_train(tmp_path, pickle.dumps(object_array(many), protocol), shape="(2500,)")
    assert_same(read_drawings(path, "train"), many)


def test_reads_python_2_and_numpy_2(tmp_path):
    long = [*DRAWINGS, np.arange(150, dtype=np.int16).reshape(50, 3)]
    path = with_train(tmp_path, python2_pickle(long), shape="(4,)")
    assert_same(read_drawings(path, "train"), long)
    pickled = pickle.dumps(object_array(DRAWINGS), 3)
    assert b"numpy.core.multiarray\n" in pickled
    path = with_train(tmp_path, pickled.replace(b"numpy.core.multi", b"numpy._core.multi"))
    assert_same(read_drawings(path, "train"), DRAWINGS)


def test_reads_other_layouts_and_byte_orders(tmp_path):
    odd = [np.asfortranarray(DRAWINGS[0]), DRAWINGS[1].astype(">i2")]
    path = with_train(tmp_path, pickle.dumps(object_array(odd), 3), shape="(2,)")
    assert_same(read_drawings(path, "train"), DRAWINGS[:2])


def test_all_real_files(real_data):
    files = sorted((real_data / "quickdraw").glob("*.npz"))
    assert len(files) == 344
    for file in files:
        for key in ("train", "valid", "test"):
            drawings = read_drawings(file, key)
            assert drawings and all(d.dtype == np.int16 and d.shape[1] == 3 for d in drawings)


# ---- what is refused ---------------------------------------------------------------------------


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *args):
        self.reduction = (function, args)

    def __reduce__(self):
        return self.reduction


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_calls_are_refused_and_not_made(tmp_path, protocol, nested):
    marker = tmp_path / "was-here"
    for call in (
        Call(os.system, f"touch {marker}"),
        Call(builtins.eval, f"open({str(marker)!r}, 'w')"),
        Call(builtins.getattr, DRAWINGS[0], "tofile"),
        Call(np.zeros, 10),
    ):
        value = object_array([DRAWINGS[0], call, DRAWINGS[1]]) if nested else call
        message = refused(with_train(tmp_path, pickle.dumps(value, protocol)))
        assert "which no drawing needs" in message
    assert not marker.exists()


ARRAY = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
TERABYTE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")


@pytest.mark.parametrize(
    "pickled",
    [
        ARRAY + TERABYTE + b"\x85C\x01b\x87R.",  # _reconstruct of 2**40 bytes
        b"\x80\x03cnumpy\nndarray\n" + TERABYTE + b"\x85R.",  # numpy.ndarray called
        b"\x80\x03c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
        b"\x80\x03B\xff\xff\xff\xffabc.",  # 4 GiB of bytes that are not there
        b"\x80\x02](K\x01K\x02eb.",
    ],
    ids=str,
)
def test_forged_pickles_are_refused(tmp_path, pickled):
    refused(with_train(tmp_path, pickled))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([np.zeros((4, 3), np.float64)], "of type 'f8', drawings are int16"),
        ([np.zeros((4, 2), np.int16)], "expected (points, 3)"),
        ([None], "no drawing"),
        ([object_array([1])], "no drawing"),
    ],
)
def test_other_content_is_refused(tmp_path, items, words):
    assert words in refused(with_train(tmp_path, pickle.dumps(object_array(items), 3), "(1,)"))


def test_headers_that_state_something_else(tmp_path):
    pickled = pickle.dumps(object_array(DRAWINGS), 3)
    assert "as many drawings as it says" in refused(with_train(tmp_path, pickled, shape="(4,)"))
    for header in ({"shape": "()"}, {"shape": "(-3,)"}, {"descr": "'<f8'"}, {"descr": "("}):
        refused(with_train(tmp_path, pickled, **header))
    np.savez(tmp_path / "cat.npz", train=np.zeros((5, 4, 3), np.int16))
    assert "array of int16 of shape (5, 4, 3)" in refused(tmp_path / "cat.npz")


def test_members_of_any_size_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_BYTES", 100)
    path = with_train(tmp_path, pickle.dumps(object_array(DRAWINGS), 3))
    assert "more than drawings have" in refused(path)


def test_lack_of_memory_is_told_as_damage(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = with_train(tmp_path, pickle.dumps(object_array(DRAWINGS), 3))
    monkeypatch.setattr(npz, "_unpickle", fail)
    assert "damaged or not a Quick, Draw! file (MemoryError)" in refused(path)


def test_missing_files_and_keys_are_named(tmp_path):
    assert "no such file" in refused(tmp_path / "cat.npz")
    np.savez(tmp_path / "cat.npz", train=object_array(DRAWINGS))
    message = refused(tmp_path / "cat.npz", "valid")
    assert "the key is missing" in message and "train.npy" in message
