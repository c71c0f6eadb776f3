"""Reading of .npz files: what numpy writes is read; what could do harm is refused, cheaply."""

import builtins
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
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


def npy(pickled: bytes, shape: str = "(3,)", descr: str = "'|O'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def write(path: Path, members: dict, compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_train(folder: Path, pickled: bytes, **header) -> Path:
    return write(folder / "cat.npz", {"train.npy": npy(pickled, **header)})


def refused(path: Path, key: str = "train") -> str:
    """Reads, expects the error that names file and key, and little memory. The message."""
    tracemalloc.start()
    with pytest.raises(NpzError) as caught:
        read_drawings(path, key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    message = str(caught.value)
    assert str(path) in message and repr(key) in message
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


def same(read, expected) -> bool:
    return len(read) == len(expected) and all(
        a.dtype == np.int16 and a.shape == b.shape and np.array_equal(a, b)
        for a, b in zip(read, expected)
    )


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path, save):
    save(tmp_path / "cat.npz", train=object_array(DRAWINGS), valid=object_array(DRAWINGS[:1]))
    assert same(read_drawings(tmp_path / "cat.npz", "train"), DRAWINGS)
    assert same(read_drawings(tmp_path / "cat.npz", "valid"), DRAWINGS[:1])


@pytest.mark.parametrize("protocol", [3, 4])
def test_reads_the_protocols_of_python_3(tmp_path, protocol):
    many = [np.full((i % 7, 3), i, np.int16) for i in range(2500)]  # several batches, long memos
    path = with_train(tmp_path, pickle.dumps(object_array(many), protocol), shape="(2500,)")
    assert same(read_drawings(path, "train"), many)


def test_reads_python_2_and_numpy_2(tmp_path):
    long = [*DRAWINGS, np.arange(150, dtype=np.int16).reshape(50, 3)]
    path = with_train(tmp_path, python2_pickle(long), shape="(4L,)")
    assert same(read_drawings(path, "train"), long)
    pickled = pickle.dumps(object_array(DRAWINGS), 3)
    assert b"numpy.core.multiarray\n" in pickled
    path = with_train(tmp_path, pickled.replace(b"numpy.core.multi", b"numpy._core.multi"))
    assert same(read_drawings(path, "train"), DRAWINGS)


def test_reads_other_layouts_and_byte_orders(tmp_path):
    odd = [np.asfortranarray(DRAWINGS[0]), DRAWINGS[1].astype(">i2")]
    path = with_train(tmp_path, pickle.dumps(object_array(odd), 3), shape="(2,)")
    assert same(read_drawings(path, "train"), DRAWINGS[:2])


def test_all_real_files(real_data):
    files = sorted((real_data / "quickdraw").glob("*.npz"))
    assert len(files) == 344
    for file in files:
        for key in ("train", "valid", "test"):
            drawings = read_drawings(file, key)
            assert drawings and all(d.dtype == np.int16 and d.shape[1] == 3 for d in drawings)


# ---- what is refused: programs -----------------------------------------------------------------


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
        assert "which no drawing needs" in message or "not an array" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x03cnumpy\nload\n.",
        b"\x80\x03cnumpy.core.multiarray\nfromfile\n.",
        b"(S'touch x'\nios\nsystem\n.",  # INST
        b"\x80\x02cos\nsystem\n(U\x01xo.",  # OBJ
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02U\x01xQ.",  # BINPERSID
        b"\x80\x02}U\x01aU\x01bs.",  # a dict
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",  # numpy.ndarray called
        b"\x80\x02](K\x01K\x02eb.",  # BUILD of a list
        b"\x80\x02(lp0\n.",
    ],
    ids=str,
)
def test_other_instructions_are_refused(tmp_path, pickled):
    refused(with_train(tmp_path, pickled))


# ---- what is refused: sizes --------------------------------------------------------------------

MAKE = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
HUGE = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")  # LONG1
STATE = MAKE + b"K\x00\x85C\x01b\x87R(K\x01"
DTYPE_I2 = b"cnumpy\ndtype\nX\x02\x00\x00\x00i2K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<NNNtb"
DTYPE_O = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNNtb"


