"""Distribution of a training over one device, all devices of a machine, or several machines.

    distribute=none         one device
    distribute=mirrored     all devices of this machine that TensorFlow sees, a replica on each
    distribute=multiworker  those of every machine in TF_CONFIG, TensorFlow's description of them:
        {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
         "task": {"type": "worker", "index": 0}}

batch_size is of the global batch: every replica takes an equal part of its scenes (core.dataset),
computes its part of every loss (core.replicas), and moves its copy of the variables by the sum of
all gradients. Copies stay equal, so the chief's are saved and evaluated as those of one device are.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import tensorflow as tf

from core import replicas
from core.commands import handle_signals
from core.dataset import Dataset, Parts
from core.errors import UsageError, UserError

log = logging.getLogger(__name__)

EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
Address = Annotated[str, msgspec.Meta(pattern=r"^.+:[0-9]{1,5}$")]  # host:port
WAIT = 600.0  # seconds that the first machine to start waits for the last
CONNECT = 120  # seconds that machines which have all been seen get to connect
_ANSWER = 5.0  # seconds that a machine gets to answer a try to connect


class _Workers(msgspec.Struct, forbid_unknown_fields=True):
    worker: Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]


class _Task(msgspec.Struct):
    type: Literal["worker"]
    index: Annotated[int, msgspec.Meta(ge=0)]


class _Config(msgspec.Struct):
    """TF_CONFIG."""

    cluster: _Workers
    task: _Task


class Cluster(NamedTuple):
    """The machines of a training and which of them this process is.

    workers: host:port of each, the first is the chief. index: of this process."""

    workers: tuple[str, ...]
    index: int

    @classmethod
    def from_environment(cls, distribute: str) -> Cluster | None:
        """Return the cluster in TF_CONFIG, None unless `distribute` is multiworker. UsageError for
        one that does not fit; a notice when it is not used."""
        text = os.environ.get("TF_CONFIG", "")
        if distribute != "multiworker":
            if text:
                log.warning("TF_CONFIG is set, but with distribute=%s nothing reads it", distribute)
            return None
        if not text:
            raise UsageError(
                "distribute=multiworker needs TF_CONFIG in the environment of every machine, like "
                f"{EXAMPLE}"
            )
        try:
            config = msgspec.json.decode(text, type=_Config)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _misfit(str(error)) from None
        workers, index = config.cluster.worker, config.task.index
        if len(set(workers)) != len(workers):
            raise _misfit("a worker is named twice")
        if index >= len(workers):
            raise _misfit(f"the task index {index} is not one of 0 to {len(workers) - 1}")
        return cls(workers, index)

    @property
    def chief(self) -> bool:
        """True for the process that writes the run's folder."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Return a worker's name for a message."""
        return f"worker {index} ({self.workers[index]})"

    def silent(self) -> list[int]:
        """Return the indices of the other workers at whose address nothing listens."""
        others = (i for i in range(len(self.workers)) if i != self.index)
        return [i for i in others if not _listens(self.workers[i])]

    def wait(self) -> None:
        """Wait until every other worker has been seen. UserError after WAIT seconds, and for a port
        in use.

        TensorFlow would wait too, but without an end and deaf to signals. Until all are there, each
        shows itself by a socket at its port; TensorFlow's server takes over from it."""
        end = time.monotonic() + WAIT
        with self._listening():
            missing = self.silent()
            if missing:
                names = ", ".join(map(self.name, missing))
                log.info("%s waits for %s", self.name(self.index), names)
            while missing and time.monotonic() < end:
                time.sleep(0.2)
                missing = [i for i in missing if not _listens(self.workers[i])]
        if missing:
            raise UserError(
                f"{self.name(missing[0])} did not come within {WAIT:.0f} seconds: start train.py "
                "on every machine"
            )

    def _listening(self) -> socket.socket:
        port = int(self.workers[self.index].rpartition(":")[2])
        try:
            return socket.create_server(("", port), backlog=4 * len(self.workers))
        except OSError as error:
            raise UserError(
                f"{self.name(self.index)} cannot listen at port {port} of this machine "
                f"({os.strerror(error.errno or 0)}): end what does, or choose another port in the "
                "TF_CONFIG of all machines"
            ) from None


def _misfit(what: str) -> UsageError:
    return UsageError(
        f"TF_CONFIG does not fit ({what}): it names workers, of which the first is the chief, and "
        f"this machine's index, like {EXAMPLE}"
    )


def _listens(worker: str) -> bool:
    host, _, port = worker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER).close()
    except OSError:
        return False
    return True


def start(distribute: str, cluster: Cluster | None, facts: Callable[[], dict[str, str]]) -> Single:
    """Return how the steps of a training are distributed. To be called before TensorFlow computes
    anything.

    cluster: of `multiworker`, else None. facts: texts that must be equal on all its machines, else
    UserError; the program comes first, because another version may have other facts."""
    if cluster is None:
        return Mirrored() if distribute == "mirrored" else Single()
    cluster.wait()
    workers = MultiWorker(cluster)
    with workers.explained():
        for what, text in facts().items():
            workers.check_equal(what, hashlib.sha256(text.encode()).hexdigest())
    return workers


