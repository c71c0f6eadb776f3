"""core.cluster: TF_CONFIG, and machines that meet before they train."""

import json
import logging
import socket
import threading
import time

import pytest

from core import cluster
from core.cluster import Cluster
from core.errors import UsageError, UserError

TWO = {"worker": ["a:1", "b:2"]}
FIRST = {"type": "worker", "index": 0}
FACTS = {"program": "p", "hparams": "h", "data": "d", "checkpoint": "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "distribute=multiworker needs TF_CONFIG in the environment of every machine"),
        ("", "needs TF_CONFIG"),
        ("{", "TF_CONFIG is not valid JSON"),
        ("[" * 100_000, "TF_CONFIG is not valid JSON"),
        ("[]", "has not the objects 'cluster' and 'task'"),
        ({"cluster": TWO}, "has not the objects"),
        ({"cluster": {**TWO, "ps": ["c:3"]}, "task": FIRST}, "workers and nothing else"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "workers and nothing else"),
        ({"cluster": {"worker": []}, "task": FIRST}, "has no list of workers"),
        ({"cluster": {"worker": "a:1"}, "task": FIRST}, "has no list of workers"),
        ({"cluster": {"worker": ["a:1", "b"]}, "task": FIRST}, "worker 'b', which is not host"),
        ({"cluster": {"worker": ["a:1", "b:70000"]}, "task": FIRST}, "not host:port"),
        ({"cluster": {"worker": [7]}, "task": FIRST}, "worker 7, which is not host:port"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": FIRST}, "names a worker twice"),
        ({"cluster": TWO, "task": {"type": "worker"}}, "task index None: .* it is 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "task index 2: .* 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": "0"}}, "task index '0'"),
        ({"cluster": TWO, "task": {"type": "worker", "index": True}}, "task index True"),
    ],
    ids=range(18),
)
def test_a_config_that_does_not_fit(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        Cluster.read(json.dumps(text) if isinstance(text, dict) else text)
    assert '"task": {"type": "worker", "index": 0}' in str(caught.value)  # what it should be like
    assert len(str(caught.value)) < 400


def test_a_config_that_fits(monkeypatch, caplog):
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": task, "more": 1}))
    read = Cluster.of("multiworker")
    assert (read, read.chief) == (Cluster(("a:1", "b:2"), 1), False)
    with caplog.at_level(logging.WARNING):
        assert Cluster.of("none") is None
    assert "TF_CONFIG is set, but with distribute=none nothing reads it" in caplog.text


@pytest.fixture
def workers():
    """Three addresses with free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = tuple(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for each in sockets:
        each.close()
    return addresses


def meet(workers, *tasks):
    """What each (index, facts) gets to hear when all meet: '' when nothing."""
    heard = [None] * len(tasks)

    def one(place, index, theirs):
        try:
            Cluster(workers, index).meet(theirs)
            heard[place] = ""
        except UserError as error:
            heard[place] = str(error)

    threads = [
        threading.Thread(target=one, args=(i, *task), daemon=True) for i, task in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return heard


def test_all_go_on_when_all_are_there(workers):
    assert meet(workers, (2, FACTS), (0, FACTS), (1, FACTS)) == ["", "", ""]
    # and the ports are free again, for TensorFlow
    assert meet(workers, (0, FACTS), (1, FACTS), (2, FACTS)) == ["", "", ""]
    assert Cluster(workers[:1], 0).meet(FACTS) is None


def test_all_are_told_what_does_not_fit(workers):
    other = {**FACTS, "program": "q", "data": "e"}
    heard = meet(workers[:2], (0, FACTS), (1, other))
    expected = (
        f"worker 1 ({workers[1]}) has other program, other data than the chief, worker 0 "
        f"({workers[0]}): all machines must be given the same"
    )
    assert heard == [expected] * 2
    (one, two) = meet(workers[:2], (0, FACTS), (1, {"program": "p"}))
    assert one == two
    assert "runs another version of this program" in one


def test_a_machine_that_does_not_come(workers, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 0.3)
    began = time.monotonic()
    assert "worker 2 (" in meet(workers, (0, FACTS), (1, FACTS))[0]
    (alone,) = meet(workers, (1, FACTS))
    assert f"the chief, worker 0 ({workers[0]}), did not answer within 0 seconds" in alone
    assert time.monotonic() - began < 5


def test_a_port_in_use(workers):
    port = int(workers[0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        (heard,) = meet(workers, (0, FACTS))
    assert f"cannot listen at port {port} of this machine (Address already in use)" in heard


def test_one_index_for_two_machines(workers, monkeypatch):
    """The second is on another machine, so its port is free there."""
    original = socket.create_server
    chief = original(("", int(workers[0].rpartition(":")[2])))
    monkeypatch.setattr(
        Cluster, "_listening", lambda self: chief if self.chief else original(("", 0))
    )
    heard = meet(workers, (0, FACTS), (1, FACTS), (1, FACTS))
    assert len(set(heard)) == 1
    assert "two processes say that they are worker 1" in heard[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 80_000,
        b"[" * 60_000 + b"\n",
        b'{"worker": 7, "facts": {}}\n',
        b'{"worker": true}\n',
    ],
    ids=("nothing", "http", "bytes", "brackets", "unknown", "bool"),
)
def test_strangers_at_the_door_do_no_harm(workers, garbage, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.2)

    def stranger():
        for _ in range(50):
            try:
                host, _, port = workers[0].rpartition(":")
                with socket.create_connection((host, int(port)), 1) as connection:
                    connection.sendall(garbage)
                    return
            except OSError:
                time.sleep(0.02)

    visit = threading.Thread(target=stranger)
    visit.start()
    assert meet(workers[:2], (0, FACTS), (1, FACTS)) == ["", ""]
    visit.join()


def test_who_is_silent(workers):
    port = int(workers[1].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert Cluster(workers, 0).silent() == [f"worker 2 ({workers[2]})"]
