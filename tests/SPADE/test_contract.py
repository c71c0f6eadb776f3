"""One contract, and both that keep it: SPADE/api.py in a clone, and SPADE.serve."""

import contextlib
import http.client
import json
import re
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core.commands import run
from core.provenance import sha256
from SPADE import api, serve
from SPADE.generators import LocalGenerator
from tests.SPADE import servers
from tests.SPADE.servers import ask

RNG = np.random.default_rng(0)
LABEL = np.kron(RNG.integers(0, 182, (8, 8)), np.ones((32, 32), int)).astype(np.uint8)
LABEL[:40] = 255
INSTANCE = np.kron(RNG.integers(0, 256, (8, 8)), np.ones((32, 32), int)).astype(np.uint8)
PHOTO = RNG.integers(0, 256, (256, 256, 3), np.uint8)


class Server(NamedTuple):
    kind: str
    port: int
    weights: Path
    expected: np.ndarray  # of LABEL, INSTANCE and PHOTO: (3, 256, 256)


def content(**changes):
    whole = {"layout": LABEL.tolist(), "instances": INSTANCE.tolist(), "real_image": PHOTO.tolist()}
    whole.update(changes)
    return {key: value for key, value in whole.items() if value is not Ellipsis}


def body(**changes):
    return json.dumps(content(**changes))


@pytest.fixture(scope="module", params=["clone", "ours"])
def server(request, tmp_path_factory):
    if request.param == "ours":
        path = request.getfixturevalue("exported")
        expected = LocalGenerator(path).generate(LABEL, INSTANCE, PHOTO).transpose(2, 0, 1)
        with servers.started("-m", "SPADE.serve", "--weights", path) as port:
            yield Server(request.param, port, path, expected)
        return
    pytest.importorskip("torch")
    folder = servers.make_clone(tmp_path_factory.mktemp("clone"))
    # 255 is the channel after the 182 classes; a pixel of 0..255 is -1..1.
    channels = [
        np.where(LABEL == 255, 182, LABEL) / 182, INSTANCE / 255, PHOTO.mean(2) / 127.5 - 1,
    ]  # fmt: skip
    with servers.started(folder / "api.py") as port:  # from another folder
        path = servers.weights_of(folder, "coco_pretrained")
        yield Server(request.param, port, path, np.stack(channels))


def test_a_layout_becomes_a_picture(server):
    status, picture = ask(server.port, body())
    assert status == 200
    np.testing.assert_allclose(picture, server.expected[None], atol=2e-5)


def test_the_photograph_may_be_left_out(server):
    for nothing in (..., None):
        status, picture = ask(server.port, body(real_image=nothing))
        assert status == 200
        np.testing.assert_allclose(picture[0][0], server.expected[0], atol=2e-5)


def health(port):
    began = time.monotonic()
    status, content = ask(port, method="GET", path="/health")
    assert status == 200 and time.monotonic() - began < 1
    return content


def test_it_says_who_it_is(server):
    name = "coco_pretrained" if server.kind == "clone" else server.weights.name
    assert health(server.port) == {
        "status": "ok", "generator": name, "weights": sha256(server.weights), "queue": 0,
        "limit": api.LIMIT,
    }  # fmt: skip


ROWS = LABEL.tolist()
# Made when they are asked for: all workers import this.
BAD = {
    "nothing": (str, "not JSON"),
    "HTML": (lambda: "<html>", "not JSON"),
    "deep": (lambda: "[" * 100_000, "not JSON"),
    "no layout": (lambda: body(layout=...), "layout is missing"),
    "a row too few": (lambda: body(layout=ROWS[1:]), "layout must be a nested list .*(256, 256)"),
    "ragged": (lambda: body(layout=[*ROWS[1:], [1]]), "layout must be"),
    "deep layout": (
        lambda: body(layout=0).replace('"layout": 0', '"layout": ' + "[" * 50 + "]" * 50),
        "layout must be",
    ),
    "NaN": (lambda: body(layout=np.full((256, 256), np.nan).tolist()), "layout must be"),
    "text": (lambda: body(instances=LABEL.astype(str).tolist()), "instances must be"),
    "huge": (lambda: body(layout=[*ROWS[1:], [10**30] * 256]), "layout holds 1000"),
    "the label 182": (lambda: body(layout=[*ROWS[1:], [182] * 256]),
                      r"layout holds 182: .*0\.\.181"),
    "a label below 0": (lambda: body(layout=[*ROWS[1:], [-1] * 256]), "layout holds -1"),
    "an instance below 0": (lambda: body(instances=[*ROWS[1:], [-1] * 256]), "instances holds -1"),
    "a flat photograph": (lambda: body(real_image=ROWS), "real_image must be .*3"),
    "a bright photograph": (lambda: body(real_image=(PHOTO + 1.0).astype(int).tolist()),
                            "real_image holds 256"),
}  # fmt: skip


