"""Hostile input: damaged bytes, odd JSON, and the bounds that every reader keeps."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import time
import tracemalloc
import zipfile

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from core.errors import UserError

# Where sizes and counts wrap, and what else a careless reader trips over.
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1,
           2**64 - 1]  # fmt: skip


@st.composite
def mutated(draw, data: bytes, most: int = 4) -> bytes:
    """Draw `data` with up to `most` edits: bits, runs, sizes, pieces cut out, repeated or added."""
    edited = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(edited) - 1, 0)))
        kind = draw(st.sampled_from(["bit", "bytes", "number", "cut", "end", "repeat", "insert"]))
        length = draw(st.integers(1, 64))
        if kind == "bit" and edited:
            edited[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            edited[at : at + length] = draw(st.binary(max_size=64))
        elif kind == "number":
            size = draw(st.sampled_from([1, 2, 4, 8]))
            value = draw(st.sampled_from(NUMBERS)) % 256**size
            edited[at : at + size] = value.to_bytes(size, draw(st.sampled_from(["little", "big"])))
        elif kind == "cut":
            del edited[at : at + length]
        elif kind == "end":
            del edited[at:]
        elif kind == "repeat":
            edited[at:at] = edited[at : at + length]
        else:
            edited[at:at] = draw(st.binary(max_size=64))
    return bytes(edited)


def zipped(members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with right check sums. members: name -> bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a .npy of any header."""
    text = header.encode("latin-1", "replace")[:65535]
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def array_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


HEADERS = st.one_of(
    st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}\n".format,
        st.sampled_from(
            ["'<f4'", "'<i4'", "'|u1'", "'|O'", "'<U9'", "'<U0'", "'|V0'", "'<U536870911'",
             "'<M8[ns]'", "[('a', '<f4'), ('b', '|O')]", "('<f4', (2, 1000000))", "'garbage'"]
        ),
        st.sampled_from(["False", "True", "0"]),
        st.one_of(
            st.lists(st.sampled_from([*NUMBERS, -1, -8, 3]), max_size=3).map(
                lambda shape: "(" + "".join(f"{n}, " for n in shape) + ")"
            ),
            st.sampled_from(["()", "(True,)", "[3]", "3", "(3.0,)", "None", "(" * 300, "(10**9,)"]),
        ),
    ),
    st.sampled_from(["{" * 500, "-" * 9000 + "1", "{'descr': " + "(" * 150 + ")" * 150 + "}",
                     "[" * 90 + "]" * 90, "f(1)", "", "\0", "{}", "{'shape': (1,)}"]),
    st.text(max_size=60),
)  # fmt: skip


def spoilt(array: bytes):
    """Draw a .npy that was whole: edited, with another header, or with noise for data."""
    head = array.find(b"\n") + 1
    noise = st.binary(min_size=1, max_size=16).map(lambda some: some * len(array))
    return st.one_of(
        mutated(array),
        HEADERS.map(lambda header: npy(header, array[head:])),
        noise.map(lambda some: array[:head] + some[: len(array) - head]),
    )


# What JSON can hold that few expect.
ODD = [None, True, 0, -1, 2.5, 1e308, float("nan"), float("inf"), 2**63, -(2**70), 10**400, "", "x",
       "\ud800", "\0", "a\nb", "x" * 300, "../../etc/passwd", [], {}, [[]], [None], {"a": {}},
       [0, "x"]]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(ODD).map(copy.deepcopy),
    lambda each: st.lists(each, max_size=4)
    | st.dictionaries(st.text(max_size=8), each, max_size=4),
    max_leaves=8,
)  # fmt: skip


@st.composite
def mutated_json(draw, content, most: int = 3):
    """Draw `content` with up to `most` values replaced, removed or added, anywhere in it."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, most))):
        node, choices = content, list(_places(content))
        if not choices:
            return draw(JSON)
        node, key = draw(st.sampled_from(choices))
        kind = draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
        if kind == "replace":
            node[key] = draw(JSON)
        elif kind == "remove":
            del node[key]
        elif isinstance(node, list):
            node.insert(key, node[key] if kind == "repeat" else draw(JSON))
        else:
            node[draw(st.text(max_size=8))] = draw(JSON)
    return content


def each_replaced(content):
    """Yield `content` with each of its values replaced by each odd one, in turn.

    In the short profile only every fifth of them.
    """
    content = json.loads(json.dumps(content))
    step = 1 if settings().max_examples > 1000 else 5  # no divisor of the number of odd ones
    number = 0
    for node, key in list(_places(content)):
        kept = node[key]
        for odd in ODD:
            number += 1
            if number % step == 0:
                node[key] = copy.deepcopy(odd)
                yield content
        node[key] = kept


def _places(node):
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


@contextlib.contextmanager
def bounded(size: int, factor: int = 40, slack: int = 4 << 20, seconds: float = 10.0):
    """Fail when the block takes more memory than `factor` times the input and some slack, or longer
    than `seconds`. size: bytes of the input."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        yield
        took = time.monotonic() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= factor * size + slack, f"{peak >> 20} MB for an input of {size} bytes"
    assert took <= seconds, f"{took:.1f} s for an input of {size} bytes"


def refused_or(read, *arguments, size: int = 0, **bounds):
    """Return what `read` returns, None when it raises a UserError of one line.

    Any other exception is a failure of the test.
    """
    with bounded(size, **bounds):
        try:
            return read(*arguments)
        except UserError as error:
            text = str(error)
            assert text and "\n" not in text, text
            return None
