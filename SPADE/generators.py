"""Generators of photographs from layouts: one behind an address, or one in this process.

A layout is a label map (COCO-Stuff id - 1, 255 = unknown) and an instance map, uint8 (256, 256);
a picture is float32 (256, 256, 3) in [-1, 1].
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from core.errors import UsageError, UserError

SIDE = 256
NONE = "none"
DEFAULT = "http://127.0.0.1:5000"
TIMEOUT = 120.0  # seconds for one picture: a slow processor takes some 10
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
BUSY = (408, 425, 429)  # statuses that say: later
MOST_BYTES = 16 * 2**20  # of an answer; with all digits of a float64 it has 5 MB
START = (
    "start it with `python api.py` in a SPADE clone (SPADE/api.py), or with "
    "`python -m SPADE.serve --weights FILE`; or take generator=none for layouts alone"
)

log = logging.getLogger(__name__)


class Generator(Protocol):
    """What makes pictures. identity: tells it from other ones."""

    identity: str

    def check(self) -> None:
        """UserError when it cannot be used, as far as that is seen without TensorFlow."""

    def open(self) -> None:
        """Whatever is left to do before the first picture. UserError when it cannot be used."""

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """The picture of a layout. photo: uint8 (256, 256, 3), for generators with an encoder.
        UserError when there is none to be had."""


def find(text: str) -> Generator | None:
    """The generator that an hparam names: an address, a weights file, or 'none'. UsageError for an
    address that is none."""
    if text == NONE:
        return None
    return Served(text) if "://" in text else Local(Path(text))


class _TroubleError(Exception):
    """What went wrong in one attempt; the next may do better."""


class Served:
    """A server with the contract of SPADE/api.py, whoever wrote it."""

    def __init__(self, address: str, timeout: float = TIMEOUT, waits: Sequence[float] = WAITS):
        """timeout: seconds for an attempt; waits: seconds between attempts, one more than these."""
        try:
            parts = urlsplit(address)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise UsageError(f"{address!r} is no address as {DEFAULT}")
        self.identity = address
        self._timeout, self._waits = timeout, waits
        # No proxy: it would be asked for 127.0.0.1 too.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def check(self) -> None:
        self._patiently(self._healthy)

    def open(self) -> None:
        pass

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        body = json.dumps({
            "layout": label.tolist(), "instances": instance.tolist(), "real_image": photo.tolist(),
        }).encode()  # fmt: skip
        return self._patiently(lambda: _picture(self._ask("", body)))

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        for wait in (*self._waits, None):
            try:
                return _within(self._timeout, attempt)
            except _TroubleError as error:
                trouble = f"the generator at {self.identity} {error}"
            if wait is not None:
                log.warning("%s; again in %g s", trouble, wait)
                time.sleep(wait)
        raise UserError(f"{trouble}, {len(self._waits) + 1} times: {START}")

    def _healthy(self) -> None:
        """A server without /health says 404, and is there."""
        try:
            self._ask("/health")
        except UserError:
            log.debug("%s has no /health", self.identity)

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer. UserError for a request that the server refuses."""
        end = time.monotonic() + self._timeout
        request = urllib.request.Request(
            self.identity.rstrip("/") + (path or "/"), body, {"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return _read(answer, end)
        except urllib.error.HTTPError as error:
            with error:
                said = _sentence(error)
            if error.code < 500 and error.code not in BUSY:
                raise UserError(
                    f"the generator at {self.identity} refused the request with status {error.code}"
                    f"{said or '; if it is another server, ' + START}"
                ) from None
            raise _TroubleError(f"failed with status {error.code}{said}") from None
        # ValueError: of a redirection to what is no address.
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, socket.timeout):
                raise _TroubleError(f"did not answer within {self._timeout:g} s") from None
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise _TroubleError(f"cannot be reached ({_line(text)})") from None


def _within(seconds: float, attempt: Callable[[], Any]) -> Any:
    """What `attempt` gives. _TroubleError when that takes longer, whatever it waits for: with a
    timeout of sockets alone a server may send its heads a byte at a time for ever."""
    ended: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((attempt(), None))
        except Exception as error:
            ended.put((None, error))

    # A daemon: a server that hangs cannot keep the process.
    threading.Thread(target=run, name="generator", daemon=True).start()
    try:
        result, error = ended.get(timeout=seconds)
    except queue.Empty:
        raise _TroubleError(f"did not answer within {seconds:g} s") from None
    if error:
        raise error
    return result


def _read(answer: http.client.HTTPResponse, end: float) -> bytes:
    """All of it. socket.timeout at the time `end`: nobody waits for more."""
    chunks, size = [], 0
    while chunk := answer.read1(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if time.monotonic() > end:
            raise TimeoutError
        if size > MOST_BYTES:
            raise _TroubleError(f"answered more than {MOST_BYTES >> 20} MB")
    return b"".join(chunks)


def _sentence(answer: urllib.error.HTTPError) -> str:
    """What our servers say of a failure, if it is one of them."""
    try:
        return f": {_line(json.loads(answer.read(4096))['error'])}"
    except Exception:  # of a stranger: anything
        return ""


def _line(text: str) -> str:
    """What a stranger says, short and on one line."""
    return " ".join(text.split())[:200]


def _picture(body: bytes) -> np.ndarray:
    try:
        values = np.array(json.loads(body), np.float32)
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = _line(body[:60].decode("utf-8", "replace"))
        raise _TroubleError(f"answered no picture but {text!r}") from None
    if values.shape != (1, 3, SIDE, SIDE):
        raise _TroubleError(f"answered numbers of shape {values.shape}, not {(1, 3, SIDE, SIDE)}")
    if not (np.abs(values) <= 1.001).all():  # false for NaN
        raise _TroubleError("answered numbers that are not in [-1, 1]")
    return values[0].transpose(1, 2, 0)


class Local:
    """A weights file, as `python -m SPADE.convert` writes."""

    def __init__(self, path: Path):
        self._path, self._network = path, None

    @property
    def identity(self) -> str:
        """The file as it is now."""
        stat = self._path.stat()
        return f"{self._path.resolve()}, {stat.st_size} bytes, {stat.st_mtime_ns}"

    def check(self) -> None:
        if not self._path.is_file():
            raise UserError(
                f"there is no weights file {self._path}; generator is an address as {DEFAULT}, a "
                "weights file, or none"
            )

    def open(self) -> None:
        from SPADE import weights

        self._network = self._network or weights.load_generator(self._path)

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        from models.layers import semantic, spade

        self.open()
        label, instance = label[None], instance[None]
        semantic.check_layout(label, instance, spade.SCALE)
        return self._network(semantic.semantic_maps(label, instance))[0].numpy()