def check_refusal(name, status, answer):
    assert status == 400 and list(answer) == ["error"]
    pattern = BAD[name][1].replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, answer["error"]), answer


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_with_a_sentence(name):
    """By the application that all servers run; nothing of it reaches the network."""
    answer = (
        api.create_app(lambda *layout: pytest.fail("asked"), "none", "")
        .test_client()
        .post("/", data=BAD[name][0]())
    )
    check_refusal(name, answer.status_code, answer.json)


def test_servers_answer_bad_input(server):
    for name in ("HTML", "the label 182"):
        check_refusal(name, *ask(server.port, BAD[name][0]()))


def test_other_places_and_methods(server):
    assert ask(server.port, body(), path="/other")[0] == 404
    assert ask(server.port, method="GET")[0] == 405
    assert ask(server.port, body(), path="/health")[0] == 405


def test_one_picture_at_a_time(server):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(server.port, body()), range(4)))
    assert all(answer == answers[0] for answer in answers) and answers[0][0] == 200


def test_it_listens_at_loopback_alone(server):
    # On Linux all of 127.0.0.0/8 is this machine; a server at 0.0.0.0 would answer.
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


@pytest.mark.parametrize("label", [7, 8])
def test_a_network_that_fails(server, label):
    """7: it raises; 8: it gives NaN."""
    if server.kind == "ours":
        pytest.skip("the network of the clone fails when it is told to")
    status, answer = ask(server.port, body(layout=np.full((256, 256), label).tolist()))
    words = "the server failed" if label == 7 else "the generator made no picture"
    assert status == 500 and words in answer["error"] and "SECRET" not in str(answer)
    assert ask(server.port, body())[0] == 200


# ---- a generator that takes its time -------------------------------------------------------------


# It notes the label of each layout that it is given, and makes no picture before it may.
SLOW = """
import pathlib, sys, time
import numpy as np
from SPADE import api
folder = pathlib.Path(sys.argv[1])

def generate(label, instance, photo):
    with (folder / "asked").open("a") as file:
        print(label[0, 0], file=file)
    while not (folder / "go").exists():
        time.sleep(0.01)
    return np.zeros((1, 3, 256, 256))

api.serve(api.create_app(generate, "slow", "0"), api.bind("127.0.0.1", 0))
"""


class Slow(NamedTuple):
    port: int
    folder: Path

    def post(self, label):
        """Start a request that is not waited for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        rows = np.full((256, 256), label).tolist()
        connection.request("POST", "/", json.dumps({"layout": rows, "instances": rows}))
        return connection

    def wait_for(self, condition):
        """Wait until a condition on /health holds."""
        deadline = time.monotonic() + 20
        while not condition(health(self.port)):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def asked(self):
        """The labels of the layouts that the generator was given."""
        file = self.folder / "asked"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def slow(tmp_path):
    with servers.started("-c", SLOW, tmp_path) as port:
        yield Slow(port, tmp_path)
        (tmp_path / "go").touch()


def test_a_crowd(slow):
    """Those within the limit are answered, the others are told when to come again."""
    connections = [slow.post(1) for _ in range(50)]
    slow.wait_for(lambda said: said["queue"] == api.LIMIT)
    # Those who got a place are still waiting, with nothing to be read.
    refused = []
    while len(refused) < 50 - api.LIMIT:
        ready = select.select([each.sock for each in connections], [], [], 20)[0]
        refused += [each for each in connections if each.sock in ready]
        connections = [each for each in connections if each not in refused]
        assert ready and health(slow.port)["queue"] == api.LIMIT
    for connection in refused:
        answer = connection.getresponse()
        assert answer.status == 503 and answer.getheader("Retry-After") == str(api.LIMIT)
        assert list(json.loads(answer.read())) == ["error"]
    (slow.folder / "go").touch()
    answers = [connection.getresponse() for connection in connections]
    assert [answer.status for answer in answers] == [200] * api.LIMIT
    for connection in (*connections, *refused):
        connection.close()
    assert len(slow.asked()) == api.LIMIT


def test_requests_of_clients_that_left_are_not_computed(slow):
    """Nor do they keep others out."""
    first = slow.post(1)
    slow.wait_for(lambda said: slow.asked() == [1])
    left = [slow.post(2) for _ in range(api.LIMIT - 1)]
    slow.wait_for(lambda said: said["queue"] == api.LIMIT)
    for connection in left:
        connection.close()
    slow.wait_for(lambda said: said["queue"] == 1)
    second = slow.post(3)
    slow.wait_for(lambda said: said["queue"] == 2)
    (slow.folder / "go").touch()
    for connection in (first, second):
        with contextlib.closing(connection):
            assert connection.getresponse().status == 200
    assert slow.asked() == [1, 3]


@pytest.mark.parametrize(
    "request_line, status",
    [
        ("NONSENSE", 400),
        ("GET /health HTTP/1.1\r\nno colon", 400),
        ("GET /health HTTP/1.1\r\nX: " + "x" * 300_000, 431),
        (f"POST / HTTP/1.1\r\nContent-Length: {api.MOST_BYTES}", 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip", 501),
    ],
    ids=["line", "header", "long header", "long body", "encoding"],
)
def test_what_is_no_request_is_answered_as_json(slow, request_line, status):
    with socket.create_connection(("127.0.0.1", slow.port), timeout=10) as connection:
        connection.sendall(f"{request_line}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("Content-Type")) == (status, "application/json")
        (error,) = json.loads(answer.read()).values()
        assert len(error) <= 200


# ---- what keeps a server from starting -----------------------------------------------------------


STARTS = """
import json, os, runpy, sys
for arguments, gone in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("models", "options")]:
        del sys.modules[name]
    loaded = dict(sys.modules)
    if gone == "2.6":
        loaded["torch"].__version__ = "2.5.1+cpu"
    elif gone in loaded:
        sys.modules[gone] = None  # as if it were not installed
    elif gone:
        os.remove(gone)
    sys.argv = ["api.py", *arguments]
    try:
        runpy.run_path("api.py", run_name="__main__")
    except SystemExit as ended:
        print("said", json.dumps(ended.code))
    sys.modules.update(loaded)
    if "torch" in loaded:
        loaded["torch"].__version__ = loaded["torch"].version.__version__
