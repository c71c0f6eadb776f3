"""Progress of long work: a bar on a terminal, and lines now and then where the output is a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0


class _LogFile:
    """A file that logs what is written to it."""

    def write(self, text: str) -> None:
        if text.strip():
            log.info("%s", text.strip())

    def flush(self) -> None:
        pass


def progress(
    iterable: Iterable | None = None, what: str = "", every: float = LOG_SECONDS, **options: Any
) -> tqdm:
    """Return a tqdm bar that vanishes at its end. every: seconds between the lines in a file."""
    if sys.stderr is None or not sys.stderr.isatty():
        line = "{desc}: {n_fmt} of {total_fmt} ({unit}), {elapsed} so far, {remaining} left"
        options |= {"file": _LogFile(), "mininterval": every, "delay": every, "bar_format": line}
    return tqdm(iterable, what, leave=False, **options)