FORGED = {
    "reconstruct 2**40 bytes": MAKE + HUGE + b"\x85C\x01b\x87R.",
    "reconstruct 2**40 objects": MAKE + HUGE + b"\x85X\x02\x00\x00\x00O8\x87R.",
    "2**40 objects in a state": STATE + HUGE + b"\x85" + DTYPE_O + b"\x89]tb.",
    "2**40 points, two bytes": STATE + HUGE + b"K\x03\x86" + DTYPE_I2 + b"\x89C\x02abtb.",
    "2**40 points, no bytes": STATE + HUGE + b"K\x03\x86" + DTYPE_I2 + b"\x89C\x00tb.",
    "memo of 2**32 places": b"\x80\x03Nr\xff\xff\xff\xff.",
    "4 GiB of bytes": b"\x80\x03B\xff\xff\xff\xffabc.",
    "4 GiB of text": b"\x80\x03X\xff\xff\xff\xffabc.",
    "2**56 bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00abc.",
    "endless frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    "endless number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "piled up": b"\x80\x03" + b"N" * 30_000 + b".",
    "many lists": b"\x80\x03" + b"]" * 30_000 + b".",
    "many marks": b"\x80\x03" + b"(" * 30_000 + b".",
    "nested tuples": b"\x80\x03N" + b"\x85" * 30_000 + b".",
    "long tuple": b"\x80\x03(" + b"N" * 9_000 + b"t.",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_sizes_cost_nothing(tmp_path, name):
    content = {"train.npy": npy(FORGED[name])}
    refused(write(tmp_path / "cat.npz", content, compression=zipfile.ZIP_STORED))


def test_zip_bombs_are_not_unpacked(tmp_path):
    bomb = write(tmp_path / "cat.npz", {"train.npy": bytes(30 << 20)})
    assert bomb.stat().st_size < 100_000
    assert "more than drawings can" in refused(bomb)


def test_headers_that_state_other_numbers(tmp_path):
    pickled = pickle.dumps(object_array(DRAWINGS), 3)
    assert "4 drawings, 3 are there" in refused(with_train(tmp_path, pickled, shape="(4,)"))
    refused(with_train(tmp_path, pickled, shape=f"({1 << 60},)"))
    refused(with_train(tmp_path, pickled, shape="()"))
    refused(with_train(tmp_path, pickled, shape="(-3,)"))
    refused(with_train(tmp_path, pickled, descr="'<f8'"))
    refused(with_train(tmp_path, pickled, descr="__import__('os').getcwd()"))
    for hostile in ("(", "-" * 9000, "  x\n y"):  # each another error of Python's parser
        refused(with_train(tmp_path, pickled, descr=hostile))


# ---- what is refused: other content ------------------------------------------------------------


@pytest.mark.parametrize(
    "items, words",
    [
        ([np.zeros((4, 3), np.int32)], "int16"),
        ([np.zeros((4, 3), np.float32)], "int16"),
        ([np.zeros((4, 2), np.int16)], "expected (points, 3)"),
        ([np.zeros(3, np.int16)], "expected (points, 3)"),
        ([None], "not a drawing"),
        ([5], "not a drawing"),
        ([DRAWINGS[0], DRAWINGS[0]], "twice"),
    ],
)
def test_other_content_is_refused(tmp_path, items, words):
    pickled = pickle.dumps(object_array(items), 3)
    assert words in refused(with_train(tmp_path, pickled, shape=f"({len(items)},)"))


def test_plain_number_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "cat.npz", train=np.zeros((5, 4, 3), np.int16))
    assert "expected a list of drawings" in refused(tmp_path / "cat.npz")


def test_missing_keys_name_the_keys_there(tmp_path):
    np.savez(tmp_path / "cat.npz", train=object_array(DRAWINGS))
    message = refused(tmp_path / "cat.npz", "valid")
    assert "missing" in message and "train.npy" in message


def test_missing_file(tmp_path):
    with pytest.raises(NpzError, match=r"no such file"):
        read_drawings(tmp_path / "cat.npz", "train")


def test_truncated_and_flipped_files(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, train=object_array(DRAWINGS * 1))
    data = whole.read_bytes()
    path = tmp_path / "cat.npz"
    for content in (b"", b"not a zip", data[: len(data) // 2], data[:-10]):
        path.write_bytes(content)
        with pytest.raises(NpzError, match=r"cat\.npz"):
            read_drawings(path, "train")
    flipped = bytearray(data)
    flipped[120] ^= 0xFF
    path.write_bytes(flipped)
    refused(path)


def test_random_damage_is_an_error_or_harmless(tmp_path):
    """Whatever bytes a pickle has: an NpzError or drawings of the right type, nothing else."""
    pickled = pickle.dumps(object_array(DRAWINGS), 3)
    draw = random.Random(0)
    path = tmp_path / "cat.npz"
    for _ in range(600):
        damaged = bytearray(pickled)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.2:
            del damaged[draw.randrange(len(damaged)) :]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("train.npy", npy(bytes(damaged)))
        path.write_bytes(buffer.getvalue())
        try:
            drawings = read_drawings(path, "train")
        except NpzError:
            continue
        assert all(d.dtype == np.int16 and d.ndim == 2 and d.shape[1] == 3 for d in drawings)