"""
LOADED = "the network is loaded"


def test_what_keeps_api_from_starting(tmp_path):
    """In one process, for the time that PyTorch takes to load."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("says what happens without a GPU")
    folder = servers.make_clone(tmp_path / "clone")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        unsafe = "is no file of tensors alone: .*nothing in it was run. Unpack"
        # arguments, a file or module that is taken away before, what is said
        starts = [
            (["--name=mine"], None, r"mine/latest_net_G.pth cannot be read \(.*No such file"),
            (["--name", "text"], None, f"text/latest_net_G.pth {unsafe}"),
            (["--name", "program"], None, f"program/latest_net_G.pth {unsafe}"),
            (["--name", "wide"], None, r"wide cannot be loaded \(Error.* size mismatch"),
            (["--name", "wide", "--port", port], None, f"cannot listen at 127.0.0.1:{port}"),
            (["--gpu_ids", "0"], None, "--gpu_ids 0: PyTorch finds no GPU; leave it out"),
            (["--dataset_mode", "ade20k"], None, "does not fit: its label_nc is 150, not 182"),
            (["--no_instance"], None, "its no_instance is True, not False"),
            (["--crop_size=512"], None, "its crop_size is 512, not 256"),
            (["--port", port], None, rf"cannot listen at 127.0.0.1:{port} .*another --host or --p"),
            (["--host", "no such"], None, "cannot listen at no such:5000 "),
            (["--host", "127.0.0.1.."], None, "cannot listen at 127.0.0.1..:5000 "),
            (["--help"], None, 0),
            (["--port", "70000"], None, 2),
            (["--where", "here"], None, 2),
            ([], "2.6", r"PyTorch 2.5.1\+cpu may run .*install 2.6 or later"),
            ([], "flask", "flask.*: pip install flask waitress"),
            ([], "waitress", "waitress.*: pip install flask waitress"),
            ([], "torch", "torch.*: finish the installation of SPADE"),
            ([], "models/sync_batchnorm.py", "sync_batchnorm'?: finish the installation of SPADE"),
            ([], "models/pix2pix_model.py", f"{folder} is no clone of NVlabs/SPADE: drop api.py"),
        ]
        done = subprocess.run(
            [sys.executable, "-c", STARTS, json.dumps([start[:2] for start in starts])],
            cwd=folder, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.stdout.count(LOADED) == 1  # of `wide` alone: the rest is seen before
    assert not (folder / "executed").exists()
    assert all(flag in done.stdout for flag in ("--host", "--port", "--which_epoch"))  # the help
    said = [json.loads(line.removeprefix("said ")) for line in done.stdout.splitlines()
            if line.startswith("said ")]  # fmt: skip
    assert len(said) == len(starts), done.stderr
    for found, (_, _, expected) in zip(said, starts):
        if expected in (0, 2):  # argparse has said it
            assert found == expected
        else:
            assert found.startswith("error: ") and "\n" not in found and "weights_only" not in found
            assert re.search(expected, found), found


def test_serve_says_what_keeps_it_from_starting(exported, tmp_path, capsys):
    def refused(*argv):
        code = run(serve.main, [str(each) for each in argv])
        return code, capsys.readouterr().err

    truncated, other = tmp_path / "truncated.npz", tmp_path / "other.npz"
    truncated.write_bytes(exported.read_bytes()[:-1000])
    np.savez(other, metadata=np.array(json.dumps({"schema": 1})), weight=np.zeros(3))
    for path in (truncated, other):
        code, error = refused("--weights", path)
        assert code == 1 and f"{path} is not a generator's weights file" in error
    assert refused("--weights", tmp_path / "none.npz")[0] == 1
    assert refused()[0] == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = refused("--weights", exported, "--port", port)
    assert code == 1 and f"cannot listen at 127.0.0.1:{port}" in error
    for port in (70_000, "x"):
        code, error = refused("--weights", exported, "--port", port)
        assert code == 2 and f"'{port}' is no port" in error
