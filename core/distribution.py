"""A training step on one device, on all devices of this machine, or on those of several machines.

    distribute=none         one device
    distribute=mirrored     all devices of this machine that TensorFlow sees, a replica on each
    distribute=multiworker  those of every machine that TF_CONFIG names (core.cluster)

batch_size is of the global batch: every replica takes an equal part of its scenes (core.dataset),
computes its part of every loss (core.replicas), and moves its copy of the variables by the sum of
all gradients. Copies stay equal, so the chief's are saved and evaluated as those of one device are.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from core import replicas
from core.cluster import Cluster
from core.commands import handle_signals
from core.dataset import Dataset, Parts
from core.errors import UserError

log = logging.getLogger(__name__)

CONNECT = 120  # seconds that machines which have all answered get to connect


def start(distribute: str, cluster: Cluster | None, facts: Callable[[], dict]) -> Single:
    """How the steps of a training are spread. To be called before TensorFlow computes anything.

    cluster, facts: of `multiworker`, see core.cluster; UserError when the machines do not fit."""
    if cluster is not None:
        cluster.meet(facts())
        return MultiWorker(cluster)
    return Mirrored() if distribute == "mirrored" else Single()


class Single:
    """One device: nothing is spread."""

    chief = True  # whether this process writes the run's folder

    def scope(self) -> AbstractContextManager:
        """The model and its optimizers are made within it."""
        return contextlib.nullcontext()

    def batches(self, dataset: Dataset, start: int) -> tf.data.Dataset:
        """What a step takes, from the batch of step `start` on."""
        return dataset.train_batches(start)

    def spread(self, train_step: Callable) -> Callable:
        """`core.model.Model.train_step` for such batches, with the losses of the global batch."""
        return train_step

    def agreed(self, signal_number: int | None) -> int | None:
        """The signal that any of the processes has received: all stop after the same step."""
        return signal_number

    def check_alike(self, model: Any) -> None:
        """UserError unless all processes start from the same variables."""

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it, another process that is lost becomes a UserError."""
        yield


class Mirrored(Single):
    """A replica on each device of this machine."""

    _first = 0  # replica of this process, counted through all processes

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
        here = range(self._first, self._first + len(self._devices))
        return dataset.train_batches(start, Parts(here, self._strategy.num_replicas_in_sync))

    def spread(self, train_step: Callable) -> Callable:
        @tf.autograph.experimental.do_not_convert
        def one(parts: Any, *scalars: tf.Tensor) -> dict[str, tf.Tensor]:
            return replicas.global_sum(train_step(parts[replicas.index() - self._first], *scalars))

        return lambda *args: self._run(one, args)

    def _run(self, function: Callable, args: Any) -> Any:
        """What the first replica here gives: all give the same."""
        return tf.nest.map_structure(
            lambda value: self._strategy.experimental_local_results(value)[0],
            self._strategy.run(function, args),
        )


class MultiWorker(Mirrored):
    """A replica on each device of every machine: every process builds the same model and reads its
    own parts of the batches; the first, the chief, alone writes."""

    def __init__(self, cluster: Cluster) -> None:
        """The cluster's machines have met."""
        self._cluster = cluster
        with _ended_by_signals():
            super().__init__(tf.distribute.MultiWorkerMirroredStrategy)
        self.chief = cluster.chief
        self._first = cluster.index * len(self._devices)
        self._gather = tf.function(
            lambda row: self._run(lambda: replicas.all_gather(tf.identity(row)[None]), ()),
            input_signature=[tf.TensorSpec((None,), tf.float32)],
            autograph=False,
        )

    def agreed(self, signal_number: int | None) -> int | None:
        numbers = self._gather(tf.constant([signal_number or 0], tf.float32))
        return int(tf.reduce_max(numbers)) or None

    def check_alike(self, model: Any) -> None:
        digest = tf.constant(list(bytes.fromhex(model.weights_digest())), tf.float32)
        rows = self._gather(digest).numpy()
        different = np.flatnonzero((rows != rows[0]).any(axis=1))
        if different.size:
            raise UserError(
                f"{self._cluster.name(different[0] // len(self._devices))} starts from other "
                "weights than the chief: all machines must read the same checkpoints and files of "
                "weights"
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
            lost = self._cluster.silent()
            if not lost and "ollective" not in error.message:
                raise  # a fault of the program
            what = f"no answer from {' and '.join(lost)}" if lost else "a connection was lost"
            raise UserError(
                f"the training has stopped on all machines: {what}; what was printed there may say "
                "why. Start them all again with --resume latest"
            ) from None


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it, signals and the end of CONNECT seconds end the process at once: TensorFlow waits
    for the other machines without a chance for Python to look after them, and takes SIGTERM for
    itself."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    with handle_signals(dict.fromkeys(numbers, signal.SIG_DFL)):
        signal.alarm(CONNECT)
        try:
            yield
        finally:
            signal.alarm(0)
