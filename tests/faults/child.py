"""Run a script of this project in a process that a fault strikes.

    python -m tests.faults.child '{"kind": "bytes", ...}' train.py ARGUMENTS
    python -m tests.faults.child --serve        many, forked from one that has imported everything

A fault is armed while one call of one function runs, and then strikes this very process:

    bytes    when a file that is written is to grow past `at` bytes: the kernel stops the write
             there, in whatever library, and a handler sends `signal`
    lines    before line number `at` that is executed of this project's code
    time     `at` seconds after the function has returned
    full     no file grows past `at` bytes from then on, as on a full disk: writes fail with EFBIG
    count    nothing strikes; the lines executed are printed on stderr
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import pkgutil
import resource
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(
    f"{ROOT}/{room}/" for room in ("core", "models", "dataloaders", "experiments", "prep_data")
)


@dataclass(frozen=True)
class Fault:
    """function: 'module:name', armed in its call number `call` (from 1)."""

    kind: str
    function: str
    at: float = 0
    call: int = 1
    signal: int = signal.SIGKILL

    def __str__(self) -> str:
        name = "disk full" if self.kind == "full" else signal.Signals(self.signal).name
        at = f"after {1000 * self.at:.0f} ms" if self.kind == "time" else (
            f"before line {self.at}" if self.kind == "lines" else f"at byte {self.at}"
        )  # fmt: skip
        return f"{name} {at}, call {self.call}"


def arm(fault: Fault) -> None:
    """Replace the function by one that arms the fault."""
    owner_path, _, name = fault.function.replace(":", ".").rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    original, calls = getattr(owner, name), [0]

    @functools.wraps(original)
    def wrapped(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] != fault.call:
            return original(*args, **more)
        with _KINDS[fault.kind](fault):
            return original(*args, **more)

    setattr(owner, name, wrapped)


def _strike(fault: Fault) -> None:
    os.kill(os.getpid(), fault.signal)


@contextlib.contextmanager
def _bytes(fault: Fault) -> Iterator[None]:
    # A handler of C's, not of Python's: that would wait until TensorFlow's writer has returned.
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _strike(fault))
    before = libc.signal(signal.SIGXFSZ, ctypes.cast(handler, ctypes.c_void_p))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _full(fault):
        yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    libc.signal(signal.SIGXFSZ, before)


@contextlib.contextmanager
def _full(fault: Fault) -> Iterator[None]:
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (fault.at, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    yield


@contextlib.contextmanager
def _lines(fault: Fault) -> Iterator[None]:
    left = [fault.at]

    def lines(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                _strike(fault)
        return lines

    def calls(frame: Any, event: str, argument: Any) -> Any:
        return lines if frame.f_code.co_filename.startswith(_OURS) else None

    sys.settrace(calls)
    try:
        yield
    finally:
        sys.settrace(None)
        if fault.kind == "count":
            print(f"lines: {fault.at - left[0]}", file=sys.stderr)


@contextlib.contextmanager
def _time(fault: Fault) -> Iterator[None]:
    yield
    timer = threading.Timer(fault.at, _strike, [fault])
    timer.daemon = True
    timer.start()


_KINDS: dict[str, Callable] = {
    "bytes": _bytes, "lines": _lines, "time": _time, "full": _full, "count": _lines,
}  # fmt: skip


def work(fault: dict | None, slack: str | None, script: str, argv: Sequence[str]) -> None:
    """Become the script. slack: address of the Slack to talk to, in the place of the real one."""
    sys.argv = [script, *argv]
    if slack:
        from core import notifier

        notifier.Notifier = functools.partial(notifier.Notifier, base_url=slack)
    if fault:
        arm(Fault(**fault))
    if script.endswith(".py"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__", alter_sys=True)


def serve() -> None:
    """Answer requests from stdin, a JSON object a line.

    {"start": [fault, slack, script, argv], "stderr": file} starts a process; the answer is its id.
    {"wait": id} waits for it; the answer is its return code, as subprocess has it.
    """
    import core.cli
    import core.training  # noqa: F401
    from core.registry import EXPERIMENTS, LOADERS, METRICS, MODELS

    for registry in (EXPERIMENTS, LOADERS, METRICS, MODELS):
        registry.names()
    # In the background of a script Ctrl-C is ignored, also by what starts from here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = os.fork()
            if answer == 0:
                _become(request)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        print(answer, flush=True)


def _become(request: dict) -> None:
    code = 1
    try:
        stderr = os.open(request["stderr"], os.O_WRONLY | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor, target in ((nothing, 0), (nothing, 1), (stderr, 2)):
            os.dup2(descriptor, target)
        work(*request["start"])
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        work(json.loads(sys.argv[1]), None, sys.argv[2], sys.argv[3:])
