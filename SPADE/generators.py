"""Generators of photographs from layouts: a server behind an address, or weights in this process.

A layout is a label map (COCO-Stuff id - 1, 255 = unknown) and an instance map, uint8 (256, 256);
a picture is float32 (256, 256, 3) in [-1, 1].
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
import requests
from PIL import Image
from requests.adapters import Retry
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.util import parse_url

from core.errors import UsageError, UserError
from core.provenance import sha256

SIDE = 256
NONE = "none"
DEFAULT = "http://127.0.0.1:5000"
TIMEOUT = 120.0  # seconds for one attempt: a slow processor takes some 10, times those that wait
RETRIES = 4
PAUSE = 1.0  # seconds before the first retry; later ones wait twice as long, up to 64
CONNECT_SECONDS = 10.0  # until a host that is silent counts as not there
START_SECONDS = 60.0  # while nobody listens: a server takes up to 40 s to load its weights
BUSY_SECONDS = 3600.0  # while a server that computes has no place for one more request
LATER_STATUSES = (408, 425, 429, 500, 502, 503, 504)
MAX_ANSWER = 16 * 2**20  # bytes; with all digits of a float64 a picture has 5 MB
LATE = "its answer takes too long"
START = (
    "start it with `python api.py` in a SPADE clone (SPADE/api.py), or with "
    "`python -m SPADE.serve --weights FILE`; or take generator=none for layouts alone"
)

log = logging.getLogger(__name__)


class Generator(Protocol):
    """Makes pictures of layouts. identity: tells it from other generators; known when it is open:
    the SHA-256 of its weights file, or the address of a server that does not tell."""

    identity: str

    def check(self) -> None:
        """Raise UserError when it cannot be used, as far as that is seen without TensorFlow."""

    def open(self) -> None:
        """Prepare for the first picture. UserError when it cannot be used."""

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the picture of a layout. photo: uint8 (256, 256, 3), for generators with an
        encoder. UserError when there is none to be had."""


def find(
    text: str, timeout: float = TIMEOUT, retries: int = RETRIES, **limits: float
) -> Generator | None:
    """Return the generator that an hparam names: an address, a weights file, or 'none' (None).
    timeout, retries, limits: of a RemoteGenerator. UsageError for what looks like an address and is
    none."""
    if text == NONE:
        return None
    if "://" in text:
        return RemoteGenerator(text, timeout, retries, **limits)
    return LocalGenerator(Path(text))


def to_image(picture: np.ndarray) -> Image.Image:
    """Return a picture that a generator made, as one of Pillow."""
    pixels = np.round((np.clip(picture, -1, 1) + 1) * 127.5)
    return Image.fromarray(pixels.astype(np.uint8))


class Health(msgspec.Struct):
    """The answer of /health, None where a server does not say it. queue: requests before ours."""

    weights: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    queue: int | None = None


class Trouble(NamedTuple):
    """An attempt that may do better later."""

    kind: str  # 'down': nobody listens; 'busy': it says so, and lives; 'late'; 'failed': the rest
    sentence: str
    retry_after: float = 0.0  # seconds, as the server asks


