"""The machines of a training with distribute=multiworker: who they are, and that they fit.

TF_CONFIG, in the environment of each, is TensorFlow's description of them:

    {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
     "task": {"type": "worker", "index": 0}}

Before TensorFlow connects them they meet at the chief's port, where each says what it is about to
train: a line of JSON, answered by a line of JSON. Until then a missing machine is waited for in
Python, which a signal can end, and one with another program or other data is told so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.errors import UsageError, UserError

log = logging.getLogger(__name__)

VARIABLE = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
WAIT = 600.0  # seconds that the first machine to start waits for the last
_LINE = 65_536  # bytes a message may have
_PATIENCE = 5.0  # seconds for one message, or one try to connect


class Cluster(NamedTuple):
    """workers: host:port of each, the first is the chief. index: which this process is."""

    workers: tuple[str, ...]
    index: int

    @classmethod
    def of(cls, distribute: str) -> Cluster | None:
        """That of a training, None when it has one machine. UsageError when TF_CONFIG does not
        fit; a notice when it is not used."""
        text = os.environ.get(VARIABLE)
        if distribute == "multiworker":
            return cls.read(text)
        if text:
            log.warning("%s is set, but with distribute=%s nothing reads it", VARIABLE, distribute)
        return None

    @classmethod
    def read(cls, text: str | None) -> Cluster:
        """Of the value of TF_CONFIG; UsageError for one that does not fit."""
        if not text:
            raise UsageError(
                f"distribute=multiworker needs {VARIABLE} in the environment of every machine, "
                f"like {EXAMPLE}"
            )
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _unfit(f"is not valid JSON ({error})") from None
        parts = content if isinstance(content, dict) else {}
        cluster, task = parts.get("cluster"), parts.get("task")
        if not isinstance(cluster, dict) or not isinstance(task, dict):
            raise _unfit("has not the objects 'cluster' and 'task'")
        workers, index = cluster.get("worker"), task.get("index")
        if set(cluster) != {"worker"} or task.get("type") != "worker":
            raise _unfit("must name workers and nothing else: the first of them is the chief")
        if not isinstance(workers, list) or not workers:
            raise _unfit("has no list of workers")
        wrong = [worker for worker in workers if not _is_address(worker)]
        if wrong:
            raise _unfit(f"has the worker {wrong[0]!r}, which is not host:port")
        if len(set(workers)) != len(workers):
            raise _unfit("names a worker twice")
        if type(index) is not int or not 0 <= index < len(workers):
            raise _unfit(
                f"has the task index {index!r}: with {len(workers)} workers it is 0 to "
                f"{len(workers) - 1}"
            )
        return cls(tuple(workers), index)

    @property
    def chief(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Of a worker, for a message."""
        return f"worker {index} ({self.workers[index]})"

    def silent(self) -> list[str]:
        """The names of the others that nothing listens at."""
        return [
            self.name(i)
            for i, worker in enumerate(self.workers)
            if i != self.index and not _listens(worker)
        ]

    def meet(self, facts: Mapping[str, str]) -> None:
        """Wait until all workers are about to train, and the same: `facts`, by what they are of,
        must be equal. UserError when they are not, after WAIT seconds, and for a port in use."""
        others = len(self.workers) - 1
        with self._listening() as listener:
            if not others:
                return
            log.info("%s of %d: waiting for the others", self.name(self.index), others + 1)
            if self.chief:
                self._gather(listener, dict(facts))
            else:
                self._report(dict(facts))

    def _listening(self) -> socket.socket:
        """At this worker's port, where TensorFlow will listen."""
        port = int(self.workers[self.index].rpartition(":")[2])
        try:
            return socket.create_server(("", port), backlog=len(self.workers))
        except OSError as error:
            raise UserError(
                f"{self.name(self.index)} cannot listen at port {port} of this machine "
                f"({os.strerror(error.errno or 0)}): end what does, or choose another port in "
                f"the {VARIABLE} of all machines"
            ) from None

    def _gather(self, listener: socket.socket, facts: dict[str, str]) -> None:
        """The chief's side: hear all, then answer all."""
        end = time.monotonic() + WAIT
        there: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as stack:
            while len(there) < len(self.workers) - 1:
                listener.settimeout(max(0.0, end - time.monotonic()) or 0.001)
                try:
                    connection = stack.enter_context(listener.accept()[0])
                except TimeoutError:
                    missing = [i for i in range(1, len(self.workers)) if i not in there]
                    problem = f"{self.name(missing[0])} did not come within {WAIT:.0f} seconds"
                    _answer(there, problem)
                    raise UserError(f"{problem}: start train.py on every machine") from None
                message = _heard(connection, _PATIENCE)
                index, theirs = message.get("worker"), message.get("facts")
                if type(index) is not int or not 0 < index < len(self.workers):
                    continue  # not one of us
                if index in there and _gone(there[index]):
                    del there[index]  # it was started again meanwhile
                problem = self._misfit(index, theirs, facts)
                if index in there:
                    problem = (
                        f"two processes say that they are {self.name(index)}: every machine needs "
                        f"a task index of its own in {VARIABLE}"
                    )
                if problem:
                    _answer({**there, -1: connection}, problem)
                    raise UserError(problem)
                there[index] = connection
            _answer(there, "")

    def _misfit(self, index: int, theirs: Any, facts: dict[str, str]) -> str:
        """What does not fit about a worker; '' when all does."""
        if not isinstance(theirs, dict) or set(theirs) != set(facts):
            return f"{self.name(index)} runs another version of this program than the chief"
        wrong = [what for what in facts if theirs[what] != facts[what]]
        if not wrong:
            return ""
        return (
            f"{self.name(index)} has other {', other '.join(wrong)} than the chief, "
            f"{self.name(0)}: all machines must be given the same"
        )

    def _report(self, facts: dict[str, str]) -> None:
        """The side of every other worker."""
        end = time.monotonic() + WAIT
        host, _, port = self.workers[0].rpartition(":")
        while True:
            try:
                with socket.create_connection((host, int(port)), _PATIENCE) as connection:
                    _say(connection, {"worker": self.index, "facts": facts})
                    problem = _heard(connection, end - time.monotonic()).get("problem")
            except OSError:
                problem = None
            if problem == "":
                return
            if isinstance(problem, str):
                raise UserError(problem)
            if time.monotonic() > end:
                raise UserError(
                    f"the chief, {self.name(0)}, did not answer within {WAIT:.0f} seconds: start "
                    "train.py on every machine"
                )
            time.sleep(0.2)


def _unfit(what: str) -> UsageError:
    return UsageError(f"{VARIABLE} {what}; it should be like {EXAMPLE}")


def _is_address(worker: Any) -> bool:
    host, _, port = worker.rpartition(":") if isinstance(worker, str) else ("", "", "")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65_536


def _listens(worker: str) -> bool:
    host, _, port = worker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError:
        return False
    return True


def _say(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _answer(there: Mapping[int, socket.socket], problem: str) -> None:
    for connection in there.values():
        with contextlib.suppress(OSError):  # it has gone: TensorFlow will miss it
            _say(connection, {"problem": problem})


def _heard(connection: socket.socket, patience: float) -> dict[str, Any]:
    """The message that arrives within so many seconds, {} for anything else."""
    end = time.monotonic() + patience
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LINE:
            connection.settimeout(max(0.001, end - time.monotonic()))
            more = connection.recv(4096)
            if not more:
                break
            line += more
        message = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _gone(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
