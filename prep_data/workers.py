"""Worker processes, and their results in the order of the tasks.

Workers never import TensorFlow (seconds and hundreds of MB each), and a spawned worker imports the
main module anew: so no module that a command imports at its top may import TensorFlow.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from core.commands import handle_signals
from core.errors import UserError


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with_parent() -> None:
    """In a worker: a killed parent cannot end its workers, so they watch it themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do_nothing() -> None:
    pass


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool of spawned processes for `ordered_map`; None for workers = 0 (no processes).

    However the block is left, the workers have ended afterwards.
    """
    if workers == 0:
        yield None
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    # Ctrl-C reaches every process of the terminal: workers are born ignoring it, as a handler set
    # after their first imports would come too late.
    with handle_signals({signal.SIGINT: signal.SIG_IGN}):
        for _ in range(workers):
            pool.submit(_do_nothing)
    try:
        yield pool
    finally:
        # They end after the tasks under way, which are short. Not terminated: one that dies while
        # it hands over a result leaves half of it, and the pool waits for the rest for ever.
        pool.shutdown(wait=True, cancel_futures=True)


def ordered_map(
    pool: ProcessPoolExecutor | None,
    work: Callable[[Any], Any],
    tasks: Iterable[Any],
    in_flight: int,
) -> Iterator[Any]:
    """Yield work(task) in the order of `tasks`, reading at most `in_flight` tasks ahead.

    work: a module-level function or a functools.partial of one (it is pickled with each task).
    Raises UserError when a worker process dies.
    """
    if pool is None:
        yield from map(work, tasks)
        return
    pending = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) >= in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for lack of memory: run the command again with fewer "
            "--workers (finished shards are kept)"
        ) from error