class RemoteGenerator:
    """A server with the contract of SPADE/api.py, whoever wrote it."""

    def __init__(
        self,
        address: str,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        pause: float = PAUSE,
        start_seconds: float = START_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """timeout: seconds for an attempt. retries: of attempts that fail while somebody listens.
        The others are as the constants. UsageError for what is no address."""
        try:
            url = parse_url(address)
        except HTTPError:
            url = None
        if url is None or url.scheme not in ("http", "https") or not url.host:
            raise UsageError(f"{address!r} is no address as {DEFAULT}")
        self._url = url.url.rstrip("/")
        self.identity = self._name = url._replace(auth=None).url.rstrip("/")  # without a password
        self._timeout, self._retries, self._pause = timeout, retries, pause
        self._limits = {"down": start_seconds, "busy": busy_seconds}
        self._weights: str | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy would be asked for 127.0.0.1 too

    def check(self) -> None:
        self._weights = self._ask_health().weights
        if self._weights:
            self.identity = self._weights
        else:
            log.warning(
                "the generator at %s does not tell its weights: it is known by its address alone, "
                "and another network behind that would not be noticed", self._name,
            )  # fmt: skip

    def open(self) -> None:
        pass

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        content = {
            "layout": label.tolist(), "instances": instance.tolist(), "real_image": photo.tolist(),
        }  # fmt: skip
        try:
            picture = _picture(self._request("POST", "/", content))
        except ValueError as error:
            raise UserError(f"the generator at {self._name} answered {error}: {START}") from None
        if self._weights and self._ask_health().weights != self._weights:
            raise UserError(
                f"the generator at {self._name} has other weights than at the start; start it with "
                "the earlier ones and run the command again, or choose another results"
            )
        return picture

    def _ask_health(self) -> Health:
        try:
            return _health(self._request("GET", "/health"))
        except RefusedError:
            log.debug("%s has no /health", self._name)  # and is there
            return Health()

    def _request(self, method: str, path: str, content: Any = None) -> bytes:
        """Return the body of the answer, waiting for a server that starts or is busy. UserError
        when there is none or the request is refused."""
        failures, last, since = 0, Trouble("", ""), 0.0
        while True:
            answer = self._attempt(method, path, content)
            if isinstance(answer, bytes):
                if last.kind:
                    log.info("the generator at %s answers again", self._name)
                return answer
            if answer.kind != last.kind:
                since = time.monotonic()
            waited = time.monotonic() - since
            limit = self._limits.get(answer.kind)
            failures += limit is None
            backoff = self._pause * 2 ** min(max(failures - 1, 0), 6)
            wait = max(answer.retry_after, backoff)
            if limit is None:
                done, tried = failures > self._retries, f"tried {failures} times"
            else:
                done, tried = waited >= limit, f"for {waited:.0f} s"
                wait = max(min(wait, limit - waited), self._pause)
            if done:
                raise UnavailableError(self._explain(answer, tried), answer)
            if answer.sentence != last.sentence or limit is None:
                log.warning("%s; again in %.3g s", answer.sentence, wait)
            last = answer
            time.sleep(wait)

    def _explain(self, trouble: Trouble, tried: str) -> str:
        """Return the sentence with which a request is given up."""
        if trouble.kind == "busy":
            return f"{trouble.sentence}, {tried}: run the command again when it has less to do"
        if trouble.kind == "late" and (queue := self._queue()):
            return (
                f"{trouble.sentence}, {tried}; it lives and is busy with {queue} requests: give it "
                "more time with a larger timeout"
            )
        return f"{trouble.sentence}, {tried}: {START}"

    def _attempt(self, method: str, path: str, content: Any = None) -> bytes | Trouble:
        """Ask once; return the body of the answer. RefusedError for an answer that stays."""
        try:
            with self._session.request(
                method, self._url + path, json=content, stream=True, allow_redirects=False,
                timeout=(min(self._timeout, CONNECT_SECONDS), self._timeout),
            ) as answer:  # fmt: skip
                body = _read(answer, time.monotonic() + self._timeout)
        # Addresses and headers of strangers break urllib3 in more ways than requests translates.
        except (requests.RequestException, HTTPError, ValueError) as error:
            cause = f"the generator at {self._name} cannot be reached"
            if _nobody_listens(error):
                return Trouble("down", f"{cause}: nobody listens there ({_reason(error)})")
            late = any(text in _reason(error) for text in ("timed out", LATE))
            return Trouble("late" if late else "failed", f"{cause} ({_reason(error)})")
        status = answer.status_code
        if status == 200:
            return body
        # A stranger may fail at /health, which it does not know.
        if status not in LATER_STATUSES or (path, status) == ("/health", 500):
            raise RefusedError(
                f"the generator at {self._name} refused the request with status "
                f"{status}{_message(body) or '; if it is another server, ' + START}"
            )
        retry_after = _retry_after(answer.headers.get("Retry-After"))
        queue = self._queue() if retry_after is not None and path == "/" else None
        if queue is not None:
            return Trouble("busy", f"the generator at {self._name} is busy: {queue} requests "
                           "before ours", retry_after)  # fmt: skip
        cause = f"the generator at {self._name} failed with status {status}{_message(body)}"
        return Trouble("failed", cause, retry_after or 0.0)

    def _queue(self) -> int | None:
        """Return how many requests a server says that it has; None when it does not say so."""
        try:
            answer = self._attempt("GET", "/health")
        except RefusedError:
            return None
        return _health(answer).queue if isinstance(answer, bytes) else None


class UnavailableError(UserError):
    """A server did not answer in time, or has too much to do. trouble: the last attempt's."""

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble


class RefusedError(UserError):
    """A server answered, but not with what was asked for."""


def _health(body: bytes) -> Health:
    """Read an answer of /health; that of another server says nothing."""
    try:
        return msgspec.json.decode(body, type=Health)
    except (ValueError, RecursionError):
        return Health()


def _nobody_listens(error: Exception) -> bool:
    reason = getattr(next(iter(error.args), None), "reason", None)
    return isinstance(reason, NewConnectionError) and not isinstance(reason, NameResolutionError)


def _retry_after(text: str | None) -> float | None:
    """Return the seconds in a Retry-After, at most 5 min; None without one."""
    try:
        return None if text is None else min(Retry().parse_retry_after(text), 300.0)
    except (HTTPError, ValueError, OverflowError):
        return None


def _read(answer: requests.Response, deadline: float) -> bytes:
    """Read an answer's body. ValueError when it is too large or not complete in time."""
    body = b""
    # Not by `iter_content`, which waits for a whole chunk, however slowly it comes.
    while chunk := answer.raw.read1(1 << 16, decode_content=True):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ValueError(f"it answered more than {MAX_ANSWER >> 20} MB")
        if time.monotonic() > deadline:
            raise ValueError(LATE)
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

    identity = ""

    def __init__(self, path: Path):
        self._path, self._network = path, None

    def check(self) -> None:
        if not self._path.is_file():
            raise UserError(
                f"there is no weights file {self._path}; generator is an address as {DEFAULT}, a "
                "weights file, or none"
            )

    def open(self) -> None:
        from SPADE import weights  # here, because it imports TensorFlow

        if self._network is None:
            self.check()
            self.identity = sha256(self._path)
            self._network = weights.load_generator(self._path)
            if sha256(self._path) != self.identity:
                raise UserError(f"{self._path} was replaced while it was read: start again")

    def generate(self, label: np.ndarray, instance: np.ndarray, photo: np.ndarray) -> np.ndarray:
        from models.layers import semantic, spade

        self.open()
        label, instance = label[None], instance[None]
        semantic.check_layout(label, instance, spade.SCALE)
        return self._network(semantic.semantic_maps(label, instance))[0].numpy()
