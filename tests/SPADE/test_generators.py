"""The client of a server: what it does when that is down, slow or answers nonsense."""

import contextlib
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from core.errors import UsageError, UserError
from SPADE import generators, weights
from SPADE.generators import LocalGenerator, RemoteGenerator
from tests.SPADE.servers import write_weights

LABEL = np.zeros((256, 256), np.uint8)
PHOTO = np.zeros((256, 256, 3), np.uint8)
PICTURE = np.linspace(-1, 1, 3 * 256 * 256).reshape(1, 3, 256, 256)
GOOD = (200, json.dumps(PICTURE.tolist()))
HEAD = "HTTP/1.0 200 OK\r\n\r\n"


def numbers(values, shape=(1, 3, 256, 256)):
    return 200, json.dumps(np.broadcast_to(values, shape).tolist())


def health(queue=0, weights="ab" * 32, **more):
    return 200, json.dumps({"status": "ok", "weights": weights, "queue": queue, **more})


class Server:
    """Answers requests with `script`, its last entry again and again: (status, text), text sent as
    it is, or seconds of silence. told: so of /health, which `requests` leaves out."""

    def __init__(self, script, told=((404, ""),), port=0):
        self.requests, self.script, self.told = [], list(script), list(told)
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server._answer(self)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def _answer(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        script = self.told
        if request.path != "/health":
            self.requests.append((request.path, body))
            script = self.script
        answer = script.pop(0) if len(script) > 1 else script[0]
        with contextlib.suppress(OSError):  # who asked may have gone
            if answer == "drip":
                request.wfile.write(HEAD.encode())
                while not self.released.wait(0.02):
                    request.wfile.write(b" ")
            elif isinstance(answer, float):
                self.released.wait(answer)
            elif isinstance(answer, str):
                request.wfile.write(answer.encode())
            else:
                request.send_response(answer[0])
                if answer[0] == 503:
                    request.send_header("Retry-After", "0")
                request.end_headers()
                request.wfile.write(answer[1].encode())


def client_of(address, timeout=5.0, retries=2, start_seconds=0.3, busy_seconds=0.3):
    return RemoteGenerator(address, timeout, retries, 0.01, start_seconds, busy_seconds)


def draw(client):
    return client.generate(LABEL, LABEL, PHOTO)


@pytest.fixture
def served():
    """Starts a Server and gives a client of it."""
    with contextlib.ExitStack() as stack:

        def start(*script, timeout=5.0, busy_seconds=0.3, **more):
            server = Server(script, **more)
            stack.callback(server.close)
            return server, client_of(server.address, timeout, busy_seconds=busy_seconds)

        yield start


def test_a_picture_and_what_was_asked(served):
    server, client = served(GOOD)
    label = np.arange(65536).reshape(256, 256).astype(np.uint8) % 182
    photo = np.full((256, 256, 3), 9, np.uint8)
    picture = client.generate(label, LABEL, photo)
    assert picture.dtype == np.float32 and picture.shape == (256, 256, 3)
    np.testing.assert_allclose(picture[3, 5], PICTURE[0, :, 3, 5], atol=1e-6)
    ((path, body),) = server.requests
    sent = json.loads(body)
    assert path == "/" and list(sent) == ["layout", "instances", "real_image"]
    for key, values in zip(sent, (label, LABEL, photo)):
        np.testing.assert_array_equal(sent[key], values)


# What is asked for again, and what is not: (answer, sentence, how often it is asked).
FAILURES = {
    "an error page": (
        (502, "<html>bad gateway</html>"),
        "failed with status 502, tried 3 times",
        3,
    ),
    "its own failure": (
        (500, '{"error": "out of memory"}'),
        "500: out of memory, tried 3 times",
        3,
    ),
    "a busy stranger": ((503, "<html>later</html>"), "failed with status 503, tried 3 times", 3),
    "no HTTP": ("hello\r\n\r\n", "cannot be reached .* 3 times", 3),
    "a closed door": ("", "cannot be reached .* 3 times", 3),
    "late": (2.0, "cannot be reached .*timed out", 3),
    "a byte at a time": ("drip", "its answer takes too long", 3),
    "short": ("HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n[1]", "cannot be reached", 3),
    "HTML": ((200, "<html>please log in</html>"), "answered no picture but '<html>please", 1),
    "half of it": ((200, GOOD[1][:1000]), "answered no picture", 1),
    "null": ((200, "null"), r"answered numbers of shape \(\)", 1),
    "ragged": ((200, "[[1], [1, 2]]"), "answered no picture", 1),
    "a wrong shape": (numbers(0.0, (3, 256, 256)), r"of shape \(3, 256, 256\), not \(1, 3,", 1),
    "NaN": (numbers(np.nan), r"not in \[-1, 1\]", 1),
    "pixels": (numbers(200.0), r"not in \[-1, 1\]", 1),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_sentence(served, name, caplog):
    answer, sentence, times = FAILURES[name]
    server, client = served(answer, timeout=0.2 if name in ("late", "a byte at a time") else 5.0)
    with pytest.raises(UserError, match=sentence) as error:
        client.generate(LABEL, LABEL, PHOTO)
    for piece in (server.address, "python api.py", "python -m SPADE.serve", "=none"):
        assert piece in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.requests) == times and caplog.text.count("again in") == times - 1


@pytest.mark.parametrize("status", [503, 500, 429, 425, 408])
def test_what_gets_well_gives_a_picture(served, status):
    server, client = served((status, ""), "", GOOD)
    assert client.generate(LABEL, LABEL, PHOTO).shape == (256, 256, 3)
    assert len(server.requests) == 3


def test_a_refusal_is_not_asked_again(served):
    server, client = served((400, '{"error": "layout holds 182"}'))
    with pytest.raises(UserError, match=r"refused .* status 400: layout holds 182$"):
        client.generate(LABEL, LABEL, PHOTO)
    assert len(server.requests) == 1
    _, stranger = served((404, "<html>not found</html>"))
    with pytest.raises(UserError, match=r"status 404; if it is another server, start it with"):
        stranger.generate(LABEL, LABEL, PHOTO)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_a_server_that_is_down(caplog):
    address = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(
        UserError, match=rf"{address} .*: nobody listens .*refused.*, for \d s: sta"
    ):
        client_of(address, retries=0).check()
    assert 0.3 <= time.monotonic() - start < 5
    assert caplog.text.count("nobody listens") == 1  # of 30 attempts


def test_a_server_that_starts_or_starts_again_loses_nothing():
    port = free_port()
    client = client_of(f"http://127.0.0.1:{port}", start_seconds=20)

    def serve(digest):
        servers.append(Server([GOOD], [health(weights=digest)], port))

    servers = []
    for digest in ("ab" * 32, "ab" * 32, "cd" * 32):  # the last is another network
        timer = threading.Timer(0.2, serve, [digest])
        timer.start()
        if not servers:
            client.check()
        if digest == "cd" * 32:
            with pytest.raises(UserError, match="other weights than at the start"):
                draw(client)
        else:
            np.testing.assert_allclose(draw(client)[3, 5], PICTURE[0, :, 3, 5], atol=1e-6)
        timer.join()
        servers[-1].close()


def test_a_busy_server_is_waited_for(served, caplog):
    """As long as it lives, and not longer than agreed."""
    told = [health(7), health(7), health(2), health(0)]
    server, client = served(*[(503, "")] * 3, GOOD, told=told, busy_seconds=20)
    assert draw(client).shape == (256, 256, 3)
    assert len(server.requests) == 4  # more than its retries
    assert caplog.text.count("busy: 7 requests before ours; again in") == 1
    assert caplog.text.count("busy: 2 requests before ours") == 1
    server, client = served((503, ""), told=[health(8)])
    with pytest.raises(UserError, match=r"is busy: 8 requests before ours, for \d s: run .* again"):
        draw(client)
    assert len(server.requests) > 1


def test_a_late_answer_of_a_busy_server_asks_for_more_time(served):
    _, client = served(2.0, told=[health(5)], timeout=0.1)
    with pytest.raises(UserError, match=r"timed out.* busy with 5 requests: .*larger timeout"):
        draw(client)


# What /health may answer of a server that is there: (answer, identity; None: the address).
HEALTHS = {
    "ours": (health(), "ab" * 32),
    "no weights": (health(weights=None), None),
    "an older one of ours": ((200, '{"status": "ok"}'), None),
    "not found": ((404, "<html>not found</html>"), None),
    "no GET": ((501, "Unsupported method"), None),
    "a failure": ((500, "what?"), None),
    "HTML": ((200, "<html>"), None),
    "no digest": (health(weights="../../etc"), None),
    "no UTF-8": ("HTTP/1.0 200 OK\r\n\r\n\xff\x00", None),
}


@pytest.mark.parametrize("name", HEALTHS)
def test_any_server_that_answers_is_there(served, caplog, name):
    answer, identity = HEALTHS[name]
    server, client = served(GOOD, told=[answer])
    client.check()
    assert client.identity == (identity or server.address)
    assert caplog.text.count("another network behind that would not be noticed") == (not identity)
    assert draw(client).shape == (256, 256, 3)


def test_identity_is_of_the_weights_file_or_the_place(tmp_path):
    path = write_weights(tmp_path / "weights.npz")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    local = LocalGenerator(path)
    local.open()
    path.write_bytes(b"another")  # after it was read
    assert local.identity == digest
    for text in ("http://HOST:5000/", "http://name:secret@host:5000"):
        assert RemoteGenerator(text).identity == "http://host:5000"


def test_weights_that_are_replaced_while_they_are_read(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "weights.npz")
    read = weights.load_generator

    def replaced(path):
        network = read(path)
        path.write_bytes(b"another")
        return network

    monkeypatch.setattr(weights, "load_generator", replaced)
    with pytest.raises(UserError, match=r"weights.npz was replaced while it was read"):
        LocalGenerator(path).open()


def test_proxies_are_not_asked(served, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    _, client = served(GOOD)
    client.generate(LABEL, LABEL, PHOTO)


def test_names_of_generators(tmp_path):
    assert generators.find("none") is None
    assert generators.find("https://gpu:8080/spade").identity == "https://gpu:8080/spade"
    local = generators.find(str(tmp_path / "weights.npz"))
    assert isinstance(local, LocalGenerator)
    with pytest.raises(UserError, match=r"no weights file .*weights.npz; generator is an address"):
        local.check()
    for bad in ("ftp://host", "http://", "http://host:70000", "http://[::1", "file:///etc/passwd"):
        with pytest.raises(UsageError, match="is no address"):
            generators.find(bad)
