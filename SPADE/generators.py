"""Generators of photographs from layouts: a server behind an address, or weights in this process.

A layout is a label map (COCO-Stuff id - 1, 255 = unknown) and an instance map, uint8 (256, 256);
a picture is float32 (256, 256, 3) in [-1, 1].
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, parse_url

from core.errors import UsageError, UserError

SIDE = 256
NONE = "none"
DEFAULT = "http://127.0.0.1:5000"
TIMEOUT = 120.0  # seconds for one attempt: a slow processor takes some 10
RETRIES = 4
BACKOFF = 1.0  # seconds: waits are 0, 2, 4, 8 of these
RETRIED_STATUSES = (408, 425, 429, *range(500, 600))  # that say: later
MAX_ANSWER = 16 * 2**20  # bytes; with all digits of a float64 a picture has 5 MB
START = (
    "start it with `python api.py` in a SPADE clone (SPADE/api.py), or with "
    "`python -m SPADE.serve --weights FILE`; or take generator=none for layouts alone"
)

log = logging.getLogger(__name__)


class Generator(Protocol):
    """Makes pictures of layouts. identity: tells it from other generators."""

    identity: str

    def check(self) -> None:
        """Raise UserError when it cannot be used, as far as that is seen without TensorFlow."""

    def open(self) -> None:
        """Prepare for the first picture. UserError when it cannot be used."""

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the picture of a layout. photo: uint8 (256, 256, 3), for generators with an
        encoder. UserError when there is none to be had."""


def find(text: str) -> Generator | None:
    """Return the generator that an hparam names: an address, a weights file, or 'none' (None).
    UsageError for what looks like an address and is none."""
    if text == NONE:
        return None
    return RemoteGenerator(text) if "://" in text else LocalGenerator(Path(text))


class LoggedRetry(Retry):
    """Retries that say on the console why they wait."""

    def increment(self, method=None, url=None, response=None, error=None, *args, **kwargs) -> Retry:
        reason = f"status {response.status}" if response else _reason(error)
        following = super().increment(method, url, response, error, *args, **kwargs)
        log.warning("the generator: %s; again in %g s", reason, following.get_backoff_time())
        return following


class RemoteGenerator:
    """A server with the contract of SPADE/api.py, whoever wrote it."""

    def __init__(
        self,
        address: str,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        backoff: float = BACKOFF,
    ) -> None:
        """timeout: seconds for an attempt. backoff: seconds that waits between attempts are made
        of. UsageError for what is no address."""
        try:
            url = parse_url(address)
        except HTTPError:
            url = None
        if url is None or url.scheme not in ("http", "https") or not url.host:
            raise UsageError(f"{address!r} is no address as {DEFAULT}")
        self.identity = address
        self._timeout, self._attempts = timeout, retries + 1
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy would be asked for 127.0.0.1 too
        retry = LoggedRetry(
            retries, backoff_factor=backoff, status_forcelist=RETRIED_STATUSES,
            allowed_methods=None, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def check(self) -> None:
        try:
            self._request("GET", "/health")
        except RefusedError:
            log.debug("%s has no /health", self.identity)  # and is there

    def open(self) -> None:
        pass

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        content = {
            "layout": label.tolist(), "instances": instance.tolist(), "real_image": photo.tolist(),
        }  # fmt: skip
        try:
            return _picture(self._request("POST", "/", content))
        except ValueError as error:
            raise UserError(f"the generator at {self.identity} answered {error}: {START}") from None

    def _request(self, method: str, path: str, content: Any = None) -> bytes:
        """Return the body of the answer. UserError when there is none or the request is refused."""
        url = self.identity.rstrip("/") + path
        try:
            with self._session.request(
                method, url, json=content, timeout=self._timeout, stream=True, allow_redirects=False
            ) as answer:
                body = _read(answer, time.monotonic() + self._timeout)
        # Addresses and headers of strangers break urllib3 in more ways than requests translates.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise UserError(
                f"the generator at {self.identity} cannot be reached ({_reason(error)}), tried "
                f"{self._attempts} times: {START}"
            ) from None
        if answer.status_code in RETRIED_STATUSES:
            raise UserError(
                f"the generator at {self.identity} failed with status {answer.status_code}"
                f"{_message(body)}, {self._attempts} times: {START}"
            )
        if answer.status_code != 200:
            raise RefusedError(
                f"the generator at {self.identity} refused the request with status "
                f"{answer.status_code}{_message(body) or '; if it is another server, ' + START}"
            )
        return body


class RefusedError(UserError):
    """A server answered, but not with what was asked for."""


def _read(answer: requests.Response, deadline: float) -> bytes:
    """Read an answer's body. ValueError when it is too large or not complete in time."""
    body = b""
    # Not by `iter_content`, which waits for a whole chunk, however slowly it comes.
    while chunk := answer.raw.read1(1 << 16, decode_content=True):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ValueError(f"it answered more than {MAX_ANSWER >> 20} MB")
        if time.monotonic() > deadline:
            raise ValueError("its answer takes too long")
    return body


def _reason(error: BaseException | None) -> str:
    """Return the innermost reason of an error of requests, short and on one line."""
    reason = getattr(error, "reason", None) or next(iter(getattr(error, "args", ())), None)
    if isinstance(reason, BaseException):
        return _reason(reason)
    return _one_line(str(error)).rpartition(": ")[2]


def _message(body: bytes) -> str:
    """Return what our servers say of a failure; '' for other servers."""
    try:
        return f": {_one_line(json.loads(body)['error'])}"
    except Exception:  # of a stranger: anything
        return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _picture(body: bytes) -> np.ndarray:
    """Return the picture in an answer. ValueError with what it is instead."""
    try:
        values = np.array(json.loads(body), np.float32)
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = _one_line(body[:60].decode("utf-8", "replace"))
        raise ValueError(f"no picture but {text!r}") from None
    if values.shape != (1, 3, SIDE, SIDE):
        raise ValueError(f"numbers of shape {values.shape}, not {(1, 3, SIDE, SIDE)}")
    if not (np.abs(values) <= 1.001).all():  # false for NaN
        raise ValueError("numbers that are not in [-1, 1]")
    return values[0].transpose(1, 2, 0)


class LocalGenerator:
    """A weights file, as `python -m SPADE.convert` writes."""

    def __init__(self, path: Path):
        self._path, self._network = path, None

    @property
    def identity(self) -> str:
        """Path, size and time of the file as it is now."""
        stat = self._path.stat()
        return f"{self._path.resolve()}, {stat.st_size} bytes, {stat.st_mtime_ns}"

    def check(self) -> None:
        if not self._path.is_file():
            raise UserError(
                f"there is no weights file {self._path}; generator is an address as {DEFAULT}, a "
                "weights file, or none"
            )

    def open(self) -> None:
        from SPADE import weights  # here, because it imports TensorFlow

        self._network = self._network or weights.load_generator(self._path)

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        from models.layers import semantic, spade

        self.open()
        label, instance = label[None], instance[None]
        semantic.check_layout(label, instance, spade.SCALE)
        return self._network(semantic.semantic_maps(label, instance))[0].numpy()
