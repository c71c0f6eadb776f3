"""A server of generators, in a process of its own, before clients of every kind: whatever they
send, it stays, takes little memory, and answers the next one."""

import contextlib
import http.client
import json
import random
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SPADE import api
from tests.fuzz.hostile import JSON, mutated
from tests.SPADE import servers

# The application of every server, with a generator that costs nothing.
CODE = """
import numpy as np
from SPADE import api
app = api.create_app(lambda *layout: np.zeros((1, 3, 256, 256)), "zeros", "0" * 64)
api.serve(app, api.bind("127.0.0.1", 0))
"""
ROWS = np.zeros((256, 256), int).tolist()
BODY = json.dumps({"layout": ROWS, "instances": ROWS}).encode()


@pytest.fixture(scope="module")
def server():
    """The port of a server."""
    with servers.started("-c", CODE) as port:
        assert servers.ask(port, BODY)[0] == 200
        before = memory(port)
        yield port
        healthy(port)
        assert memory(port) - before < 600 << 20


def memory(port):
    """Bytes that the server has taken at most."""
    for process in psutil.Process().children():
        if any(each.laddr.port == port for each in process.net_connections()):
            text = Path(f"/proc/{process.pid}/status").read_text()
            return int(text.partition("VmHWM:")[2].split()[0]) << 10
    raise AssertionError("the server is gone")


def healthy(port):
    began = time.monotonic()
    assert servers.ask(port, method="GET", path="/health")[0] == 200
    assert time.monotonic() - began < 10


def answer(port, data, seconds=2.0, leaves=False):
    """All that the server says to `data`. leaves: the client says that nothing more is sent, for
    which servers that wait for more hang up, and may do so before they answer."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with contextlib.suppress(OSError):  # it may hang up in the middle
            connection.sendall(data)
            if leaves:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while part := connection.recv(1 << 16):
                said += part
    return said


def status(said):
    return int(said[9:12]) if said.startswith(b"HTTP/1.") else None


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
REQUEST = HEAD + b"Content-Length: 26\r\n\r\n" + b'{"layout": [], "more": 12}'
LINES = st.sampled_from([
    b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"PUT /health HTTP/1.1", b"TRACE / HTTP/9.9", b"POST /",
    b"OPTIONS * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET http://[/ HTTP/1.1", b"\x16\x03\x01\x02",
    b"PRI * HTTP/2.0", b"GET /" + b"a/" * 5000 + b" HTTP/1.1", b"GET /%00%ff/../../ HTTP/1.1",
    b"POST /?" + b"\xff" * 100 + b" HTTP/1.0", b"Content-Length: 5", b"Content-Length: -1",
    b"Content-Length: 99999999999999999999", b"Content-Length: 0x5", b"Content-Length: 5, 6",
    b"Content-Length: \xd9\xa3", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: chunked, chunked", b"Content-Type: text/html", b"Content-Type: \xff",
    b"Content-Type: multipart/form-data; boundary=" + b"x" * 3000, b"Content-Encoding: gzip",
    b"Expect: 100-continue", b"Expect: \0", b"Connection: upgrade", b"Upgrade: websocket", b"Host:",
    b"Host: \xff\xfe", b"Host: a\0b", b"Cookie: " + b"a=b;" * 2000, b"X: " + b"y" * 20_000, b": x",
    b" folded", b"no colon", b"\0", b"", b"5\r\nhello", b"ffffffffffffffff\r\nx", b"-5\r\nx", b"0",
    b'{"layout": [[1]]}', b"A" * 70_000,
])  # fmt: skip


@given(data=st.lists(LINES, max_size=8).map(b"\r\n".join) | mutated(REQUEST) | st.binary())
def test_garbage_in_place_of_requests(server, data):
    said = answer(server, data, leaves=True)
    assert status(said) in (None, 100) or (200 <= status(said) < 600 and status(said) != 500)
    assert b"Traceback" not in said


def posted(port, body):
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    said = answer(port, head + body, seconds=20.0)
    code = status(said)
    assert code in (200, 400), said[:200]
    content = json.loads(said.partition(b"\r\n\r\n")[2])
    assert code == 200 or (list(content) == ["error"] and len(content["error"]) < 300)


@given(content=JSON | st.fixed_dictionaries({"layout": JSON, "instances": JSON}))
def test_json_of_any_kind(server, content):
    posted(server, json.dumps(content).encode())


LARGE = {
    "lists of nothing": b'{"layout": [' + b"[]," * 2_600_000 + b"[]]}",
    "objects of nothing": b'{"layout": [' + b"{}," * 2_600_000 + b"[]]}",
    "one long number": b'{"layout": ' + b"9" * 7_000_000 + b"}",
    # Of texts numpy would make an array in which each is as long as the longest: 30 GB.
    "one long text": json.dumps({"layout": [["x" * 120_000, *["y"] * 255]] + [["z"] * 256] * 255}
                                ).encode(),
    "deep": b"[" * 8_000_000,
    "white": BODY[:-1] + b" " * 6_000_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("what", LARGE)
def test_bodies_as_large_as_they_may_be(server, what):
    assert len(LARGE[what]) < api.MOST_BYTES
    posted(server, LARGE[what])


@pytest.mark.parametrize("length", [b"%d" % (api.MOST_BYTES + 1), b"9" * 18])
def test_a_length_beyond_all_bounds(server, length):
    said = answer(server, HEAD + b"Content-Length: " + length + b"\r\n\r\n{")
    assert status(said) == 413


def test_chunks_without_end(server):
    chunk = b"%x\r\n" % (1 << 20) + b"[" * (1 << 20) + b"\r\n"
    said = answer(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 40, seconds=20.0)
    assert status(said) in (None, 400, 413)  # it may hang up before it is heard, or read no further
    healthy(server)


def test_many_slow_clients(server):
    """Each sends a byte now and then, in the head or in the body, and never ends."""
    rng = random.Random(0)
    starts = (b"", b"POST", HEAD, HEAD + b"Content-Length: 1000\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(200):
            connection = socket.create_connection(("127.0.0.1", server), timeout=10)
            slow.append(stack.enter_context(connection))
            connection.sendall(rng.choice(starts))
        for _ in range(3):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
            healthy(server)
            assert servers.ask(server, BODY)[0] == 200


def test_clients_that_do_not_listen(server):
    """They ask for pictures, 2 MB each, and take none."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", server), timeout=10)
            stack.enter_context(connection)
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        healthy(server)
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=30)
    with contextlib.closing(connection):
        for _ in range(3):  # many requests, one connection
            status = 503  # while those that have left are still in the queue
            while status == 503:
                connection.request("POST", "/", BODY)
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
            assert status == 200 and len(content) > 3 * 256 * 256
