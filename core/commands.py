"""Parse the flags of a command, run it, and end it with one sentence for what a user can mend."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from core.errors import UsageError, UserError, file_error


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UsageErrors."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """Return the flags. UsageError also for words that could not be recorded: what is no UTF-8,
        and Slack tokens, which are never repeated."""
        for word in sys.argv[1:] if args is None else args:
            _check_word(word)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}. See {self.prog} --help")


# Of bots, users, apps and configurations: xoxb-, xoxp-, xoxe.xoxp-, xapp-1-.
_TOKEN = re.compile(r"xox[a-z]{1,2}[-.]|xapp-[0-9]", re.IGNORECASE)


def _check_word(word: str) -> None:
    if _TOKEN.search(word):
        raise UsageError(
            "the command line holds a Slack token, which would be recorded with it: write the "
            "token into a file, first line, and name the file in slack_config"
        )
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(word).decode("utf-8", "backslashreplace")
        raise UsageError(
            f"the argument {shown} is not UTF-8: rename the file or folder, or set a UTF-8 locale"
        ) from None


def run(
    command: Callable[[Sequence[str]], None],
    argv: Sequence[str],
    interrupted: str = "stopped by SIGINT",
    clean_up: bool = False,
) -> int:
    """Run a command; what a user can mend becomes one sentence on stderr.

    Returns the exit code: 0, 1 (failure), 2 (usage), 128 + the signal's number.

    interrupted: said after Ctrl-C. clean_up: the command has something to clean up, so SIGINT and
    SIGTERM raise KeyboardInterrupt and SystemExit in it; otherwise they end the process at once.
    """
    keep_freed_memory()
    with contextlib.suppress(AttributeError):  # closed, or a notebook's
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are no text
    try:
        with handle_signals(_raise_on_signals() if clean_up else _end_on_interrupt(interrupted)):
            command(argv)
        if sys.stdout is not None:  # None: closed by whoever started us
            sys.stdout.flush()  # here, not at exit, so that a reader that has gone is seen here
        return 0
    except UserError as error:
        stopped = error.exit_code > 128  # by a signal, as asked: that is no error
        print(error if stopped else f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough: that is no error either. The interpreter
        # would try to write the rest at exit, and complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{file_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 128 + signal.SIGINT


# Of mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Make glibc keep what is freed, for the next tensor. Other allocators are left as they are.

    As it comes, glibc hands large blocks back to the kernel, which clears and maps every page
    again for the next one: up to a third of a training step's CPU time."""
    with contextlib.suppress(AttributeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_ARENA_MAX, 1)  # the other arenas are trimmed in any case


Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextlib.contextmanager
def handle_signals(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handle signals (number -> handler, as of signal.signal) within the block."""
    if threading.current_thread() is not threading.main_thread():  # Python delivers it no signals
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_on_interrupt(message: str) -> dict[int, Handler]:
    # Not by KeyboardInterrupt: raised inside TensorFlow or Keras it comes out as another exception,
    # or is swallowed and the command goes on.
    def end(number: int, frame: FrameType | None) -> None:
        # Not by print: it fails when the signal came within another write to stderr.
        os.write(2, f"{message}\n".encode())
        os._exit(128 + number)

    return {signal.SIGINT: end}


def _raise_on_signals() -> dict[int, Handler]:
    return {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: lambda number, frame: sys.exit(128 + number),
    }


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, '3 h 12 min', or '-' when it has no end."""
    if not math.isfinite(seconds) or seconds >= 1e10:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes >= 10:
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
