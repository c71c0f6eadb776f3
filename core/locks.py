"""A lock file: one process at a time writes to a folder, and others see which one does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from core.errors import UserError

log = logging.getLogger(__name__)

_PATIENCE = 0.5  # seconds: a lock that is held for less was `holder` looking


@contextlib.contextmanager
def hold(path: Path, doing: str, remedy: str) -> Iterator[None]:
    """Hold a lock file for a block; UserError naming the other process when there is one.

    doing: what that process does ('the run a-1 is being written'); remedy: ends the message. The
    system drops the lock when the process ends, however it ends. The file is removed when the block
    fails and nothing else lies in its folder.
    """
    deadline = time.monotonic() + _PATIENCE
    while (file := _open_locked(path)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"{doing} by process {holder(path) or 'unknown'}; {remedy}")
        time.sleep(0.02)
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if list(path.parent.iterdir()) == [path]:
                    path.unlink()
            raise


def _open_locked(path: Path) -> TextIO | None:
    """Return the lock file, locked; None when another process holds it, or has failed and removed
    it in the meantime."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            # Some network file systems have no locks: going on beats not working.
            log.warning("no lock on %s (%s): start no second process there", path.parent, error)
            return file
    file.close()
    return None


def holder(path: Path) -> str | None:
    """Return the id of the process that holds a lock file now, None when there is none; 'unknown'
    when the file does not say."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the file is closed
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                number = file.read(20).strip()
                return number if number.isdecimal() else "unknown"
    return None
