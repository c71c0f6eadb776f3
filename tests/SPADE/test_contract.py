"""One contract, and both that keep it: SPADE/api.py in a clone, and SPADE.serve."""

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

from core.commands import run
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
            yield Server(request.param, port, expected)
        return
    pytest.importorskip("torch")
    folder = servers.make_clone(tmp_path_factory.mktemp("clone"))
    # 255 is the channel after the 182 classes; a pixel of 0..255 is -1..1.
    channels = [
        np.where(LABEL == 255, 182, LABEL) / 182, INSTANCE / 255, PHOTO.mean(2) / 127.5 - 1,
    ]  # fmt: skip
    with servers.started("api.py", cwd=folder) as port:
        yield Server(request.param, port, np.stack(channels))


def test_a_layout_becomes_a_picture(server):
    status, picture = ask(server.port, body())
    assert status == 200
    np.testing.assert_allclose(picture, server.expected[None], atol=2e-5)


def test_the_photograph_may_be_left_out(server):
    for nothing in (..., None):
        status, picture = ask(server.port, body(real_image=nothing))
        assert status == 200
        np.testing.assert_allclose(picture[0][0], server.expected[0], atol=2e-5)


def test_it_says_that_it_is_there(server):
    assert ask(server.port, method="GET", path="/health") == (200, {"status": "ok"})


ROWS = LABEL.tolist()
BAD = {
    "nothing": ("", "not JSON"),
    "HTML": ("<html>", "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "a list": (json.dumps(ROWS), "not a JSON object"),
    "no layout": (body(layout=...), "layout is missing"),
    "no instances": (body(instances=...), "instances is missing"),
    "a row too few": (body(layout=ROWS[1:]), "layout must be a nested list .*(256, 256)"),
    "ragged": (body(layout=[*ROWS[1:], [1]]), "layout must be"),
    "deep layout": (json.dumps(content(layout=0)).replace('"layout": 0', '"layout": ' + "[" * 50
                                                          + "]" * 50), "layout must be"),
    "fractions": (body(layout=(LABEL / 2).tolist()), "layout must be"),
    "NaN": (body(layout=np.full((256, 256), np.nan).tolist()), "layout must be"),
    "text": (body(instances=LABEL.astype(str).tolist()), "instances must be"),
    "huge": (body(layout=[*ROWS[1:], [10**30] * 256]), "layout holds 1000"),
    "the label 182": (body(layout=[*ROWS[1:], [182] * 256]), r"layout holds 182: .*0\.\.181"),
    "a label below 0": (body(layout=[*ROWS[1:], [-1] * 256]), "layout holds -1"),
    "an instance below 0": (body(instances=[*ROWS[1:], [-1] * 256]), "instances holds -1"),
    "a flat photograph": (body(real_image=ROWS), "real_image must be .*3"),
    "a bright photograph": (body(real_image=(PHOTO + 1.0).astype(int).tolist()),
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
        api.create_app(lambda *layout: pytest.fail("asked"))
        .test_client()
        .post("/", data=BAD[name][0])
    )
    check_refusal(name, answer.status_code, answer.json)


def test_servers_answer_bad_input(server):
    for name in ("HTML", "the label 182"):
        check_refusal(name, *ask(server.port, BAD[name][0]))


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
    assert status == 500 and "generator" in answer["error"] and "SECRET" not in str(answer)
    assert ask(server.port, body())[0] == 200


# ---- what keeps a server from starting -----------------------------------------------------------


STARTS = """
import json, os, runpy, sys
for arguments, gone in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("models", "options")]:
        del sys.modules[name]
    loaded = dict(sys.modules)
    if gone in loaded:
        sys.modules[gone] = None  # as if it were not installed
    elif gone:
        os.remove(gone)
    sys.argv = ["api.py", *arguments]
    try:
        runpy.run_path("api.py", run_name="__main__")
    except SystemExit as ended:
        print(json.dumps(ended.code))
    sys.modules.update(loaded)
"""


def test_what_keeps_api_from_starting(tmp_path):
    """In one process, for the time that PyTorch takes to load."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("says what happens without a GPU")
    folder = servers.make_clone(tmp_path / "clone")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # arguments, a file or module that is taken away before, what is said
        starts = [
            (["--name=mine"], None, r"the network mine cannot be loaded \(.*No such file"),
            (["--how_many", "3"], None, r"cannot be loaded \(Error.* size mismatch"),
            (["--gpu_ids", "0"], None, r"does not take these options \(.*[Cc][Uu][Dd][Aa]"),
            (["--port", port], None, rf"cannot listen at 127.0.0.1:{port} .*another --port"),
            (["--port", "70000"], None, 2),
            (["--where", "here"], None, 2),
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
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(starts), done.stderr
    for found, (_, _, expected) in zip(said, starts):
        if expected == 2:  # argparse has said it
            assert found == 2
        else:
            assert found.startswith("error: ") and "\n" not in found
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
