"""The client of generators before servers of every kind: one sentence within the time, whatever
they say and however slowly."""

import itertools
import json
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import UserError
from SPADE import generators
from SPADE.generators import RemoteGenerator
from tests.fuzz.hostile import JSON, bounded, mutated


class Liar:
    """A server on loopback that says the bytes of `pieces`, one after the other, whatever it is
    asked."""

    def __init__(self):
        self.pieces = ()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return  # closed
            arguments = (connection, self.pieces)
            threading.Thread(target=self._answer, args=arguments, daemon=True).start()

    def _answer(self, connection, pieces):
        with connection:
            connection.settimeout(1.0)
            try:
                connection.recv(1 << 16)
                for piece in pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass
            except OSError:
                pass  # who asked has gone


@pytest.fixture(scope="module")
def liar():
    server = Liar()
    yield server
    server.socket.close()


def asked(liar, pieces, timeout=5.0):
    """Return the picture that a client makes of it, or None for a sentence."""
    liar.pieces = pieces
    client = RemoteGenerator(liar.address, timeout=timeout, retries=0)
    label = np.zeros((1, 1), np.uint8)
    try:
        picture = client.generate(label, label, label)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        return None
    assert picture.shape == (256, 256, 3) and (abs(picture) <= 1.001).all()
    return picture


OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
PICTURE = json.dumps(np.zeros((1, 3, 256, 256)).tolist()).encode()
HEADS = st.lists(
    st.sampled_from([
        b"HTTP/1.1 200 OK", b"HTTP/1.1 204 x", b"HTTP/1.1 302 x", b"HTTP/1.1 307 x", b"HTTP/1.1",
        b"HTTP/1.1 400 x", b"HTTP/1.1 500 x", b"HTTP/1.1 -1 x", b"HTTP/1.1 2\xb2 x", b"HTTP/0.9 2",
        b"HTTP/1.1 999", b"ICY 200 OK", b"Content-Length: -5", b"Content-Length: 10", b"Content:",
        b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Location: /",
        b"Location: http://[::1", b"Location: file:///etc/passwd", b"Location: http://127.0.0.1:1/",
        b"Location: http://a\x00b/", b"Location: ftp://127.0.0.1/x", b"Location: http://h:99999/",
        b"Location: \xff\xfe", b"Location: http://\xc3\xa4.\xff:x", b"Content-Encoding: gzip",
        b"X: " + b"y" * 70_000, b"A: b\r\n" * 200, b"\0", b" folded", b"", b"ffffffffffffff", b"5",
        b'{"error": {"a": [1]}}', b'{"error": "' + b"x\\n" * 900 + b'"}', b"\xff" * 90,
    ]),
    max_size=6,
).map(b"\r\n".join)  # fmt: skip


@given(said=HEADS | mutated(OK % len(PICTURE) + b"[" * 40) | st.binary(max_size=80))
@example(said=b"HTTP/1.1 302 x\r\nLocation: http://[::1\r\n\r\n")
@example(said=OK % len(PICTURE) + PICTURE)
def test_answers_of_any_bytes(liar, said):
    asked(liar, [said])


@given(content=JSON | st.lists(st.lists(JSON, max_size=3), max_size=3))
@example(content=[[["1e5"] * 3]])
def test_answers_of_any_json(liar, content):
    body = json.dumps(content).encode()
    assert asked(liar, [OK % len(body) + body]) is None


def test_the_answer_that_is_damaged_is_a_picture(liar):
    assert asked(liar, [OK % len(PICTURE) + PICTURE]) is not None


SLOW = {
    "a body": (OK % (1 << 30), b" "),
    "an error": (b"HTTP/1.1 500 x\r\nContent-Length: 100000\r\n\r\n", b" "),
    "a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "nothing": (b"", b""),
}


class Slowly:
    """Pieces of an answer that has no end, from the start for each who asks."""

    def __init__(self, first, then):
        self.first, self.then = first, then

    def __iter__(self):
        yield self.first
        while True:
            time.sleep(0.02)
            yield self.then


@pytest.mark.parametrize("what", SLOW)
def test_a_server_that_says_a_little_now_and_then(liar, what):
    began = time.monotonic()
    assert asked(liar, Slowly(*SLOW[what]), timeout=0.3) is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("repeated", [b"[", b"[],", b"0.1234567890123456, "], ids=repr)
def test_an_answer_without_end(liar, repeated):
    with bounded(generators.MAX_ANSWER, factor=30, seconds=60.0):
        pieces = itertools.repeat(repeated * ((1 << 16) // len(repeated)))
        said = itertools.chain([b"HTTP/1.0 200 OK\r\n\r\n["], pieces)
        assert asked(liar, said, timeout=60.0) is None