class Single:
    """A training on one device."""

    chief = True  # True for the process that writes the run's folder

    def scope(self) -> AbstractContextManager:
        """Return the context in which the model and its optimizers are made."""
        return contextlib.nullcontext()

    def batches(self, dataset: Dataset, start: int) -> tf.data.Dataset:
        """Return the batches that steps take, from that of step `start` on."""
        return dataset.train_batches(start)

    def distribute_step(self, train_step: Callable) -> Callable:
        """Return `core.model.Model.train_step` for such batches, with the losses of the global
        batch."""
        return train_step

    def agree_on_signal(self, signal_number: int | None) -> int | None:
        """Return the signal that any of the processes has received: all stop after one step."""
        return signal_number

    def check_same_weights(self, model: Any) -> None:
        """Raise UserError unless all processes start from the same variables."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it, the loss of another process becomes a UserError."""
        yield


class Mirrored(Single):
    """A training with a replica on each device of this machine."""

    _first = 0  # number of this process' first replica among those of all processes

    def __init__(
        self, make: Callable[[], tf.distribute.Strategy] = tf.distribute.MirroredStrategy
    ) -> None:
        tf.get_logger().setLevel(logging.WARNING)  # else a line for every sum that is traced
        self._strategy = make()
        self._devices = self._strategy.extended.worker_devices
        count = self._strategy.num_replicas_in_sync
        log.info("every batch is split over %d devices; here: %s", count, ", ".join(self._devices))

    def scope(self) -> AbstractContextManager:
        return self._strategy.scope()

    def batches(self, dataset: Dataset, start: int) -> tf.data.Dataset:
        local = range(self._first, self._first + len(self._devices))
        return dataset.train_batches(start, Parts(local, self._strategy.num_replicas_in_sync))

    def distribute_step(self, train_step: Callable) -> Callable:
        @tf.autograph.experimental.do_not_convert
        def replica_step(parts: Any, *scalars: tf.Tensor) -> dict[str, tf.Tensor]:
            part = parts[replicas.index() - self._first]
            return replicas.global_sum(train_step(part, *scalars))

        return lambda *args: self._run(replica_step, args)

    def _run(self, function: Callable, args: Any) -> Any:
        """Run it on every replica; return the value of the first here, which is that of all."""
        return tf.nest.map_structure(
            lambda value: self._strategy.experimental_local_results(value)[0],
            self._strategy.run(function, args),
        )


class MultiWorker(Mirrored):
    """A training with a replica on each device of every machine: every process builds the same
    model and reads its own parts of the batches; the first, the chief, alone writes."""

    def __init__(self, cluster: Cluster) -> None:
        """cluster: of machines that are all there."""
        self._cluster = cluster
        with _signals_end_the_process():
            super().__init__(tf.distribute.MultiWorkerMirroredStrategy)
        self.chief = cluster.chief
        self._first = cluster.index * len(self._devices)
        self._gather = tf.function(
            lambda row: self._run(lambda: replicas.all_gather(tf.identity(row)[None]), ()),
            input_signature=[tf.TensorSpec((None,), tf.float32)],
            autograph=False,
        )

    def agree_on_signal(self, signal_number: int | None) -> int | None:
        numbers = self._gather(tf.constant([signal_number or 0], tf.float32))
        return int(tf.reduce_max(numbers)) or None

    def check_same_weights(self, model: Any) -> None:
        self.check_equal("initial weights", model.weights_digest())

    def check_equal(self, what: str, digest: str) -> None:
        """Raise UserError on all machines unless all have the same SHA-256 (hex) of `what`."""
        rows = self._gather(tf.constant(list(bytes.fromhex(digest)), tf.float32)).numpy()
        different = np.flatnonzero((rows != rows[0]).any(axis=1))
        if different.size:
            worker = self._cluster.name(different[0] // len(self._devices))
            raise UserError(
                f"{worker} has other {what} than the chief, {self._cluster.name(0)}: all machines "
                "must be given the same"
            )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (
            tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
            tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
            tf.errors.InternalError,
        ) as error:  # fmt: skip
            lost = [self._cluster.name(i) for i in self._cluster.silent()]
            if not lost and "ollective" not in error.message:
                raise  # a fault of the program
            what = f"no answer from {' and '.join(lost)}" if lost else "a connection was lost"
            raise UserError(
                f"the training has stopped on all machines: {what}; what was printed there may say "
                "why. Start them all again with --resume latest"
            ) from None


@contextlib.contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Within it, signals and the end of CONNECT seconds end the process at once: while TensorFlow
    connects the machines, Python cannot run a handler."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    with handle_signals(dict.fromkeys(numbers, signal.SIG_DFL)):
        signal.alarm(CONNECT)
        try:
            yield
        finally:
            signal.alarm(0)
