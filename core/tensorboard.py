"""Write scalars and pictures of a run for TensorBoard.

Trouble with these files is a warning, never the end of a run: the same numbers stand in
metrics.jsonl and figures.jsonl, the pictures in plots/.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from core.errors import first_line

log = logging.getLogger(__name__)


class EventFiles:
    """Writes an event file into the folder of a run; every start of a training writes its own."""

    def __init__(self, folder: Path, start: int) -> None:
        """start: steps done before. TensorBoard is told to forget what an earlier start wrote
        after that step (it was killed after its last checkpoint), for it will come again."""
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None
        with self._errors_as_warnings():
            _mark_restart(folder, start)
            self._writer = tf.summary.create_file_writer(str(folder))

    def write(
        self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Path] | None = None
    ) -> None:
        """Write numbers and PNG files, each by its tag 'group/name'."""
        with self._errors_as_warnings():
            if self._writer is None:
                return
            with self._writer.as_default(step=step):
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value)
                for tag, path in (pictures or {}).items():
                    tf.summary.image(tag, tf.io.decode_png(path.read_bytes(), channels=3)[None])

    def close(self) -> None:
        """Write what is still in memory."""
        with self._errors_as_warnings():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _errors_as_warnings(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._writer = None
            log.warning(
                "%s: nothing more is written for TensorBoard (%s)", self._folder, first_line(error)
            )


def _mark_restart(folder: Path, start: int) -> None:
    """Write a file that makes TensorBoard drop the points after `start`.

    TensorBoard reads files in the order of their names: this one comes next after the newest.
    """
    newest = max(folder.glob("events.out.tfevents.*"), default=None)
    if newest is None:
        return
    mark = tf.compat.v1.Event(
        wall_time=time.time(),
        step=start + 1,
        session_log=tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START),
    )
    with tf.io.TFRecordWriter(f"{newest}.restart") as file:
        for _ in range(2):  # the first one in a folder counts as a start, only others as restarts
            file.write(mark.SerializeToString())
